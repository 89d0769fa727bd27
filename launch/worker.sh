#!/usr/bin/env bash
# What runs on a machine itself: setup, and a run in the background.
#
#   bash launch/worker.sh setup [EXTRAS]    .venv with the package (tpu, cuda12)
#   bash launch/worker.sh mount BUCKET      a Cloud Storage bucket as runs/
#   bash launch/worker.sh start [OPTIONS] -- FLAGS OF rlaif_jax.main, OR A COMMAND
#   bash launch/worker.sh status            is it running, and its last line
#   bash launch/worker.sh logs [--follow]
#   bash launch/worker.sh stop              it saves and leaves
#
#   --max-restarts=20, --codes=...   of launch/babysit.sh, under which it runs
#   --lines=100                      of the log
#   --dry-run                        print the commands instead
#
# launch/tpu.sh calls this on every host of a slice; on a machine of your own
# call it yourself. One run at a time; its log and process id are in
# .cache/launch.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=launch/environment.sh
source "$root/launch/environment.sh"

max_restarts=20 codes=$restart_codes lines=100 follow=
read_options 'max-restarts codes lines' 'follow' "$@"
action=${positional[0]:-} argument=${positional[1]:-}
check lines '[0-9]+' 'a whole number'
cd "$root"
state=.cache/launch
log=$state/log

running() {
  [[ -f $state/pid ]] && kill -0 "$(cat $state/pid)" 2> /dev/null
}

setup() {
  if ! find_python > /dev/null 2>&1; then
    # The machine images of TPUs have an older one.
    run python3 -m pip install --quiet --user uv
    run python3 -m uv python install 3.12
    export PATH=$HOME/.local/bin:$PATH
  fi
  if [[ -n "$dry_run" ]]; then
    echo "source launch/environment.sh; make_environment .venv '[$1]'"
  else
    make_environment .venv "${1:+[$1]}"
  fi
}

# Hosts must see at once what another one wrote, and checkpoints appear by a
# rename of their folder.
mount_bucket() {
  [[ -n "$1" ]] || fail 'mount which bucket?'
  if mountpoint -q runs; then
    return
  fi
  [[ -n "$dry_run" ]] || command -v gcsfuse > /dev/null \
    || fail 'gcsfuse is not installed (see cloud.google.com/storage/docs)'
  run mkdir -p runs
  run gcsfuse --implicit-dirs --rename-dir-limit=200000 \
    --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$1" runs
}

start() {
  set_command .venv/bin/python
  local babysit=(bash launch/babysit.sh "--codes=$codes"
    "--max-restarts=$max_restarts" -- "${command[@]}")
  if [[ -n "$dry_run" ]]; then
    echo "nohup setsid $(quote "${babysit[@]}") >> $log 2>&1 < /dev/null &"
    return
  fi
  ! running || fail "a run is under way (process $(cat $state/pid)); stop it first"
  mkdir -p $state
  nohup setsid "${babysit[@]}" >> $log 2>&1 < /dev/null &
  echo $! > $state/pid
  echo "started; log: $root/$log"
}

stop() {
  if ! running; then
    echo 'nothing is running'
    return
  fi
  run kill -TERM "$(cat $state/pid)"
  while [[ -z "$dry_run" ]] && running; do
    sleep 0.5
  done
}

case "$action" in
  setup) setup "$argument" ;;
  mount) mount_bucket "$argument" ;;
  start) start ;;
  status)
    if running; then
      echo "running (process $(cat $state/pid))"
    else
      echo 'not running'
    fi
    tail -n 1 $log 2> /dev/null || true
    ;;
  logs) run_last tail -n "$lines" ${follow:+-F} $log ;;
  stop) stop ;;
  '') fail 'do what? setup, mount, start, status, logs or stop' ;;
  *) fail "unknown action '$action'" ;;
esac
