#!/usr/bin/env bash
# Retort beside llama.cpp in one run: the same GGUF file, the same threads, in turn; prints ratios (above 1: Retort is faster).
#
# usage: bench/vs_llama.sh LLAMA_BENCH MODEL.gguf [THREADS] [ROUNDS] [STUDENT [STUDENT_WEIGHTS]]
#
# With STUDENT (a model folder) its decoding at 4,096 tokens is set against llama.cpp's teacher at that context.
set -euo pipefail
llama_bench=$1 model=$2 threads=${3:-$(nproc)} rounds=${4:-3} student=${5:-} student_weights=${6:-q4_1}
retort=${RETORT:-$(dirname "$0")/../build/release/bin/retort}
context=4096

# llama.cpp: tokens/s of one test.
peer() { "$llama_bench" -m "$model" -t "$threads" -fa 1 -r 1 -o json "$@" | grep '"avg_ts"' | tail -1 | tr -dc '0-9.'; }
# Retort: one number of its JSON, by name, of the last context.
ours() { "$retort" bench "$1" -t "$threads" -r 1 --json "${@:3}" 2>/dev/null | grep "\"$2\"" | tail -1 | sed 's/.*: //' | tr -dc '0-9.'; }
median() { printf '%s\n' "$@" | sort -g | awk '{v[NR]=$1} END {print (v[int((NR+1)/2)] + v[int(NR/2)+1]) / 2}'; }
row() { awk -v name="$1" -v a="$2" -v b="$3" 'BEGIN {printf "%-34s %10.1f %10.1f %8.2f\n", name, a, b, a / b}'; }

ours_prefill=() peer_prefill=() ours_decode=() peer_decode=() ours_student=() peer_far=()
for ((i = 0; i < rounds; ++i)); do
  ours_prefill+=("$(ours "$model" prefill_tokens_per_second --contexts 512 -n 1)")
  peer_prefill+=("$(peer -p 512 -n 0)")
  ours_decode+=("$(ours "$model" decode_tokens_per_second --contexts 16 -n 64)")
  peer_decode+=("$(peer -p 0 -n 64 -d 16)")
  if [[ -n $student ]]; then
    ours_student+=("$(ours "$student" decode_tokens_per_second --contexts $context -n 64 --weights "$student_weights")")
    peer_far+=("$(peer -p 0 -n 32 -d $context)")
  fi
done
printf '%-34s %10s %10s %8s\n' "tokens/s, $threads threads, median of $rounds" retort llama.cpp ratio
row "teacher, prefill of 512" "$(median "${ours_prefill[@]}")" "$(median "${peer_prefill[@]}")"
row "teacher, decoding 64 after 16" "$(median "${ours_decode[@]}")" "$(median "${peer_decode[@]}")"
if [[ -n $student ]]; then
  row "student/teacher, decoding at $context" "$(median "${ours_student[@]}")" "$(median "${peer_far[@]}")"
fi
