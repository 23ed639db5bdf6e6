#!/usr/bin/env bash
# What `cmake --install` gives to others: headers that are C99 and C++, a library that exports its interface and nothing else, examples
# that build by find_package and by pkg-config, and tokens that are those of `retort generate`.
#   install_test.sh SOURCE BUILD TINY_MODEL STUDENT_TOOL PYTHON CC CXX
set -uo pipefail
source=$1 build=$2 tiny_model=$3 student_tool=$4 python=$5 cc=$6 cxx=$7
command -v pkg-config >/dev/null || { echo "skipped: no pkg-config"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
must() { "$@" >log.txt 2>&1 || { echo "FAILED: $*"; tail -n 40 log.txt; exit 1; }; }

must cmake --install "$build" --prefix "$folder/first"
mv first prefix  # an installed tree may be moved
prefix=$folder/prefix
library=$(find prefix -name 'libretort.so' -printf '%h\n')
export PKG_CONFIG_PATH=$folder/$library/pkgconfig LD_LIBRARY_PATH=$folder/$library
for file in bin/retort include/retort/retort.h include/retort/runtime/session.h share/retort/recipes/quickstart.yaml \
  share/retort/examples/generate.c share/doc/retort/embedding.md share/doc/retort/LICENSE; do
  [ -e "prefix/$file" ] || fail "not installed: $file"
done
! grep -rlF -e "$source" -e "$folder" "$library" --include='*.cmake' --include='*.pc' || fail "paths of the build are in the files above"

# --- the header, the exports ---
header='#include <retort/retort.h>
int main(void) { retort_sampling_options o = RETORT_SAMPLING_DEFAULTS; retort_model_options m = RETORT_MODEL_DEFAULTS; return o.size + m.size == 0; }'
strict=(-pedantic -Wall -Wextra -Wconversion -Werror -fsyntax-only -Iprefix/include)
echo "$header" >header.c
must "$cc" -std=c99 "${strict[@]}" header.c
must "$cxx" -std=c++11 "${strict[@]}" -x c++ header.c
nm -D --defined-only "$library/libretort.so" | awk '$2 != "A" {print $3}' | sed 's/@.*//' | sort >exported.txt
grep -o '\bretort_[a-z_]*(' prefix/include/retort/retort.h | tr -d '(' | sort -u >declared.txt
cmp -s exported.txt declared.txt || fail "exported is not what the header declares: $(diff exported.txt declared.txt)"
abi=$(sed -n 's/^#define RETORT_ABI_VERSION //p' prefix/include/retort/retort.h)
readelf -d "$library/libretort.so" | grep -q "SONAME.*\[libretort.so.$abi\]" || fail "SONAME: $(readelf -d "$library/libretort.so" | grep SONAME)"
"$source/tests/links_no_torch.sh" "$library/libretort.so" >log.txt || fail "$(cat log.txt)"

# --- the examples ---
pkg() { pkg-config "$@" || fail "pkg-config $*"; }
warnings=(-O1 -Wall -Wextra -Werror -Wno-missing-field-initializers)
must "$cc" -std=c99 -pedantic "${warnings[@]}" prefix/share/retort/examples/generate.c $(pkg --cflags --libs retort) -o by_pkg_config
must "$cc" -std=c99 -pedantic "${warnings[@]}" "$source/tests/install/tokens.c" $(pkg --cflags --libs retort) -o tokens
must "$cxx" -std=c++20 "${warnings[@]}" prefix/share/retort/examples/endings.cc $(pkg --cflags --libs retort-cpp) \
  -o endings_by_pkg_config
must cmake -S prefix/share/retort/examples -B examples -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" \
  -DCMAKE_BUILD_TYPE=Release
must cmake --build examples

# --- their tokens ---
"$tiny_model" . || exit 1
cat >config.json <<'JSON'
{"architectures": ["LlamaForCausalLM"], "teacher_model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 260, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true,
 "mixers": [[{"mixer": "gla", "kv_heads": [0, 1], "window": 5, "window_sinks": 2}],
            [{"mixer": "attention", "kv_heads": [0]}, {"mixer": "gated_deltanet", "kv_heads": [1]}]]}
JSON
"$student_tool" config.json student || exit 1
generate() { prefix/bin/retort generate "$@" --json 2>err.txt || fail "generate $*: $(cat err.txt)"; }
ids() { tr -d ' \n' | sed -n 's/.*"tokens":\[\([^]]*\)\].*/\1/p' | tr ',' ' '; }
prompt="The river has 7 stones"
for model in teacher student; do
  for temperature in 0 0.9; do
    expected=$(generate "$model" -p "$prompt" -n 24 -s 5 --temp "$temperature" --ignore-eos | ids)
    [ "$(wc -w <<<"$expected")" = 24 ] || fail "$model: retort generate made: $expected"
    for how in plain trial clone file memory; do
      got=$(./tokens $how "$model" "$prompt" 24 5 "$temperature" passing.state) || fail "$model: $how"
      [ "$got" = "$expected" ] || fail "$model, temperature $temperature, $how: $got; expected $expected"
    done
  done
  # States go from one to the other and back.
  ./tokens save "$model" "$prompt" 10 5 0 a.state >first.txt
  rest=$(generate "$model" --state-in a.state -n 6 --temp 0 --ignore-eos --state-out b.state | ids)
  last=$(./tokens load "$model" "" 8 5 0 b.state)
  whole=$(generate "$model" -p "$prompt" -n 24 --temp 0 --ignore-eos | ids)
  [ "$(cat first.txt) $rest $last" = "$whole" ] || fail "$model: from hand to hand: $(cat first.txt) | $rest | $last; expected $whole"
  # The examples print text.
  generate "$model" -p "$prompt" -n 20 -s 1 --no-display-prompt >whole.json
  for program in by_pkg_config examples/generate; do
    ./$program "$model" "$prompt" 20 1 >text.txt || fail "$program $model"
    "$python" -c 'import json, sys; sys.exit(json.load(open("whole.json"))["text"] + "\n" != open("text.txt", "rb").read().decode())' ||
      fail "$program $model: $(cat text.txt)"
  done
  cmp -s <(./endings_by_pkg_config "$model" "$prompt" 2 20) <(./examples/endings "$model" "$prompt" 2 20) || fail "endings differ"
  ./examples/endings "$model" "$prompt" 1 20 | sed "1s/^1: $prompt//" >ending.txt
  cmp -s ending.txt text.txt || fail "endings $model: $(cat ending.txt); expected $(cat text.txt)"
done

# --- what is wrong is one line ---
for program in "./by_pkg_config nowhere" "./examples/endings nowhere" "./tokens load teacher x 1 1 0 nowhere" "./tokens load student x 1 1 0 cut"; do
  head -c 500 b.state >cut
  $program a >out.txt 2>err.txt
  [ $? = 2 ] && [ "$(wc -l <err.txt)" = 1 ] && [ ! -s out.txt ] || fail "$program: $(cat err.txt)"
done

# --- the snippet of the documentation ---
awk '/^```python$/ {on = 1; next} /^```$/ {on = 0} on' prefix/share/doc/retort/embedding.md >snippet.py
"$python" snippet.py teacher "$prompt" >python.txt 2>err.txt || fail "the Python of embedding.md: $(cat err.txt)"
generate teacher -p "$prompt" -n 20 --temp 0 >whole.json
"$python" -c 'import json, sys; sys.exit(json.load(open("whole.json"))["text"] + "\n" != open("python.txt", "rb").read().decode())' ||
  fail "the Python of embedding.md: $(cat python.txt)"

[ "$failures" = 0 ] && echo "ok"
exit $((failures != 0))
