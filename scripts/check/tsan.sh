# What runs on several threads, under the thread sanitizer.
check_tsan() {
  setup_build tsan retort_base_test retort_kernels_test
  run_ctest "sanitizer: thread" build/tsan -j "$(nproc)" -R 'Thread|Parallel|Pool'
}
