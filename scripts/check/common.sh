# Counting and timing for ./check. Source after scripts/setup.sh.
total_passed=0 total_failed=0 total_skipped=0
timings=()

count() { # PASSED FAILED SKIPPED
  total_passed=$((total_passed + $1))
  total_failed=$((total_failed + $2))
  total_skipped=$((total_skipped + $3))
}

skip() { # WHAT WHY
  say "$1: skipped: $2"
  count 0 0 1
}

# One command that is one test.
expect() { # LABEL LOG COMMAND...
  local label=$1 log=$2 status=0
  shift 2
  (run_step "$label" "$log" "$@") || status=$?
  case $status in
    0) count 1 0 0 ;;
    77) count 0 0 1 ;;
    130) exit 130 ;;
    *) count 0 1 0 ;;
  esac
}

# ctest of one build; the numbers come from its JUnit file.
run_ctest() { # LABEL BUILD CTEST-ARGUMENTS...
  local label=$1 build=$2 xml numbers
  shift 2
  xml=$PWD/build/logs/ctest-$(basename "$build").xml
  rm -f "$xml"
  (run_step "$label" "ctest-$(basename "$build")" ctest --test-dir "$build" --output-on-failure --timeout 900 --output-junit "$xml" "$@") || true
  if ! numbers=$(sed -n 's/^[^<]*tests="\([0-9]*\)".*/t=\1/p;s/.*failures="\([0-9]*\)".*/f=\1/p;s/.*disabled="\([0-9]*\)".*/d=\1/p;s/.*skipped="\([0-9]*\)".*/s=\1/p' "$xml" 2>/dev/null | head -n 4) ||
    [ -z "$numbers" ]; then
    say "$label: ctest wrote no results"
    count 0 1 0
    return 0
  fi
  local t=0 f=0 d=0 s=0
  eval "$numbers"
  count $((t - f - d - s)) "$f" $((d + s))
  say "$label: $((t - f - d - s)) passed, $f failed, $((d + s)) skipped"
  if ((f > 0)); then grep -E '^ *[0-9]+ - .*\((Failed|Timeout|SEGFAULT|ILLEGAL|Subprocess aborted)' "build/logs/ctest-$(basename "$build").log" >&2 || true; fi
}

timed_step() {
  local start=$SECONDS
  say "== $1"
  "check_$1"
  timings+=("$(printf '%-8s %5d s' "$1" "$((SECONDS - start))")")
}

summary() {
  local line
  say ""
  for line in "${timings[@]}"; do say "$line"; done
  say "total    $(printf '%5d' $SECONDS) s"
  echo "$total_passed passed, $total_failed failed, $total_skipped skipped"
  ((total_failed == 0))
}
