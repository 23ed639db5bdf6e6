# Packages, environment, oracles, the release build, the teacher.
check_setup() {
  setup_packages test
  setup_python
  setup_test_python
  setup_build release
  fetch_teacher || say "no teacher: the tests that need it are skipped"
}
