#!/usr/bin/env bash
# The program that people run starts in milliseconds and links neither torch nor Python.
set -euo pipefail
libraries=$(ldd "$1" | sed 's/ (0x[0-9a-f]*)$//')  # an address may have c10 in it
if grep -E -i 'torch|c10|python' <<<"$libraries"; then
  echo "$1 links a library it must not"
  exit 1
fi
echo "ok: $(wc -l <<<"$libraries") libraries"
