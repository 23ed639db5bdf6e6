# write_teacher_text RETORT TEACHER OUT: when there is no text and no network, the teacher writes some: continuations of
# scripts/text/openings.txt, a few hundred tokens each, for RETORT_TEACHER_TEXT_MINUTES (default 8). What is there is kept.
write_pieces() {
  local retort=$1 teacher=$2 folder=$3 until=$((SECONDS + 60 * ${RETORT_TEACHER_TEXT_MINUTES:-8})) round number opening piece
  for round in 1 2 3 4; do
    number=0
    while read -r opening; do
      number=$((number + 1))
      piece=$folder/$round-$number.txt
      if [ -s "$piece" ]; then continue; fi
      if ((SECONDS >= until)); then return 0; fi
      "$retort" generate "$teacher" -p "$opening" -n 600 --temp 0.8 --top-p 0.95 -s $((100 * round + number)) >"$piece.part" &&
        mv "$piece.part" "$piece" || return
      echo "piece $round-$number"
    done <scripts/text/openings.txt
  done
}

write_teacher_text() {
  local retort=$1 teacher=$2 out=$3 folder=.cache/text/teacher file
  mkdir -p "$folder"
  run_step "no text given: the teacher writes some" teacher-text write_pieces "$retort" "$teacher" "$folder" || return 1
  for file in "$folder"/*.txt; do
    LC_ALL=C awk -v id="$(basename "$file")" -v source=teacher -f scripts/text/text_to_jsonl.awk "$file"
  done >"$out.part"
  [ -s "$out.part" ] && mv "$out.part" "$out"
}
