#!/bin/sh
# Fails when the committed stubs are not what generate.sh makes of the .proto files. $1: the interpreter.
set -eu
cd "$(dirname "$0")"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
./generate.sh "$1" "$fresh" >/dev/null 2>&1
if ! diff -r -x '*.proto' -x '__pycache__' v2c "$fresh/v2c"; then
  echo "The stubs are out of date: run make proto and commit them." >&2
  exit 1
fi
