#!/usr/bin/env bash
# Trains the tiny world's labelers and puts them into the package.
#
#   bash launch/ship_labelers.sh [RUNS_FOLDER]     (default runs/labelers)
#
# One to two hours on 2 CPU cores. Safe to run again: what is finished
# is not repeated. Overwrites rlaif_jax/tiny_world/{xs,s,l}.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-runs/labelers}
for size in xs s l; do
  "${PYTHON:-python}" -m rlaif_jax.main \
    --config="configs/tiny_labelers.py:size=$size" --workdir="$runs/$size"
  rm -rf "rlaif_jax/tiny_world/$size"
  cp -r "$runs/$size/labeler/model" "rlaif_jax/tiny_world/$size"
  chmod -R a+rX "rlaif_jax/tiny_world/$size"
done
