# shellcheck shell=bash
# The Python of the tests, in two layers. The packages from PyPI are a cache that every clone shares, keyed by what was asked
# for. On top, each checkout has a small environment of its own that sees those packages and this checkout's worker/: so no
# clone ever runs another clone's worker.

# A Python that can make environments with pip, 3.11 or newer (tomllib).
find_python() {
  local candidate
  for candidate in python3 /usr/bin/python3; do
    "$candidate" -c 'import ensurepip, sys, tomllib, venv' 2>/dev/null && command -v "$candidate" && return
  done
  return 1
}

python_missing_packages() { find_python >/dev/null || echo python3-venv; }

# What pip is asked for: our own list, and what worker/pyproject.toml depends on, its extra "test" included.
python_requirements() {
  "$1" - "$SCRIPTS/python/requirements.txt" "$CHECKOUT/worker/pyproject.toml" <<'PYTHON'
import pathlib, sys, tomllib

ours, worker = map(pathlib.Path, sys.argv[1:])
lines = [line for line in ours.read_text().splitlines() if line and not line.startswith("#")]
if worker.exists():
    project = tomllib.loads(worker.read_text()).get("project", {})
    lines += project.get("dependencies", [])
    # An extra may name the package's own other extras, which are not on PyPI.
    extras = project.get("optional-dependencies", {})
    lines += [item for item in extras.get("test", []) if not item.startswith(project["name"] + "[")]
print("\n".join(lines))
print(f"# for Python {sys.version} at {sys.base_prefix}")
PYTHON
}

# python_prepare: sets VENV, and makes it where it is missing.
python_prepare() {
  local python requirements packages
  python=$(find_python) || die "no Python 3.11 or newer that can make virtual environments: install python3-venv"
  requirements=$(python_requirements "$python") || die "cannot read worker/pyproject.toml"
  packages=$CACHE/python-$(hash_of <<<"$requirements")
  VENV=$packages-for-$CHECKOUT_KEY
  [[ -d $packages ]] || make_packages "$python" "$packages" "$requirements"
  [[ -d $VENV ]] || make_venv "$python" "$packages"
  point_venv_at "$packages"
}

make_packages() {
  local python=$1 packages=$2 requirements=$3 new log=$CACHE/pip.log
  say "fetching Python packages from PyPI (log: $log)"
  new=$(mktemp -d "$CACHE/new-python-XXXXXX")
  {
    "$python" -m venv "$new" &&
      "$new/bin/python" -m pip install --disable-pip-version-check --progress-bar off --no-input -r /dev/stdin
  } <<<"$requirements" >"$log" 2>&1 || {
    rm -rf "$new"
    die "pip could not install: $(grep -m1 '^ERROR' "$log" || echo no reason given), see $log"
  }
  # Programs name their interpreter by its path. Only `python -m` is promised, through the checkout's own environment.
  find "$new/bin" -type f ! -name 'activate*' ! -name 'python*' -delete
  mv -T "$new" "$packages" 2>/dev/null || rm -rf "$new"
}

make_venv() {
  local python=$1 new
  new=$(mktemp -d "$CACHE/new-venv-XXXXXX")
  "$python" -m venv --without-pip "$new" || die "python -m venv failed"
  mv -T "$new" "$VENV" 2>/dev/null || rm -rf "$new"
}

# Adds worker/ and the shared packages to the environment's path. Looked at every time, for worker/ may have got a src/ since.
point_venv_at() {
  local path_file worker=$CHECKOUT/worker wanted
  path_file=$(site_packages "$VENV")/trigger-dispatcher.pth
  [[ ! -d $worker/src ]] || worker+=/src
  wanted=$(printf '%s\nimport site; site.addsitedir("%s")' "$worker" "$(site_packages "$1")")
  [[ ! -f $path_file || $(<"$path_file") != "$wanted" ]] || return 0
  # Renamed into place: a Python that starts just now must not read half of it.
  printf '%s\n' "$wanted" >"$path_file.new"
  mv "$path_file.new" "$path_file"
  "$VENV/bin/python" -c 'import celery, psycopg, pytest' || die "the Python in $VENV does not find its packages"
}

site_packages() { printf '%s\n' "$1"/lib/python3*/site-packages; }

python_env() { export_line TEST_PYTHON "$VENV/bin/python"; }
