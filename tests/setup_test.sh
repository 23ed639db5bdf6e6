#!/usr/bin/env bash
# What the scripts do when something cannot be fetched: they say so, fail, and leave nothing that looks finished. setup_test.sh SOURCE
set -uo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r "$1/scripts" "$folder"
mkdir -p "$folder/.venv/bin" "$folder/bin"
cd "$folder"
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
# A program that fails, or does nothing and says it succeeded.
fake() { printf '#!/bin/sh\nexit %s\n' "$2" >"$1" && chmod +x "$1"; }
sourced() { PATH=$folder/bin:$PATH bash -c '. scripts/setup.sh; . scripts/teacher.sh; . scripts/text/books.sh; . scripts/text/teacher_text.sh; '"$1" >out.txt 2>&1; }

for status in 0 1; do
  fake .venv/bin/python "$status"
  sourced 'fetch_teacher || exit 3'
  [ $? = 3 ] || fail "pip that exits with $status: fetch_teacher: $(cat out.txt)"
  grep -q 'teacher (93 MB): failed' out.txt || fail "pip that exits with $status: $(cat out.txt)"
  [ -z "$(ls -A models)" ] || fail "left behind: $(ls models)"
  fake bin/apt-get "$status"
  fake bin/sudo "$status"
  sourced 'setup_books || exit 3'
  [ $? = 3 ] || fail "apt-get that exits with $status: setup_books: $(cat out.txt)"
  [ -z "$(ls .cache/text/*.jsonl 2>/dev/null)" ] || fail "left behind: $(ls .cache/text)"
done
fake bin/retort 1
sourced 'write_teacher_text bin/retort none .cache/text/teacher.jsonl || exit 3'
[ $? = 3 ] && [ ! -e .cache/text/teacher.jsonl ] || fail "a teacher that writes nothing: $(cat out.txt)"
[ "$failures" = 0 ] && echo ok
exit $((failures != 0))
