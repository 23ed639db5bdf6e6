// Memory for the intermediate values of one kernel call: a stack per thread that grows once and is then reused.
//
// Layer: kernels. Each thread has its own; pointers die with the ScratchFrame they came from. What alloc returns is not
// cleared: tests set poison_scratch to prove that nobody reads what nobody wrote.
#pragma once

#include <cstddef>
#include <cstdint>

namespace retort {

class ScratchFrame {
 public:
  ScratchFrame();
  ~ScratchFrame();
  ScratchFrame(const ScratchFrame&) = delete;
  ScratchFrame& operator=(const ScratchFrame&) = delete;

  // 64-byte aligned.
  template <class T>
  T* alloc(int64_t count) { return static_cast<T*>(bytes(size_t(count) * sizeof(T))); }

 private:
  void* bytes(size_t n);
  size_t block_, used_;
};

// Fills whatever alloc returns with NaNs, on all threads. Tests only.
void poison_scratch(bool on);

}  // namespace retort
