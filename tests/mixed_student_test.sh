#!/usr/bin/env bash
# A student with another mixer in every layer, one layer split between two mixers and attention in a third, through the programs: distilled
# from a recipe, inspected, served, started from; edits of its config.json are told apart. mixed_student_test.sh RETORT TINY_MODEL
set -uo pipefail
retort=$1 tiny_model=$2
[ -x "$(dirname "$retort")/retort-train" ] || { echo "skipped: retort-train was not built"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$tiny_model" . || exit 1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

cat >mixed.yaml <<'YAML'
name: mixed
student:
  mixer: gla
  window: 8
  sinks: 2
  layers:
  - {layers: 0, mixer: mamba2, window: 0, config: {retention: 0.9}}
  - {layers: [1], heads: "1", mixer: retnet}
  keep: ["2.0"]
data: {held_out: 0.2, calibration_tokens: 512}
defaults: {seq: 48, batch: 2, lr: 1e-3}
stages:
- {name: align, loss: {attn_out: {form: relative}}, steps: 2}
- {name: kd, loss: {logits: 1}, steps: 2}
YAML
distill() { "$retort" distill mixed.yaml --teacher teacher --data corpus.jsonl --threads 1 "$@"; }
refused() { # WHAT MESSAGE COMMAND...
  local what=$1 message=$2
  shift 2
  "$@" >out.txt 2>err.txt
  [ $? = 2 ] && [ ! -s out.txt ] && tail -n 1 err.txt | grep -q -F -- "$message" || fail "$what: $(cat out.txt err.txt)"
}

distill --dry-run >out.txt 2>err.txt && grep -q "^ *retnet in layers 1, kv heads 1$" out.txt || fail "--dry-run: $(cat out.txt err.txt)"
distill --out run >out.txt 2>err.txt || fail "distill: $(cat err.txt)"
"$retort" inspect run/student --json >inspect.json 2>err.txt || fail "inspect: $(cat err.txt)"
python3 - <<'PY' || fail "the plan: $(cat inspect.json)"
import json
document = json.load(open("inspect.json"))
parts = [[(p["mixer"], p["kv_heads"], p["window"]["size"]) for p in layer["parts"]] for layer in document["plan"]]
assert parts == [[("mamba2", [0, 1], 0)], [("gla", [0], 8), ("retnet", [1], 8)], [("gla", [1], 8), ("attention", [0], 0)]], parts
assert document["plan"][0]["parts"][0]["config"]["retention"] == 0.9
assert document["layout"] == "M++", document["layout"]
PY
"$retort" generate run/student -p "The river" -n 8 --json >out.txt 2>err.txt || fail "generate: $(cat err.txt)"
"$retort" perplexity run/student --text corpus.jsonl --ctx-size 64 --limit-tokens 256 --json >ppl.json 2>err.txt ||
  fail "perplexity: $(cat err.txt)"
python3 -c 'import json, math; assert math.isfinite(json.load(open("ppl.json"))["perplexity"])' || fail "perplexity: $(cat ppl.json)"
"$retort" inspect run/student --against teacher --json >match.json 2>err.txt || fail "inspect --against: $(cat err.txt)"

# Started from a student of the same mix, and with heads to keep chosen by error.
distill --set student.keep=none --out pure >out.txt 2>err.txt || fail "without keep: $(cat err.txt)"
distill --start pure/student --keep heads:2 --out again >out.txt 2>err.txt || fail "start from a student: $(cat err.txt)"
"$retort" inspect again/student --json >inspect.json 2>err.txt || fail "inspect: $(cat err.txt)"
python3 - <<'PY' || fail "heads kept: $(cat inspect.json)"
import json
parts = [p for layer in json.load(open("inspect.json"))["plan"] for p in layer["parts"]]
assert sum(len(p["kv_heads"]) for p in parts if p["mixer"] == "attention") == 2
assert sum(len(p["kv_heads"]) for p in parts) == 6
PY
refused "another mix in the student to start from" "pure/student: layer 1 is not mixer 'gla' with window 8" \
  distill --start pure/student --set 'student.layers=[{layers: 0, mixer: mamba2, window: 0, config: {retention: 0.9}}]' --out never
refused "a layer that is not there" "recipe: student.layers[0] names layer 3; the model has layers 0 to 2" \
  distill --set 'student.layers=[{layers: 1-3, mixer: retnet}]' --out never
refused "a head that is not there" "recipe: student.layers[0] names kv head 2; the model has kv heads 0 to 1" \
  distill --set 'student.layers=[{layers: 1, heads: 2, mixer: retnet}]' --out never
refused "a head owned twice" "student.layers[1]: kv head 0 of layer 1 is in student.layers[0] too" \
  distill --set 'student.layers=[{layers: 1, heads: 0-1, mixer: retnet}, {layers: 1, heads: 0, mixer: mamba}]' --out never
[ ! -e never ] || fail "left behind: $(ls -A never)"

edit() { # PYTHON on c, the student's config.json
  python3 -c 'import json, sys
c = json.load(open("run/student/config.json"))
exec(sys.argv[1])
json.dump(c, open("edited/config.json", "w"))' "$1"
}
cp -r run/student edited
edit 'c["mixers"][0][0]["retention"] = 0.95'
refused "an edited field" "layer 0, part 0 (mamba2): field 'retention' is 0.95, the fingerprint was taken with 0.9" "$retort" inspect edited
edit 'c["rope_theta"] = 5e5'
refused "an edited size" "key 'rope_theta' is 500000.0, the fingerprint was taken with 10000.0" "$retort" inspect edited
edit 'c["fingerprint"] = None'
refused "no fingerprint" "key 'fingerprint' is missing" "$retort" inspect edited
edit 'del c["fingerprint_of"]'
"$retort" inspect edited >out.txt 2>err.txt || fail "a student of an older version: $(cat err.txt)"

[ "$failures" = 0 ] && echo ok
exit $((failures != 0))
