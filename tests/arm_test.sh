#!/usr/bin/env bash
# The kernels' tests for 64-bit Arm, built here and run under qemu: on a processor without byte dot products, and on one that has them.
#
#   tests/arm_test.sh SOURCE BUILD        exit code 77: skipped, with the reason
set -euo pipefail
source_dir=$1 build=$2
compiler=${RETORT_ARM_CXX:-aarch64-linux-gnu-g++}
for tool in "$compiler" cmake ninja; do
  command -v "$tool" >/dev/null || { echo "skipped: no $tool"; exit 77; }
done
emulator=$(command -v qemu-aarch64 || command -v qemu-aarch64-static) || { echo "skipped: no qemu-aarch64"; exit 77; }
[ -e /usr/src/googletest/googletest/src/gtest-all.cc ] || { echo "skipped: no sources of GoogleTest in /usr/src/googletest"; exit 77; }

cmake -G Ninja -S "$source_dir/tests/arm" -B "$build" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_C_COMPILER="${compiler/g++/gcc}" -DCMAKE_CXX_COMPILER="$compiler" >/dev/null
ninja -C "$build" | tail -n 1
# Emulation is slow: what every instruction set must agree on, but no finite differences. Byte dot products are in Matmul alone.
readonly forward='Matmul.*:PackedMatrix.*:Elementwise.*:Attention.*:WindowAttention.Forward*:Recurrence.FloatFollows*:RankOne.FloatFollows*:SelectiveScan.Float*'
for run in "cortex-a53 $forward" "max Matmul.*"; do
  processor=${run%% *}
  echo "== $processor"
  "$emulator" -cpu "$processor" "$build/retort_base_test" --gtest_brief=1 --gtest_filter='Cpu.*'
  "$emulator" -cpu "$processor" "$build/retort_kernels_test" --gtest_brief=1 --gtest_filter="${run#* }"
done
# What the tests ran on: the best instruction set that each of them has.
for pair in cortex-a53=neon max=neon_dot; do
  names=$("$emulator" -cpu "${pair%=*}" "$build/arm_isas")
  [[ " $names " == *" ${pair#*=} "* ]] || { echo "${pair%=*} has $names, not ${pair#*=}"; exit 1; }
done
[[ " $("$emulator" -cpu cortex-a53 "$build/arm_isas") " != *" neon_dot "* ]]
