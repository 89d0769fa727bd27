#!/usr/bin/env bash
# Trains the tiny world's labelers and puts them into the package.
#
#   bash launch/ship_labelers.sh [RUNS_FOLDER]     (default runs/labelers)
#
# Three to four hours on 2 CPU cores. Safe to run again: what is finished
# is not repeated. Overwrites rlaif_jax/tiny_world/{xs,s,l,asked}.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-runs/labelers}

ship() { # CONFIG_ARGUMENT WORKDIR STEP NAME
  "${PYTHON:-python}" -m rlaif_jax.main \
    --config="configs/tiny_labelers.py:$1" --workdir="$2"
  rm -rf "rlaif_jax/tiny_world/$4"
  mkdir -p "rlaif_jax/tiny_world/$(dirname "$4")"
  cp -r "$2/$3/model" "rlaif_jax/tiny_world/$4"
  chmod -R a+rX "rlaif_jax/tiny_world/$4"
}

for size in xs s l; do
  ship "size=$size" "$runs/$size" labeler "$size"
done
# These start from the ones above.
for size in xs s l; do
  ship "size=$size,asked" "$runs/asked/$size" . "asked/$size"
done
