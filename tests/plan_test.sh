#!/usr/bin/env bash
# A plan of four runs on a tiny teacher, through the programs: results.json whole, ctrl-C and a second call go on, a finished plan does
# no work. plan_test.sh RETORT TINY_MODEL
set -uo pipefail
retort=$1 tiny_model=$2 scripts=$(cd "$(dirname "$0")/../scripts" && pwd)
[ -x "$(dirname "$retort")/retort-train" ] || { echo "skipped: retort-train was not built"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$tiny_model" . || exit 1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

cat >align.yaml <<'YAML'
name: align
student: {mixer: slots, window: 8, sinks: 2, config: {slots: 16}}
data: {held_out: 0.2, calibration_tokens: 512}
stages:
- {name: align, loss: {attn_out: {form: relative}}, seq: 48, batch: 2, steps: 40, lr: 1e-3}
YAML
sed -e 's/name: align/name: kd/g' -e 's/attn_out: {form: relative}/logits: 1/' align.yaml >kd.yaml
cat >plan.yaml <<'YAML'
name: small
runs:
- {name: align, recipe: align.yaml, show: false, set: [save_init=true]}
- {name: pure, recipe: kd.yaml, start: align, init: align/student-init}
- {name: hybrid, recipe: kd.yaml, start: align, set: ["student.keep=heads:2"]}
- {name: window, recipe: align.yaml, set: [student.mixer=window, "student.config={}"]}
evaluate: {windows: [64, 128], tokens: 1K, window_tokens: 512, copy_passages: 3, copy_length: 24, contexts: [16, 64], decode_tokens: 4, decode_turns: 3,
  prompt: The river, sample_tokens: 12}
YAML
command_line=("$retort" distill plan.yaml --teacher teacher --data corpus.jsonl --eval-data other=other.jsonl --out run --threads 1)
distill() { "${command_line[@]}" "$@"; }

distill --dry-run --json >dry.json 2>err.txt || fail "--dry-run --json: $(cat err.txt)"
python3 - <<'PY' || fail "--dry-run --json: $(cat dry.json)"
import json
runs = json.load(open("dry.json"))["runs"]
assert [r["name"] for r in runs] == ["align", "pure", "hybrid", "window"]
assert all(r["command"][:2] == ["retort-train", "distill"] and "--resume" not in r["command"] for r in runs), runs
PY
distill --dry-run >out.txt 2>err.txt && [ "$(grep -c '^retort-train distill ' out.txt)" = 4 ] || fail "--dry-run: $(cat out.txt err.txt)"
"${command_line[@]/%run/run//}" --dry-run >again.txt 2>err.txt && cmp -s out.txt again.txt || fail "--out run//: $(cat again.txt err.txt)"
distill --dry-run --json --set kd.lr=1e-4 evaluate.tokens=777 >dry.json 2>err.txt && grep -q '"tokens": 777' dry.json && ! grep -q '"evaluate.tokens' dry.json ||
  fail "--set evaluate.tokens: $(cat dry.json err.txt)"
distill --dry-run --set evaluate.tokns=777 >out.txt 2>err.txt
[ $? = 2 ] && [ "$(cat err.txt)" = "retort: error: --set evaluate.tokns=777: evaluate: unknown key 'tokns'; did you mean 'tokens'?" ] ||
  fail "--set evaluate.tokns: $(cat err.txt)"
distill --resume >out.txt 2>err.txt
[ $? = 2 ] && [ ! -s out.txt ] && [ "$(cat err.txt)" = "retort: error: run: no run to go on with; without --resume a new one starts there" ] ||
  fail "--resume without a run: $(cat err.txt)"
[ ! -e run ] || fail "left behind: $(ls -A run)"

"${command_line[@]}" >out.txt 2>err.txt &
pid=$!
for _ in $(seq 600); do [ -s run/align/metrics.jsonl ] && break; sleep 0.05; done
kill -TERM $pid
wait $pid
code=$?
[ $code = 130 ] || fail "interrupted: exit code $code: $(cat err.txt)"
grep -q '^retort: error: interrupted; go on with: ' err.txt || fail "interrupted: $(tail -n 1 err.txt)"

distill --resume >out.txt 2>err.txt || fail "resumed: exit code $?: $(cat err.txt)"
grep -q hybrid out.txt || fail "no table: $(cat out.txt)"
before=$(stat -c %Y run/pure/train.json run/evaluation/*.json | md5sum)
distill --json >again.json 2>err.txt || fail "again: exit code $?: $(cat err.txt)"
[ "$before" = "$(stat -c %Y run/pure/train.json run/evaluation/*.json | md5sum)" ] || fail "a finished plan was carried out again"
python3 - <<'PY' || fail "results"
import json, math
again, results = json.load(open("again.json")), json.load(open("run/results.json"))
assert again == results
teacher, students = results["teacher"], results["students"]
assert teacher["kept"] == "all" and teacher["mixers"] == "***", teacher
assert [s["name"] for s in students] == ["pure", "hybrid", "window"]
assert [s["kept"] for s in students] == ["none", "2 of 6 kv heads", "none"], [s["kept"] for s in students]
for s in students:
    assert math.isfinite(s["perplexity"]) and abs(s["perplexity_ratio"] - s["perplexity"] / teacher["perplexity"]) < 1e-9
    assert s["copy_perplexity"] > 1 and s["seconds"] > 0
    assert [(p["corpus"], p["window"]) for p in s["perplexities"]] == [(c, w) for c in ("held-out", "other") for w in (64, 128)]
    assert [t["context"] for t in s["throughput"]] == [16, 64]
    assert s["throughput"][0]["tokens_per_second"] > 0
pure, hybrid, window = students
assert pure["perplexity_init"] > 1 and pure["tokens_trained"] == 2 * 40 * 96 and window["tokens_trained"] == 40 * 96
assert pure["throughput"][0]["state_bytes"] == pure["throughput"][1]["state_bytes"], "constant memory"
rows = [json.loads(line) for line in open("run/metrics.jsonl")]
assert {row["stage"] for row in rows} == {"align/align", "pure/kd", "hybrid/kd", "window/align"}
assert len(rows) == 160, len(rows)
PY
"$retort" perplexity run/pure/student --text run/evaluation/held-out.txt --ctx-size 64 --limit-tokens 1000 --json >ppl.json 2>err.txt || fail "$(cat err.txt)"
python3 -c 'import json; a=json.load(open("ppl.json"))["perplexity"]; b=json.load(open("run/results.json"))["students"][0]["perplexity"]; assert abs(a/b-1) < 1e-6, (a, b)' ||
  fail "retort perplexity gives another number"
"$retort" perplexity run/pure/student --text - --ctx-size 64 --limit-tokens 1000 --json <run/evaluation/held-out.txt >ppl2.json 2>err.txt ||
  fail "perplexity --text -: $(cat err.txt)"
python3 -c 'import json; a, b = (json.load(open(f))["perplexity"] for f in ("ppl.json", "ppl2.json")); assert a == b, (a, b)' ||
  fail "standard input gives another perplexity"
"$retort" perplexity run/pure/student --text - </dev/null >out.txt 2>err.txt
[ "$(cat err.txt)" = "retort: error: standard input: 0 tokens; at least 2 are needed" ] || fail "perplexity of nothing: $(cat err.txt)"
"$retort" tokenize teacher -p "" --no-special --json >out.txt 2>err.txt && python3 -c 'import json; assert json.load(open("out.txt"))["count"] == 0' ||
  fail "an empty prompt: $(cat out.txt err.txt)"
"$retort" report run >out.txt 2>err.txt && [ -s run/report.html ] || fail "report: $(cat err.txt)"
"$scripts/update_results.py" run pages/results.md >out.txt 2>err.txt || fail "update_results.py: $(cat err.txt)"
[ "$(grep -c -E '^\| `(pure|hybrid|window)` ' pages/results.md)" = 3 ] || fail "a page of results: $(cat pages/results.md)"
[ "$(grep -c -E '^(pure|hybrid|window)  ' pages/results.md)" = 3 ] || fail "samples on the page: $(cat pages/results.md)"
python3 - <<'PY' || fail "the page of results"
import json, xml.dom.minidom
students = json.load(open("run/results.json"))["students"]
rows = [line.split("|") for line in open("pages/results.md") if line.startswith("| `")]
ratios = [float(r[6]) for r in rows]
assert ratios == sorted(ratios), "the best first"
pure = next(r for r in rows if "pure" in r[1])
assert abs(float(pure[6]) - students[0]["perplexity_ratio"]) < 1e-3 and float(pure[5]) > 0, pure
assert int(pure[9]) > 0, "tokens a second of the stage kd"
xml.dom.minidom.parse("pages/images/mixers.svg")
PY

sed 's/kd.yaml/nowhere.yaml/' plan.yaml >broken.yaml
"$retort" distill broken.yaml --teacher teacher --data corpus.jsonl --out broken >out.txt 2>err.txt
[ $? = 2 ] || fail "a plan with a missing recipe"
[ ! -s out.txt ] || fail "a plan that fails late: standard output has $(cat out.txt)"
tail -n 1 err.txt | grep -q "^retort: error: run 'pure' failed" || fail "a plan that fails late: the error is not the last line: $(cat err.txt)"
[ "$failures" = 0 ] && echo ok
exit $((failures != 0))
