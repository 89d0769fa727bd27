# Sourced by the scripts of launch/: their options, --help and --dry-run.
# A script sets its options to their defaults, calls read_options, then `run`
# or `run_last` with each command; with --dry-run these print it instead.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dry_run=
positional=() # arguments before --
words=()      # arguments after --

# Codes after which the same command goes on where it was: told to stop and
# saved (42), ended by jax as another host went away (134), killed (137, 143).
# shellcheck disable=SC2034
restart_codes=42,134,137,143

# The comment at the top of the script that is running.
usage() {
  sed -n '2,$ { /^#/! q; s/^# \{0,1\}//; p; }' "$0"
}

# fail MESSAGE: ends the script with exit code 2.
fail() {
  printf 'error: %s\n(bash launch/%s --help)\n' "$1" "$(basename "$0")" >&2
  exit 2
}

# read_options 'NAME...' 'SWITCH...' ARGUMENT...: --NAME=VALUE sets the variable
# NAME and --SWITCH sets SWITCH to 1, with _ for each -.
read_options() {
  # Names that no option has: it could not be set in here.
  local _values _switches _word _name
  _values=" ${1//$'\n'/ } " _switches=" $2 dry-run "
  shift 2
  while [[ $# -gt 0 ]]; do
    _word=$1 _name=${1#--}
    _name=${_name%%=*}
    shift
    case "$_word" in
      -h | --help)
        usage
        exit 0
        ;;
      --)
        words=("$@")
        return
        ;;
      --config* | --workdir*)
        fail "$_word belongs after -- (what comes before are launch options)" ;;
      --*=*)
        [[ "$_values" == *" $_name "* ]] || fail "unknown option --$_name=..."
        printf -v "${_name//-/_}" '%s' "${_word#*=}"
        ;;
      --*)
        [[ "$_values" != *" $_name "* ]] || fail "$_word needs a value: $_word=..."
        [[ "$_switches" == *" $_name "* ]] || fail "unknown option $_word"
        printf -v "${_name//-/_}" 1
        ;;
      -*) fail "unknown option $_word" ;;
      *) positional+=("$_word") ;;
    esac
  done
}

# no_positional: for scripts that only know options.
no_positional() {
  if [[ ${#positional[@]} -gt 0 ]]; then
    fail "unexpected argument '${positional[0]}'"
  fi
}

# check NAME PATTERN WHAT: the option has a value of this form.
check() {
  local value=${!1} name=--${1//_/-}
  [[ -n "$value" ]] || fail "$name=... is missing: $3"
  [[ "$value" =~ ^($2)$ ]] || fail "$name=$value is not $3"
}

# quote WORD...: one line that a shell reads as these words.
quote() {
  local word text=
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      text+=" $word"
    elif [[ "$word" == *[\'[:cntrl:]]* ]]; then
      text+=" $(printf '%q' "$word")"
    else
      text+=" '$word'"
    fi
  done
  printf '%s' "${text# }"
}

# run COMMAND...: runs it; prints it with --dry-run.
run() {
  if [[ -n "$dry_run" ]]; then
    printf '%s\n' "$(quote "$@")"
  else
    "$@"
  fi
}

# run_last COMMAND...: the same in place of this script, so that signals and the
# exit code are the command's.
run_last() {
  if [[ -z "$dry_run" ]]; then
    exec "$@"
  fi
  run "$@"
  exit
}

# set_command PYTHON FLAG...: `command` becomes what to run: the words after --,
# or where these are flags, rlaif_jax.main with FLAGs and with them.
set_command() {
  local python=$1
  shift
  [[ ${#words[@]} -gt 0 ]] \
    || fail 'nothing to run: give --config=... --workdir=..., or a command, after --'
  # shellcheck disable=SC2034
  if [[ "${words[0]}" == -* ]]; then
    command=("$python" -m rlaif_jax.main "$@" "${words[@]}")
  else
    command=("${words[@]}")
  fi
}

# The Python of this machine: $PYTHON, an active environment's, that of
# launch/quickstart.sh and launch/worker.sh, or any.
this_python() {
  if [[ -n "${PYTHON:-}" ]]; then
    echo "$PYTHON"
  elif [[ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" \
    && -x "$root/.venv/bin/python" ]]; then
    echo "$root/.venv/bin/python"
  else
    echo python
  fi
}

# read_tpu TPU: sets generation, topology and chips from 'v5e:4x4' and the like.
read_tpu() {
  [[ "$1" =~ ^(v4|v5e|v5p|v6e|tpu7x):([0-9]+(x[0-9]+){1,2})$ ]] \
    || fail "--tpu=$1 is not a generation and topology such as v5e:4x4 or v5p:2x2x4"
  # shellcheck disable=SC2034
  generation=${BASH_REMATCH[1]} topology=${BASH_REMATCH[2]}
  # shellcheck disable=SC2034
  chips=$((${topology//x/ * }))
}
