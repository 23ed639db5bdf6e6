#!/usr/bin/env bash
# Builds the fuzz targets and runs each for a while; fails on the first crash, leak or sanitizer report.
#
#   scripts/fuzz.sh                   every target, 60 seconds in all
#   scripts/fuzz.sh 60                every target, 60 seconds each
#   scripts/fuzz.sh 60 gguf hf_config only these
#
# The corpus grows in build/asan/corpus; tests/fuzz/seeds/<target> is where it starts. An input that crashes is left in
# build/asan/crashes: run build/asan/bin/fuzz_<target> on it.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${RETORT_FUZZ_BUILD:-build/asan}
seconds=${1:-}
shift || true

command -v clang++ >/dev/null || { echo "fuzz.sh: clang++ is needed (package clang)" >&2; exit 2; }
cmake --preset asan -B "$build" >"${TMPDIR:-/tmp}/retort-fuzz-configure.$$" 2>&1 || {
  cat "${TMPDIR:-/tmp}/retort-fuzz-configure.$$" >&2
  exit 1
}
rm -f "${TMPDIR:-/tmp}/retort-fuzz-configure.$$"
cmake --build "$build" --target fuzz_targets

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for program in "$build"/bin/fuzz_*; do
    name=${program##*/fuzz_}
    targets+=("$name")
  done
fi
if [ -z "$seconds" ]; then
  seconds=$((60 / ${#targets[@]}))
  [ "$seconds" -gt 0 ] || seconds=1
fi

mkdir -p "$build/crashes"
for name in "${targets[@]}"; do
  program="$build/bin/fuzz_$name"
  [ -x "$program" ] || { echo "fuzz.sh: no fuzz target '$name' (they are tests/fuzz/*.cc)" >&2; exit 2; }
  corpus="$build/corpus/$name"
  seeds="tests/fuzz/seeds/$name"
  mkdir -p "$corpus"
  folders=("$corpus")
  [ -d "$seeds" ] && folders+=("$seeds")
  options=(-max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=16384 -print_final_stats=1
    -artifact_prefix="$build/crashes/$name-")
  [ -f "tests/fuzz/$name.dict" ] && options+=(-dict="tests/fuzz/$name.dict")
  log="$build/corpus/$name.log"
  if "$program" "${options[@]}" "${folders[@]}" >"$log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "fuzz $name: ok, ${runs:-?} runs in $seconds s"
  else
    tail -n 60 "$log" >&2
    echo "fuzz $name: FAILED (log: $log, input: $build/crashes)" >&2
    exit 1
  fi
done
