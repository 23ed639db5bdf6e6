// The worlds and rows that mixer_tool and mixer_gradients both print: those of the conformance suite that are not loud.
#pragma once

#include "conformance/harness.h"

namespace retort::conformance {

inline constexpr int64_t kOracleRows = 24;

// fn(MixerTag<M>, const World&, rows)
template <class Fn>
void for_each_oracle_world(Fn&& fn) {
  for_each_world([&](auto tag, const World& w) { fn(tag, w, random_rows(kOracleRows, w.config.width, 9)); }, {1});
}

}  // namespace retort::conformance
