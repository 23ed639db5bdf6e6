# Packages, environment, oracles, the release build, tokenizer files, the teacher.
check_setup() {
  setup_packages test
  setup_python
  setup_test_python
  setup_build release
  scripts/fetch_tokenizers.sh || say "not every tokenizer file: their oracle is skipped"
  fetch_teacher || say "no teacher: the tests that need it are skipped"
}
