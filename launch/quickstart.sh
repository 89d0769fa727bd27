#!/usr/bin/env bash
# Runs the whole main job on the embedded tiny world, from nothing:
#   bash launch/quickstart.sh [WORKDIR] [FURTHER ARGUMENTS OF rlaif_jax.main]
# e.g. bash launch/quickstart.sh runs/mine --config.steps.rlaif.num_steps=200
# WORKDIR is runs/quickstart of the repository unless given. The first call
# makes .venv and installs the package. Interrupted? Run it again: it continues.
set -euo pipefail

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
  sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit
fi
workdir=runs/quickstart
if [[ $# -gt 0 && "$1" != -* ]]; then
  workdir=$1
  shift
  # Relative to where the caller stands; gs:// and the like stay.
  if [[ "$workdir" != /* && "$workdir" != *://* ]]; then
    workdir=$PWD/$workdir
  fi
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
make_environment .venv
exec .venv/bin/python -m rlaif_jax.main --config=configs/rlaif.py \
  --workdir="$workdir" "$@"
