#!/usr/bin/env bash
# TPU VM slices of Google Cloud: from creating one to deleting it.
#
#   bash launch/tpu.sh create NAME --zone=ZONE --tpu=v5e:4x4 [--spot] [--queued]
#   bash launch/tpu.sh setup NAME --zone=ZONE [--bucket=BUCKET]
#   bash launch/tpu.sh run NAME --zone=ZONE -- FLAGS OF rlaif_jax.main
#   bash launch/tpu.sh logs NAME --zone=ZONE [--worker=0] [--follow]
#   bash launch/tpu.sh status NAME --zone=ZONE
#   bash launch/tpu.sh stop NAME --zone=ZONE       it saves and leaves
#   bash launch/tpu.sh ssh NAME --zone=ZONE -- COMMAND      on every host
#   bash launch/tpu.sh delete NAME --zone=ZONE [--queued]
#
#   --tpu=...            v4:2x2x4, v5e:4x4, v5p:2x2x4, v6e:8x8: the topology
#   --spot               cheaper, may be taken away
#   --queued             a queued request: it waits until there is room
#   --valid-for=24h      how long it waits
#   --project=..., --runtime=...      of gcloud, where not the defaults
#   --bucket=BUCKET      Cloud Storage bucket that every host sees as runs/
#   --max-restarts=20    of launch/babysit.sh, under which the run is
#   --dry-run            print the commands instead
#
# setup copies the working tree to every host (again, after changes); run starts
# one process on each, in the background. A slice of several hosts needs a
# bucket, as checkpoints are written together. Once a spot slice was taken away:
# delete, create, setup, run with the same workdir, and it goes on. This API
# knows no TPU7x; for that and for new v5p and v6e fleets see launch/gke.sh.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

zone='' tpu='' project='' runtime='' valid_for=24h bucket='' worker=0
max_restarts=20 spot='' queued='' follow=''
read_options 'zone tpu project runtime valid-for bucket worker max-restarts' \
  'spot queued follow' "$@"
action=${positional[0]:-} name=${positional[1]:-}
case "$action" in
  create | setup | run | logs | status | stop | ssh | delete) ;;
  '') fail 'do what? create, setup, run, logs, status, stop, ssh or delete' ;;
  *) fail "unknown action '$action'" ;;
esac
[[ -n "$name" ]] || fail "$action which slice? give its name"
[[ ${#positional[@]} -le 2 ]] || fail "unexpected argument '${positional[2]}'"
check zone '[a-z0-9-]+' 'a zone such as us-west4-a'
check max_restarts '[0-9]+' 'a whole number'
check worker '[0-9]+|all' 'the number of a host, or all'
check valid_for '[0-9]+[smhd]' 'a time such as 24h'
cd "$root"

where=("--zone=$zone")
[[ -z "$project" ]] || where+=("--project=$project")
archive=.cache/launch/source.tar.gz

# on WORKER COMMAND: runs it on one host, or on all.
on() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" \
    "--command=$2"
}

# there COMMAND: the same in the copied tree.
there() {
  on "$1" "cd rlaif_jax && $2"
}

create() {
  [[ -n "$tpu" ]] || fail '--tpu=... is missing: such as v5e:4x4'
  read_tpu "$tpu"
  local kind=() image
  case "$generation" in
    v4) image='tpu-ubuntu2204-base' ;;
    v5e) image='v2-alpha-tpuv5-lite' kind=("--accelerator-type=v5litepod-$chips") ;;
    v5p) image='v2-alpha-tpuv5' ;;
    v6e) image='v2-alpha-tpuv6e' kind=("--accelerator-type=v6e-$chips") ;;
    *) fail "this API has no $generation; use launch/gke.sh" ;;
  esac
  # In three dimensions one number of chips has several topologies.
  [[ ${#kind[@]} -gt 0 ]] || kind=("--type=$generation" "--topology=$topology")
  if [[ -n "$queued" ]]; then
    run gcloud compute tpus queued-resources create "$name" \
      "--node-id=$name" "${where[@]}" "${kind[@]}" \
      "--runtime-version=${runtime:-$image}" \
      "--valid-until-duration=$valid_for" ${spot:+--spot}
  else
    run gcloud compute tpus tpu-vm create "$name" "${where[@]}" "${kind[@]}" \
      "--version=${runtime:-$image}" ${spot:+--spot}
  fi
}

setup() {
  run mkdir -p "$(dirname "$archive")"
  run tar -czf "$archive" --exclude=./.git --exclude='./.venv*' \
    --exclude=./.cache --exclude=./runs --exclude=__pycache__ .
  run gcloud compute tpus tpu-vm scp "$archive" "$name:rlaif_jax.tar.gz" \
    "${where[@]}" --worker=all
  on all 'mkdir -p rlaif_jax && tar -xzf rlaif_jax.tar.gz -C rlaif_jax'
  there all 'bash launch/worker.sh setup tpu'
  if [[ -n "$bucket" ]]; then
    there all "bash launch/worker.sh mount $(quote "$bucket")"
  fi
}

start() {
  [[ ${#words[@]} -gt 0 ]] \
    || fail 'nothing to run: give --config=... --workdir=... after --'
  # jax asks the TPU for the other hosts; one host alone is fine as well.
  [[ "${words[0]}" != -* ]] || words=(--distributed "${words[@]}")
  there all "bash launch/worker.sh start --max-restarts=$max_restarts -- $(
    quote "${words[@]}"
  )"
}

case "$action" in
  create) create ;;
  setup) setup ;;
  run) start ;;
  logs) there "$worker" "bash launch/worker.sh logs${follow:+ --follow}" ;;
  status)
    if [[ -n "$queued" ]]; then
      run gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
        '--format=value(state.state)'
    fi
    run gcloud compute tpus tpu-vm describe "$name" "${where[@]}" \
      '--format=value(state,health)'
    there all 'bash launch/worker.sh status'
    ;;
  stop) there all 'bash launch/worker.sh stop' ;;
  ssh)
    [[ ${#words[@]} -gt 0 ]] || fail 'run what? give a command after --'
    there all "$(quote "${words[@]}")"
    ;;
  delete)
    if [[ -n "$queued" ]]; then
      run gcloud compute tpus queued-resources delete "$name" "${where[@]}" \
        --force --quiet
    else
      run gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
    fi
    ;;
esac
