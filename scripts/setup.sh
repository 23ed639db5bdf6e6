# What ./quickstart, ./check and CI need before they can start: packages, .venv with torch, the release build.
# Source it; it changes to the repository's root. Everything is skipped when it is there already.
#
#   setup_packages [test]     what scripts/packages.txt lists
#   setup_python              .venv with pip's torch; RETORT_PIP_ARGS is passed to pip (a mirror, a CPU-only index)
#   setup_build PRESET        cmake --preset PRESET and its build
#   run_step LABEL LOG CMD..  runs quietly into build/logs/LOG.log, shows that it is alive, prints the log's tail on failure
#
# Bash does not stop at an error inside a function that is called with `||`, `&&` or `if`, and run_step often is: the functions it
# runs say after each command what a failure means.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly kTorchVersion=2.13.0
mkdir -p build/logs

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "retort: error: $*"
  exit 2
}

run_step() {
  local label=$1 log=build/logs/$2.log start=$SECONDS next=15 child status=0
  shift 2
  set -m  # a process group of its own, so that ctrl-C ends all of it
  "$@" >"$log" 2>&1 </dev/null &
  child=$!
  set +m
  trap 'kill -- -'"$child"' 2>/dev/null; wait '"$child"' 2>/dev/null || true; say ""; say "interrupted; run the same command to go on"; exit 130' INT TERM
  while kill -0 "$child" 2>/dev/null; do
    if [ -t 2 ]; then
      printf '\r\033[K%s  %ds  %s' "$label" "$((SECONDS - start))" "$(tail -c 300 "$log" | tr '\r\033' '\n ' | tail -n 1 | cut -c 1-70)" >&2
    elif ((SECONDS - start >= next)); then
      say "$label  $((SECONDS - start)) s"
      next=$((next + 15))
    fi
    sleep 0.3
  done
  wait "$child" || status=$?
  trap - INT TERM
  [ -t 2 ] && printf '\r\033[K' >&2
  if ((status != 0)); then
    say "$label: failed after $((SECONDS - start)) s; the end of $log:"
    tail -n 30 "$log" >&2
    return "$status"
  fi
  say "$label: done in $((SECONDS - start)) s"
}

# Not for root: `sudo -v` has asked for the password before, in the foreground.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }

# The runtime of the default clang is a package of its own from LLVM 15 on (Debian: 14), before it is in libclang-common.
clang_runtime_packages() {
  local version
  version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9][0-9]*\)$/\1/p' | head -n 1)
  [ -n "$version" ] || return 0
  if apt-cache show "libclang-rt-$version-dev" >/dev/null 2>&1; then
    echo "libclang-rt-$version-dev"
  else
    echo "libclang-common-$version-dev"
  fi
}

# Ubuntu's package of this name only fetches a snap; the tests that need a browser are skipped there.
chromium_packages() {
  if [ -n "$(apt-cache show chromium-driver 2>/dev/null)" ]; then printf 'chromium\nchromium-driver\n'; fi
}

arm_packages() {
  local name
  for name in g++-aarch64-linux-gnu qemu-user-static; do
    if [ -n "$(apt-cache show "$name" 2>/dev/null)" ]; then echo "$name"; fi
  done
}

wanted_packages() {
  local name
  sed -e "/^# test/$([ "${1:-}" = test ] && echo d || echo ',$d')" -e '/^#/d' -e '/^$/d' scripts/packages.txt |
    while read -r name; do
      case $name in
        @clang-rt) clang_runtime_packages ;;
        @chromium) chromium_packages ;;
        @arm) arm_packages ;;
        *) echo "$name" ;;
      esac
    done
}

missing_packages() {
  local name
  for name in $(wanted_packages "${1:-}"); do
    is_installed "$name" || echo "$name"
  done
}

update_package_lists() { as_root apt-get -o DPkg::Lock::Timeout=300 update; }
install_packages() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
}

setup_packages() {
  local missing
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "no apt here: install what scripts/packages.txt lists by your own means; going on"
    return 0
  fi
  missing=$(missing_packages "${1:-}")
  if [ -z "$missing" ]; then return 0; fi
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    fail "these packages are missing and there is neither root nor sudo: $(echo $missing)"
  fi
  if [ "$(id -u)" != 0 ]; then sudo -v || fail "sudo is needed to install: $(echo $missing)"; fi
  run_step "package lists" apt-update update_package_lists || fail "apt-get update failed; without a network, install by hand: $(echo $missing)"
  missing=$(missing_packages "${1:-}")
  run_step "packages: $(echo $missing | wc -w) to install" apt-install install_packages $missing || fail "apt-get install failed"
}

has_torch() { .venv/bin/python -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$kTorchVersion')" 2>/dev/null; }

# The file names the torch that was found importable, so that the check costs no import of torch the second time.
setup_python() {
  local stamp=.venv/.retort-torch
  if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$kTorchVersion" ]; then return 0; fi
  if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    run_step "virtual environment" venv python3 -m venv .venv || fail "python3 -m venv .venv failed"
  fi
  if ! has_torch; then
    run_step "torch $kTorchVersion (for LibTorch)" pip-torch .venv/bin/python -m pip install ${RETORT_PIP_ARGS:-} "torch==$kTorchVersion" ||
      fail "pip could not install torch==$kTorchVersion; RETORT_PIP_ARGS is passed to pip, for example to name a mirror"
  fi
  has_torch || fail ".venv has no torch $kTorchVersion after pip install"
  echo "$kTorchVersion" >"$stamp"
}

# Packages that only tests use (oracles). A package that cannot be had makes its tests skip, not fail. Of some only files in plain
# torch are read: they come without what they would bring along, compilers for GPUs. RETORT_FULL=1 adds those that take minutes.
setup_test_python() {
  local stamp=.venv/.retort-test-requirements pip=".venv/bin/python -m pip install ${RETORT_PIP_ARGS:-}"
  local whole=(scripts/test-requirements.txt) alone=(scripts/test-requirements-no-deps.txt)
  if [ "${RETORT_FULL:-}" = 1 ]; then
    whole+=(scripts/test-requirements-full.txt)
    alone+=(scripts/test-requirements-full-no-deps.txt)
  fi
  if [ -e "$stamp" ] && cat "${whole[@]}" "${alone[@]}" | cmp -s "$stamp" -; then return 0; fi
  if run_step "python packages for oracles" pip-test $pip "${whole[@]/#/--requirement=}" &&
    run_step "python packages for oracles, their files alone" pip-test-files $pip --no-deps "${alone[@]/#/--requirement=}"; then
    cat "${whole[@]}" "${alone[@]}" >"$stamp"
  else
    say "oracle packages could not be installed: the tests that need them are skipped"
  fi
}

setup_build() {
  local preset=$1
  shift
  if [ ! -e "build/$preset/build.ninja" ]; then
    run_step "configure $preset" "configure-$preset" cmake --preset "$preset" || fail "cmake --preset $preset failed"
  fi
  run_step "build $preset" "build-$preset" cmake --build "build/$preset" ${@:+--target "$@"} || fail "the build failed"
}
