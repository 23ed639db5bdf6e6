# The commands that README.md shows, on the real teacher, in small.
check_readme() {
  local retort=build/release/bin/retort text=build/check-text.txt
  expect "retort --help" readme-help "$retort" --help
  if [ ! -s "$kTeacherFile" ]; then
    skip "README commands" "no teacher"
    return 0
  fi
  head -c 6000 LICENSE >"$text"
  expect "retort inspect" readme-inspect "$retort" inspect "$kTeacherFile"
  expect "retort generate" readme-generate "$retort" generate "$kTeacherFile" -p "The river" -n 8 -s 1
  expect "retort perplexity" readme-perplexity "$retort" perplexity "$kTeacherFile" --text "$text" --ctx-size 256
  expect "retort tokenize" readme-tokenize "$retort" tokenize "$kTeacherFile" --text "$text"
  expect "retort bench" readme-bench "$retort" bench "$kTeacherFile" --contexts 128
  rm -rf build/check-hf
  expect "retort convert" readme-convert "$retort" convert "$kTeacherFile" --to hf --dtype bf16 --out build/check-hf
  expect "the converted model loads" readme-converted "$retort" inspect build/check-hf --json
  rm -rf build/check-hf
}
