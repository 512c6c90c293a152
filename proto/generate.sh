#!/bin/sh
# Generates the Python stubs beside their .proto files. $1: the interpreter; $2: where to, proto/ by default.
set -eu
cd "$(dirname "$0")"
python=$1
out=${2:-.}
bin=$(dirname "$python")
# mypy-protobuf's plugins type what grpcio-tools leaves untyped: the service stubs.
"$python" -m grpc_tools.protoc -I. \
  --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
  v2c/*/v1/*.proto
