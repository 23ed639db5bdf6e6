# The torch-free half under the address and undefined-behaviour sanitizers. Finite differences and the distributions of samples run
# what the other tests run, thousands of times: minutes that find nothing more.
check_asan() {
  setup_build asan
  ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 run_ctest "sanitizers: address, undefined" build/asan -j "$(nproc)" -E '^(oracle|docs)|GradientsAreFiniteDifferences|SamplesHaveTheModelsDistribution'
}
