#!/usr/bin/env bash
# Runs a command again and again while it ends with a code of preemption.
#
#   bash launch/babysit.sh [OPTIONS] -- COMMAND...
# e.g. bash launch/babysit.sh -- --config=configs/rlaif.py --workdir=runs/mine
#
#   --codes=42,134,137,143  exit codes after which the same command goes on
#   --max-restarts=20       in a row; then the last code is passed on
#   --wait=10               seconds before the first restart, doubled each time
#   --max-wait=300          up to this
#   --healthy=1800          a run of so many seconds starts both counts afresh
#   --dry-run               print the command instead
#
# Flags instead of a command are those of rlaif_jax.main. Any other code is
# passed on. SIGTERM and Ctrl-C are passed to the command as SIGTERM (it saves
# and leaves), and after them nothing is started again.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

codes=$restart_codes max_restarts=20 wait=10 max_wait=300 healthy=1800
read_options 'codes max-restarts wait max-wait healthy' '' "$@"
no_positional
check codes '[0-9]+(,[0-9]+)*' 'a list of exit codes such as 42,143'
for option in max_restarts wait max_wait healthy; do
  check "$option" '[0-9]+' 'a whole number'
done
set_command "$(this_python)"
if [[ -n "$dry_run" ]]; then
  run_last "${command[@]}"
fi

child='' told=''
pass_on() {
  told=1
  [[ -z "$child" ]] || kill -TERM "$child" 2> /dev/null || true
}
trap pass_on TERM INT HUP

# wait_for_child: its exit code in `code`. A trapped signal ends `wait` early,
# with the child still there to be waited for; 127 says that it was not.
wait_for_child() {
  local again=0
  code=0
  wait "$child" || code=$?
  while [[ -n "$told" && $again -ne 127 ]]; do
    again=0
    wait "$child" 2> /dev/null || again=$?
    [[ $again -eq 127 ]] || code=$again
    kill -0 "$child" 2> /dev/null || break
  done
  child=
}

restarts=0 pause=$wait
while true; do
  start=$SECONDS
  "${command[@]}" &
  child=$!
  [[ -z "$told" ]] || kill -TERM "$child"
  wait_for_child
  if [[ -n "$told" || ",$codes," != *",$code,"* ]]; then
    exit "$code"
  fi
  if [[ $((SECONDS - start)) -ge $healthy ]]; then
    restarts=0 pause=$wait
  fi
  if [[ $restarts -ge $max_restarts ]]; then
    echo "babysit: exit code $code after $restarts restarts; giving up" >&2
    exit "$code"
  fi
  restarts=$((restarts + 1))
  echo "babysit: exit code $code; restart $restarts of $max_restarts in" \
    "$pause s" >&2
  sleep "$pause" &
  child=$!
  last=$code
  wait_for_child
  if [[ -n "$told" ]]; then
    exit "$last"
  fi
  pause=$((pause * 2 < max_wait ? pause * 2 : max_wait))
done
