# Unit tests, oracles, layering and docs, on the release build.
check_unit() { run_ctest "unit tests and oracles" build/release -j "$(nproc)"; }
