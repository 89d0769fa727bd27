# Sourced by launch/quickstart.sh and tests/run.sh:
#   make_environment FOLDER [EXTRAS]
# makes or reuses the virtual environment FOLDER of the repository with the
# package installed in it, editable, with EXTRAS such as [test]. It installs
# again only when setup.py or the Python version has changed.

# Prints the first Python that is new enough; a command that exists but does
# not run (a version manager's stub) is passed over.
find_python() {
  local candidate
  for candidate in python3.12 python3.11 python3.13 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      > /dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo 'error: no Python >= 3.11 found (tried python3.12, python3.11,' \
    'python3.13, python3, python); install one and run this again' >&2
  return 1
}

make_environment() {
  local root folder extras=${2:-} python key
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  folder=$root/$1
  python=$(find_python)
  key="$("$python" --version) $extras $(cksum < "$root/setup.py")"
  if [[ "$(cat "$folder/installed" 2> /dev/null)" == "$key" ]]; then
    return
  fi
  echo "== making the environment $1 ($("$python" --version)): some minutes"
  rm -f "$folder/installed"
  # A folder of another Python, or one that was cut short, starts afresh.
  if [[ "$("$folder/bin/python" --version 2> /dev/null)" \
    != "$("$python" --version)" ]] \
    || ! "$folder/bin/python" -m pip --version > /dev/null 2>&1; then
    "$python" -m venv --clear "$folder"
  fi
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    -e "$root$extras"
  echo "$key" > "$folder/installed"
}
