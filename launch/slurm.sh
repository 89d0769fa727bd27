#!/usr/bin/env bash
# Submits a run to Slurm: one process a node, or one a GPU.
#
#   bash launch/slurm.sh [OPTIONS] -- FLAGS OF rlaif_jax.main, OR A COMMAND
# e.g. bash launch/slurm.sh --nodes=2 --gpus=8 --time=24:00:00 -- \
#          --config=configs/rlaif.py --workdir=runs/slurm --config.mesh.fsdp=16
#
#   --nodes=1           --gpus=8       of each node; 0: CPU only
#   --per=node          or gpu: processes
#   --time=24:00:00     --name=rlaif   --partition=, --account=
#   --cpus=8            of each process
#   --array=0-7%2       a job array (see launch/sweep.py)
#   --sbatch='--qos=high --exclusive'  further options of sbatch
#   --logs=runs/slurm   folder of the output
#   --max-restarts=20   of a job that was preempted or saved before its limit
#   --dry-run           print the batch script instead of submitting it
#
# Call it where the nodes see the same files, with an environment that they see
# (.venv by `bash launch/worker.sh setup cuda12`, or PYTHON=...). Processes find
# one another by Slurm's variables. Two minutes before the limit, and when Slurm
# preempts it, the run saves; the job is then queued again and goes on.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nodes=1 gpus=8 per=node time=24:00:00 name=rlaif partition='' account=''
cpus=8 array='' sbatch='' logs=runs/slurm max_restarts=20
read_options 'nodes gpus per time name partition account cpus array sbatch logs
  max-restarts' '' "$@"
no_positional
check nodes '[1-9][0-9]*' 'a number of 1 or more'
check cpus '[1-9][0-9]*' 'a number of 1 or more'
check gpus '[0-9]+' 'a whole number'
check max_restarts '[0-9]+' 'a whole number'
check per 'node|gpu' 'node or gpu'
check time '[0-9:-]+' 'a time such as 24:00:00 or 2-00'
check name '[A-Za-z0-9_.-]+' 'a name of letters, digits, _, . and -'
[[ -z "$array" ]] || check array '[0-9,-]+(%[0-9]+)?' 'an array such as 0-7%2'
[[ "$logs" != *[[:space:]]* ]] || fail '--logs must be a path without spaces'
if [[ "$per" == gpu && "$gpus" -eq 0 ]]; then
  fail '--per=gpu needs --gpus=1 or more'
fi
set_command "$(this_python)"
cd "$root"

tasks=1 environment=(env JAX_PLATFORMS=cpu)
if [[ "$gpus" -gt 0 ]]; then
  environment=(env 'JAX_PLATFORMS=cuda,cpu' XLA_PYTHON_CLIENT_MEM_FRACTION=0.9)
  if [[ "$per" == gpu ]]; then
    tasks=$gpus
  else
    # Under Slurm jax takes one device a process unless told.
    devices=$(seq -s , 0 $((gpus - 1)))
    environment+=("JAX_LOCAL_DEVICE_IDS=$devices")
  fi
fi

batch_script() {
  echo '#!/usr/bin/env bash'
  printf '#SBATCH %s\n' "--job-name=$name" "--nodes=$nodes" \
    "--ntasks-per-node=$tasks" "--cpus-per-task=$cpus" "--time=$time" \
    "--output=$logs/%x-%j.log" --open-mode=append --requeue --signal=TERM@120
  [[ "$gpus" -eq 0 ]] || echo "#SBATCH --gpus-per-node=$gpus"
  [[ -z "$partition" ]] || echo "#SBATCH --partition=$partition"
  [[ -z "$account" ]] || echo "#SBATCH --account=$account"
  [[ -z "$array" ]] || echo "#SBATCH --array=$array"
  [[ -z "$sbatch" ]] || echo "#SBATCH $sbatch"
  cat << END
set -uo pipefail
cd $(quote "$root") || exit
trap : TERM  # the processes save; this shell waits for them
# One of them may end a little before the others have.
srun --kill-on-bad-exit=0 --wait=60 --cpus-per-task=$cpus \\
  $(quote "${environment[@]}" "${command[@]}")
code=\$?
if [[ ",$restart_codes," == *",\$code,"* \\
  && \${SLURM_RESTART_COUNT:-0} -lt $max_restarts \\
  && "\$(squeue -h -j "\$SLURM_JOB_ID" -o %T)" == RUNNING ]]; then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$code"
END
}

if [[ -n "$dry_run" ]]; then
  batch_script
  exit
fi
command -v sbatch > /dev/null || fail 'sbatch is not on the path'
mkdir -p "$logs"
batch_script | sbatch
