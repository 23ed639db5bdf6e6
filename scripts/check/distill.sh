# A real teacher, a real recipe, seconds of training: the whole chain from text to report.
check_distill() {
  local retort=build/release/bin/retort run=build/check-run text=build/check-text.jsonl
  if [ ! -x build/release/bin/retort-train ]; then
    skip distill "retort-train was not built"
    return 0
  fi
  if [ ! -s "$kTeacherFile" ]; then
    skip distill "no teacher"
    return 0
  fi
  check_text "$text"
  rm -rf "$run"
  # --minutes 1 measures on less too; what is said with --set is meant as it is.
  expect "distil for a minute" distill-check "$retort" distill recipes/quickstart.yaml --teacher "$kTeacherFile" --data "$text" --out "$run" --minutes 1 \
    --set data.held_out=0.2 evaluate.tokens=1K evaluate.window_tokens=1K evaluate.decode_turns=4
  expect "its results are whole" distill-results check_results "$run/results.json"
  expect "its report" distill-report "$retort" report "$run" --json
}

# The documents of this repository: no network needed, enough for a minute.
check_text() {
  local file
  for file in README.md CONTRIBUTING.md docs/*.md src/*/*.h LICENSE; do
    LC_ALL=C awk -v id="$file" -v source=retort -f scripts/text/text_to_jsonl.awk "$file"
  done >"$1"
}

check_results() {
  .venv/bin/python - "$1" <<'PY'
import json, math, sys
results = json.load(open(sys.argv[1]))
assert results["teacher"]["perplexity"] > 1, results["teacher"]
assert results["students"], "no students"
for student in results["students"]:
    for key in ("name", "mixers", "kept", "perplexity_init", "perplexity", "perplexity_ratio", "copy_perplexity", "tokens_trained", "seconds", "throughput"):
        assert key in student, (student.get("name"), key)
    assert math.isfinite(student["perplexity"]) and student["perplexity"] > 1, student["perplexity"]
    assert student["tokens_trained"] > 0
    for row in student["throughput"]:
        assert row["tokens_per_second"] > 0 and row["state_bytes"] > 0, row
PY
}
