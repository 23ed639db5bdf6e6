# Every file reader's fuzz target, a minute in all (RETORT_FUZZ_SECONDS: that many each).
check_fuzz() {
  local status=0 ok
  (run_step "fuzz targets" fuzz scripts/fuzz.sh ${RETORT_FUZZ_SECONDS:-}) || status=$?
  ok=$(grep -c '^fuzz .*: ok' build/logs/fuzz.log || true)
  count "$ok" $((status != 0)) 0
}
