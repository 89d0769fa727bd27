#!/usr/bin/env bash
# A run on Google Kubernetes Engine, as a JobSet (launch/jobset.yaml filled in).
#
#   bash launch/gke.sh apply NAME --image=IMAGE (--tpu=v5e:4x4 | --gpus=8)
#        --bucket=BUCKET [OPTIONS] -- FLAGS OF rlaif_jax.main, OR A COMMAND
#   bash launch/gke.sh status NAME
#   bash launch/gke.sh logs NAME [--follow]
#   bash launch/gke.sh delete NAME                   it saves and leaves
#
#   --tpu=...             v4:2x2x4, v5e:4x4, v5p:2x2x4, v6e:8x8, tpu7x:2x2x2
#   --slices=1            of TPUs, joined by the data centre's network
#   --chips-per-host=4    of TPUs; as many as there are where they are fewer
#   --gpus=8 --hosts=1    GPUs of each host, and hosts
#   --gpu-type=nvidia-h100-80gb
#   --spot                on spot nodes
#   --bucket=BUCKET       Cloud Storage bucket that every host sees as runs/
#   --service-account=default        of Kubernetes; it needs the bucket
#   --max-restarts=20     after preemption
#   --dry-run             print the JobSet, or the command, instead
#
# The image holds the repository, installed, in /app (launch/Dockerfile):
#   docker build -f launch/Dockerfile --build-arg EXTRAS=tpu -t IMAGE .
# The cluster needs JobSet and node pools of this kind, and kubectl points to it.
# With xpk instead: xpk workload create --workload=NAME --docker-image=IMAGE \
#   --tpu-type=v5litepod-16 --command='python -m rlaif_jax.main --distributed ...'
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

image='' tpu='' slices=1 chips_per_host=4 gpus='' hosts=1 bucket=''
gpu_type=nvidia-h100-80gb service_account=default max_restarts=20 spot=''
follow=''
read_options 'image tpu slices chips-per-host gpus hosts gpu-type bucket
  service-account max-restarts' 'spot follow' "$@"
action=${positional[0]:-} name=${positional[1]:-}
case "$action" in
  apply | status | logs | delete) ;;
  '') fail 'do what? apply, status, logs or delete' ;;
  *) fail "unknown action '$action'" ;;
esac
[[ ${#positional[@]} -le 2 ]] || fail "unexpected argument '${positional[2]}'"
[[ "$name" =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] \
  || fail "'$name' is no name: small letters, digits and -, up to 40"

# json WORD...: a list of strings.
json() {
  local word text=''
  for word in "$@"; do
    word=${word//\\/\\\\}
    text+=", \"${word//\"/\\\"}\""
  done
  printf '[%s]' "${text#, }"
}

# Sets what the template asks for: `holds`, and the values that are not options.
hardware() {
  holds=(always)
  if [[ -n "$tpu" ]]; then
    read_tpu "$tpu"
    holds+=(tpu) platforms=tpu,cpu
    case "$generation" in
      v4) accelerator='tpu-v4-podslice' ;;
      v5e) accelerator='tpu-v5-lite-podslice' ;;
      v5p) accelerator='tpu-v5p-slice' ;;
      v6e) accelerator='tpu-v6e-slice' ;;
      *) accelerator=$generation ;;
    esac
    [[ $chips_per_host -le $chips ]] || chips_per_host=$chips
    [[ $((chips % chips_per_host)) -eq 0 ]] \
      || fail "$chips chips are not several times --chips-per-host=$chips_per_host"
    hosts=$((chips / chips_per_host)) chips=$chips_per_host
  else
    holds+=(gpu) platforms=cuda,cpu
    accelerator=$gpu_type chips=$gpus topology='' slices=1
    [[ "$hosts" -eq 1 ]] || holds+=(multi)
  fi
  [[ -z "$spot" ]] || holds+=(spot)
  [[ -z "$bucket" ]] || holds+=(bucket)
}

# The template with its values.
jobset() {
  local text conditions pair flags=()
  # TPU hosts find one another by what GKE tells them.
  if [[ -n "$tpu" && $((hosts * slices)) -gt 1 ]]; then
    flags=(--distributed)
  fi
  set_command python ${flags[@]+"${flags[@]}"}
  conditions=$(IFS='|' && echo "${holds[*]}")
  text=$(sed -E "1,2d; s/ #if ($conditions)\$//; / #if [a-z]+\$/d" \
    "$root/launch/jobset.yaml")
  for pair in "NAME=$name" "RESTARTS=$max_restarts" "SLICES=$slices" \
    "HOSTS=$hosts" "CODES=$restart_codes" "ACCOUNT=$service_account" \
    "ACCELERATOR=$accelerator" "TOPOLOGY=$topology" "IMAGE=$image" \
    "PLATFORMS=$platforms" "CHIPS=$chips" "BUCKET=$bucket" \
    "COMMAND=$(json "${command[@]}")"; do
    text=${text//"@${pair%%=*}@"/"${pair#*=}"}
  done
  printf '%s\n' "$text"
}

apply() {
  check image '[^[:space:]]+' 'the image to run'
  [[ -n "$tpu$gpus" ]] || fail 'on what? --tpu=v5e:4x4 or --gpus=8'
  [[ -z "$tpu" || -z "$gpus" ]] || fail 'either --tpu or --gpus'
  [[ -n "$tpu" ]] || check gpus '[1-9][0-9]*' 'a number of 1 or more'
  for option in slices chips_per_host hosts; do
    check "$option" '[1-9][0-9]*' 'a number of 1 or more'
  done
  check max_restarts '[0-9]+' 'a whole number'
  check gpu_type '[a-z0-9-]+' 'a kind of GPU such as nvidia-h100-80gb'
  check service_account '[a-z0-9.-]+' 'a Kubernetes service account'
  [[ -z "$bucket" ]] || check bucket '[a-z0-9_.-]+' 'the name of a bucket'
  if [[ "${words[*]}" == *[[:cntrl:]]* ]]; then
    fail 'the command holds a line break'
  fi
  hardware
  local text
  text=$(jobset)
  if [[ -n "$dry_run" ]]; then
    printf '%s\n' "$text"
  else
    kubectl apply -f - <<< "$text"
  fi
}

pods=--selector=jobset.sigs.k8s.io/jobset-name=$name
case "$action" in
  apply) apply ;;
  status)
    run kubectl get jobset "$name"
    run kubectl get pods "$pods"
    ;;
  logs)
    run_last kubectl logs "$pods,batch.kubernetes.io/job-completion-index=0" \
      --container=main --tail=100 ${follow:+--follow}
    ;;
  delete) run_last kubectl delete jobset "$name" ;;
esac
