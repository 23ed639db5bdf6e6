# What runs on several threads, under the thread sanitizer: the pool, and whole forward passes of every mixer.
check_tsan() {
  setup_build tsan retort_base_test retort_runtime_test
  run_ctest "sanitizer: thread" build/tsan -j "$(nproc)" -R 'ThreadPool|EveryMixer|Engine'
}
