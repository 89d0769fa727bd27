#!/usr/bin/env bash
# One machine with GPUs: one process that uses all of them, or those named.
#
#   bash launch/gpu.sh [OPTIONS] -- FLAGS OF rlaif_jax.main, OR A COMMAND
# e.g. bash launch/gpu.sh --setup -- --config=configs/rlaif.py \
#          --workdir=runs/gpu --config.mesh.data=1 --config.mesh.fsdp=8
#
#   --gpus=0,1      which; all by default
#   --memory=0.9    share of each GPU's memory that XLA takes
#   --setup         first make .venv with the package and CUDA 12
#   --dry-run       print the commands instead
#
# A machine without a working GPU is an error, never a run on CPU. Paths are
# relative to the repository. For a run that outlives the terminal, or restarts:
# bash launch/worker.sh start -- bash launch/gpu.sh -- ...
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

gpus='' memory=0.9 setup=
read_options 'gpus memory' 'setup' "$@"
no_positional
[[ -z "$gpus" ]] || check gpus '[0-9]+(,[0-9]+)*' 'a list of GPUs such as 0,1'
check memory '0?\.[0-9]+' 'a share such as 0.9'
python=$(this_python)
if [[ -n "$setup" ]]; then
  python=.venv/bin/python
fi
set_command "$python"
cd "$root"
if [[ -n "$setup" ]]; then
  run bash launch/worker.sh setup cuda12
fi
visible=()
if [[ -n "$gpus" ]]; then
  visible=("CUDA_VISIBLE_DEVICES=$gpus")
fi
run_last env JAX_PLATFORMS=cuda,cpu "XLA_PYTHON_CLIENT_MEM_FRACTION=$memory" \
  ${visible[@]+"${visible[@]}"} "${command[@]}"
