#!/usr/bin/env bash
# Several local CPU processes, each a host with fake devices of its own.
#
#   bash launch/local.sh [OPTIONS] -- FLAGS OF rlaif_jax.main, OR A COMMAND
# e.g. bash launch/local.sh -- --config=configs/sft.py:smoke --workdir=runs/two
#
#   --processes=2      how many
#   --devices=2        fake devices of each
#   --port=PORT        of the coordinator; a free one by default
#   --logs=runs/local  output of process 1, 2, ... (that of process 0 is shown)
#   --grace=60         seconds that the others get once one has failed
#   --dry-run          print the commands instead
#
# For trying multi-host runs without hosts. SIGTERM and Ctrl-C are passed on as
# SIGTERM: the processes save together and leave. The exit code is that of the
# first process to fail. A command finds JAX_COORDINATOR_ADDRESS,
# JAX_NUM_PROCESSES and JAX_PROCESS_ID in its environment. Paths are relative to
# the repository.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

processes=2 devices=2 port='' logs=runs/local grace=60
read_options 'processes devices port logs grace' '' "$@"
no_positional
for option in processes devices; do
  check "$option" '[1-9][0-9]*' 'a number of 1 or more'
done
check grace '[0-9]+' 'a whole number'
python=$(this_python)
set_command "$python"
cd "$root"
if [[ -z "$port" ]]; then
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0))
print(s.getsockname()[1])')
fi
check port '[0-9]+' 'a port such as 9911'

host() {
  host=(env "JAX_COORDINATOR_ADDRESS=localhost:$port"
    "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$1"
    JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices" "${command[@]}")
}

if [[ -n "$dry_run" ]]; then
  for ((i = processes - 1; i > 0; i--)); do
    host "$i"
    echo "$(quote "${host[@]}") > $(quote "$logs/$i.log") 2>&1 &"
  done
  host 0
  run_last "${host[@]}"
fi

pids=() codes=()
trap 'kill -TERM "${pids[@]}" 2> /dev/null || true' TERM INT HUP
mkdir -p "$logs"
for ((i = 0; i < processes; i++)); do
  host "$i"
  if [[ $i -eq 0 ]]; then
    "${host[@]}" &
  else
    "${host[@]}" > "$logs/$i.log" 2>&1 &
  fi
  pids+=($!) codes+=('')
done

# report INDEX CODE: says that a process failed, with the end of its log.
report() {
  echo "local: process $1 ended with code $2" >&2
  if [[ $1 -gt 0 ]]; then
    echo "local: $logs/$1.log ends with" >&2
    tail -n 5 "$logs/$1.log" >&2
  fi
}

first=0 deadline=
while true; do
  running=0
  for i in "${!pids[@]}"; do
    [[ -z "${codes[i]}" ]] || continue
    if kill -0 "${pids[i]}" 2> /dev/null; then
      running=$((running + 1))
      continue
    fi
    codes[i]=0
    wait "${pids[i]}" || codes[i]=$?
    if [[ ${codes[i]} -ne 0 && $first -eq 0 ]]; then
      first=${codes[i]} deadline=$((SECONDS + grace))
      report "$i" "$first"
    fi
  done
  [[ $running -gt 0 ]] || exit "$first"
  if [[ -n "$deadline" && $SECONDS -ge $deadline ]]; then
    kill -KILL "${pids[@]}" 2> /dev/null || true
  fi
  sleep 0.2
done
