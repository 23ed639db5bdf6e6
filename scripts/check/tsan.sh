# What runs on several threads, under the thread sanitizer: the pool, whole forward passes of every mixer, the scheduler, the server.
check_tsan() {
  setup_build tsan retort_base_test retort_runtime_test retort_serve_test
  run_ctest "sanitizer: thread" build/tsan -j "$(nproc)" -R 'ThreadPool|EveryMixer|Engine|Scheduler|Http'
}
