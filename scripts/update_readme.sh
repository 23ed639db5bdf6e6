#!/usr/bin/env bash
# Puts the table and the picture of a finished run into README.md, between its two results markers.
#
#   scripts/update_readme.sh [RUN]          default: runs/quickstart
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/quickstart}
retort=build/release/bin/retort
[ -s "$run/results.json" ] || { echo "retort: error: $run/results.json: no finished run; ./quickstart makes one" >&2; exit 2; }
block=$(mktemp)
trap 'rm -f "$block"' EXIT
mkdir -p docs/images
{
  "$retort" report "$run" --markdown --svg docs/images/quickstart.svg
  printf '\n![Perplexity, decoding speed and state of teacher and students](docs/images/quickstart.svg)\n'
} >"$block"
awk -v block="$block" '
  /<!-- results:begin -->/ { print; while ((getline line < block) > 0) print line; inside = 1; next }
  /<!-- results:end -->/ { inside = 0 }
  !inside' README.md >README.md.part
mv README.md.part README.md
echo "README.md: results of $run"
