#!/usr/bin/env bash
# Lint and every test, from nothing:
#   bash tests/run.sh [--slow]
# Makes .venv-test (again only when setup.py changes), then runs ruff, the unit
# tests, those marked multidevice and the smoke tests, one after another, each
# in as many processes as there are cores (four at most).
# --slow adds the tests marked slow. Exits non-zero if any step failed.
set -euo pipefail

slow=' and not slow'
case "${1:-}" in
  '') ;;
  --slow) slow= ;;
  *)
    sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    [[ "$1" == -h || "$1" == --help ]] && exit 0
    exit 2
    ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
make_environment .venv-test '[test]'
bin=$PWD/.venv-test/bin
cores=$(nproc 2> /dev/null || echo 2)
failed=0
summary=()

# step NAME COMMAND...: runs it, notes how it went, goes on.
step() {
  local name=$1 code=0 start=$SECONDS outcome=passed
  shift
  echo "== $name"
  "$@" || code=$?
  if [[ $code -ne 0 ]]; then
    outcome="FAILED (exit $code)"
    failed=1
  fi
  summary+=("$(printf '%-14s %s, %ds' "$name" "$outcome" $((SECONDS - start)))")
}

# run_pytest MARKS PATHS...: the tests with these marks, which there must be.
run_pytest() {
  local marks=$1
  shift
  "$bin/python" -m pytest -q -n "$((cores < 4 ? cores : 4))" --dist loadfile \
    -m "$marks$slow" "$@"
}

step 'ruff check' "$bin/ruff" check .
step 'ruff format' "$bin/ruff" format --check .
step unit run_pytest 'not multidevice' tests --ignore=tests/smoke
step multi-device run_pytest multidevice tests
step smoke run_pytest 'not multidevice' tests/smoke

echo '== summary'
printf '%s\n' "${summary[@]}"
exit "$failed"
