#!/bin/sh
# Make the virtual environment $1 from uv.lock. Needs Python 3.11 or newer and nothing else.
set -eu
venv=$1
python=${PYTHON:-python3}
"$python" - <<'EOF' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit("setup: python is %d.%d, expected 3.11 or newer; hint: make PYTHON=/path/to/python3.11" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("setup: python has no venv; hint: apt-get install python3-venv")
EOF
uv_version=0.13.9
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
VIRTUAL_ENV=$(cd "$venv" && pwd) UV_PROJECT_ENVIRONMENT=$(cd "$venv" && pwd) UV_PYTHON_DOWNLOADS=never \
    "$venv/bin/uv" sync --quiet --frozen --all-extras --inexact \
    --compile-bytecode
# The launcher starts with every program: where Python may not write bytecode later, it is there.
"$venv/bin/python" -m compileall -q src/crannog
