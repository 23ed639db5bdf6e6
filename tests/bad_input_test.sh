#!/usr/bin/env bash
# Bad input from outside, through the program: one line on standard error that starts with "retort: error: ", exit code 2,
# nothing on standard output, nothing left behind.
set -uo pipefail
retort=$(realpath "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
failures=0

refused() { # WHAT COMMAND...
  local what=$1 code
  shift
  "$@" >out.txt 2>err.txt
  code=$?
  local lines
  lines=$(wc -l <err.txt)
  if [ "$code" != 2 ] || [ "$lines" != 1 ] || ! grep -q '^retort: error: ' err.txt || [ -s out.txt ]; then
    echo "FAILED: $what: exit code $code, $lines lines: $(head -c 300 err.txt)"
    failures=$((failures + 1))
  fi
  rm -f out.txt err.txt
}

only() { # FILE...: nothing else may be in the folder
  local extra
  extra=$(ls -A | grep -v -x -F "$(printf '%s\n' "$@")" || true)
  if [ -n "$extra" ]; then
    echo "FAILED: left behind: $extra"
    failures=$((failures + 1))
  fi
}

printf 'GGUF\003\000\000\000\377\377\377\377\377\377\377\377\377\377\377\377\377\377\377\377' >huge.gguf
printf 'GGUF\003\000' >cut.gguf
: >empty.gguf
mkdir config_only no_config bad_config
echo '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}' >config_only/config.json
echo '{' >bad_config/config.json
mkdir run
echo '{' >run/results.json
echo '{"page": "a b"}' >run/wikitext_test.jsonl

mkfifo pipe
refused "a pipe that nobody writes to" timeout 20 "$retort" inspect pipe
rm pipe
refused "no such command" "$retort" frobnicate
refused "no such flag" "$retort" inspect --frobnicate cut.gguf
refused "a flag without its value" "$retort" inspect cut.gguf --threads
refused "a number that is none" "$retort" inspect cut.gguf --threads many
refused "no model" "$retort" inspect
refused "a text without a teacher" "$retort" inspect cut.gguf --text cut.gguf
for model in nowhere huge.gguf cut.gguf empty.gguf config_only no_config bad_config /dev/null; do
  for command in inspect generate perplexity eval bench; do
    if "$retort" --help | grep -q "^  $command "; then
      extra=()
      [ "$command" = perplexity ] && extra=(--text run/results.json)
      [ "$command" = generate ] && extra=(-p hello -n 1)
      [ "$command" = eval ] && extra=(--tasks wikitext --data run)
      refused "$command $model" "$retort" "$command" "$model" ${extra[@]+"${extra[@]}"}
    fi
  done
  refused "convert $model" "$retort" convert "$model" --to hf --out converted
  refused "convert $model to a GGUF" "$retort" convert "$model" --to gguf --out converted.gguf
done
for flags in "-n -1" "-n many" "--temp -1" "--temp nan" "--top-p 2" "--top-p nan" "--min-p nan" "--top-k -1" "-t 100000" "--seed -1" "--weights q3"; do
  refused "generate $flags" "$retort" generate nowhere -p hello $flags
done
for flags in "--ctx-size 1" "--ctx-size 0" "--limit-tokens -3" "-b 0"; do
  refused "perplexity $flags" "$retort" perplexity nowhere --text run/results.json $flags
done
for flags in "--tasks hellaswag" "--tasks nonsense" "--tasks wikitext --limit -1" "--tasks wikitext --add-bos maybe" "--tasks wikitext --log-samples" ""; do
  refused "eval $flags" "$retort" eval nowhere --data run $flags
done
for flags in "--contexts 0" "--contexts -5" "--contexts x" "-n 0" "-r 0"; do
  refused "bench $flags" "$retort" bench nowhere $flags
done
refused "a run that is none" "$retort" report no_config
refused "results that are not JSON" "$retort" report run
refused "a device this build has not" "$retort" inspect cut.gguf --device cuda
mkdir alone
cp "$retort" alone/retort
refused "training where it was not built" alone/retort distill recipe.yaml --teacher nowhere --out out
rm -r alone
"$retort" --help >/dev/full 2>err.txt
[ $? = 2 ] || { echo "FAILED: full standard output is not an error"; failures=$((failures + 1)); }
rm -f err.txt
only huge.gguf cut.gguf empty.gguf config_only no_config bad_config run
[ "$(ls -A run | tr '\n' ' ')" = "results.json wikitext_test.jsonl " ] || { echo "FAILED: left behind in run: $(ls -A run)"; failures=$((failures + 1)); }

"$retort" --help | head -n 1 >/dev/null
codes=("${PIPESTATUS[@]}")
[[ ${codes[0]} = 0 || ${codes[0]} = 141 ]] || { echo "FAILED: a closed pipe gives ${codes[0]}"; failures=$((failures + 1)); }

[ "$failures" = 0 ] && echo "ok"
exit $((failures != 0))
