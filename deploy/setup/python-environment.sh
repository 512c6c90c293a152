#!/bin/sh
# Makes .venv with what requirements.lock pins. Quick when nothing changed.
set -eu
cd "$(dirname "$0")/../.."
stamp=.venv/.installed
wanted=$(cat requirements.lock pyproject.toml | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && [ -x .venv/bin/python ]; then
  echo "Python environment: up to date"
  exit 0
fi
# The distribution's interpreter and its site packages: libnbd's bindings exist only there.
echo "Python environment: installing requirements.lock into .venv"
# --clear: a package that is no longer pinned must not keep working by accident.
/usr/bin/python3 -m venv --clear --system-site-packages .venv
.venv/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
.venv/bin/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
.venv/bin/python -c 'import nbd, grpc, v2c.disk.v1.disk_pb2' || {
  echo "The environment does not work; remove .venv and run make setup again." >&2
  exit 1
}
printf '%s\n' "$wanted" >"$stamp"
