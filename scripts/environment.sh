# Sourced by the other scripts: makes or reuses .venv and installs this checkout into it.
#
#   ensure_environment EXTRAS    EXTRAS as in 'test' or 'test,parity'; may be empty
#
# PYTHON names the interpreter that makes .venv (default: python3.11, else python3).

ensure_environment() {
  local extras="$1" python stamp wanted
  python="${PYTHON:-$(command -v python3.11 || command -v python3 || true)}"
  if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed; name one, as in PYTHON=/usr/bin/python3.11 $0" >&2
    return 1
  fi
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "== Making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
  fi
  stamp=.venv/installed-for
  wanted="${extras:-core} $(cat setup.py pyproject.toml constraints.txt | cksum) $PWD"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "== Reusing .venv (${extras:-core})"
  else
    echo "== Installing into .venv (${extras:-core}); a few minutes the first time"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --constraint constraints.txt --editable ".${extras:+[$extras]}"
    printf '%s\n' "$wanted" >"$stamp"
  fi
}
