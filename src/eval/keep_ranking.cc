#include "eval/keep_ranking.h"

#include <algorithm>

namespace retort {

Result<std::vector<RankedUnit>> rank_units(const ModelFiles& teacher, const ModelFiles& student, const std::vector<AttentionUnit>& units,
                                           const std::function<double(int layer)>& before, const RankMeasure& measure,
                                           const RankProgress& progress) {
  std::vector<RankedUnit> out;
  for (const AttentionUnit& unit : units) {
    if (progress && !progress(int64_t(out.size()), unit)) return Error{ErrorCode::kInterrupted, "interrupted"};
    RETORT_TRY(const ModelFiles restored, restore_attention(teacher, student, {unit}));
    RETORT_TRY(const double after, measure(restored, unit.layer));
    out.push_back({unit, before(unit.layer) - after});
  }
  std::stable_sort(out.begin(), out.end(), [](const RankedUnit& a, const RankedUnit& b) { return a.gain > b.gain; });
  return out;
}

}  // namespace retort
