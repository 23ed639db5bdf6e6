#include "train/matrix_pictures.h"

#include "train/mixing_matrix.h"
#include "train/reach.h"
#include "train/tasks.h"

namespace retort::train {
namespace {

HeadMatrices compare(const TorchModel& teacher, const TorchModel& student, const HeadChoice& choice, const at::Tensor& residual, const Rows& rows) {
  const PartWeights& part = student.layers[choice.layer][choice.part];
  HeadMatrices out;
  out.layer = choice.layer;
  out.head = part.shape.layer_head(choice.head);
  out.mixer = part.part.mixer;
  out.window = part.part.window.size;
  if (!mixes_by_matrix(part.part)) {
    out.absent = cat(part.part.mixer, " has no mixing matrix per head: every channel has a decay of its own");
    return out;
  }
  const auto normed = [&](const TorchModel& model) { return rms_norm(residual, model.body.layers[choice.layer].input_norm, model.config.norm_eps, model.numeric); };
  MixingMatrices own(part, normed(student), rows, student.numeric);
  MixingMatrices exact(teacher.layers[choice.layer][0], normed(teacher), rows, teacher.numeric);
  const int first = choice.head / own.together() * own.together();
  const at::Tensor m = own.of(first, own.together(), rows.sequences[0]).select(1, choice.head - first).to(at::kFloat).contiguous();
  const at::Tensor a = exact.of(out.head, 1, rows.sequences[0]).select(1, 0).to(at::kFloat).contiguous();
  if (!at::isfinite(m).all().item<bool>()) {
    out.absent = "the student's matrix is not finite";
    return out;
  }
  out.distance = (m - a).norm().item<double>() / std::max(a.norm().item<double>(), 1e-30);
  out.student = picture(m.data_ptr<float>(), m.size(0), m.stride(0));
  out.teacher = picture(a.data_ptr<float>(), a.size(0), a.stride(0));
  return out;
}

}  // namespace

Result<std::vector<HeadMatrices>> head_matrices(const TorchModel& teacher, const TorchModel& student, std::span<const int32_t> tokens, ThreadPool& pool,
                                                Shards& shards) {
  const auto choices = choose_heads(student.config);
  std::vector<HeadMatrices> out(choices.size());
  if (choices.empty()) return out;
  const Rows rows = Rows::make({{0, int64_t(tokens.size())}}, teacher.config.rope, teacher.config.head_dim, teacher.wide());
  const std::vector<const TorchModel*> both = {&teacher, &student};
  at::Tensor residual;
  for (int step = 0; step <= teacher.config.layers; ++step) {
    RETORT_TRY(const Shards::Hold hold, shards.gather(step_weights(both, step)));
    const int layer = step - 1;
    std::vector<size_t> here;
    for (size_t i = 0; i < choices.size(); ++i) {
      if (choices[i].layer == layer) here.push_back(i);
    }
    RETORT_RETURN_IF_ERROR(run_tasks(pool, int64_t(here.size()), [&](int64_t i) {
      const at::NoGradGuard no_grad;
      out[here[size_t(i)]] = compare(teacher, student, choices[here[size_t(i)]], residual, rows);
    }));
    RETORT_RETURN_IF_ERROR(run_tasks(pool, 1, [&](int64_t) {
      const at::NoGradGuard no_grad;
      residual = step == 0 ? embed(teacher, tokens) : run_layer(teacher, layer, residual, rows);
    }));
  }
  return out;
}

}  // namespace retort::train
