#include "train/mixing_matrix.h"

#include "mixers/list.h"

namespace retort::train {

MixingMatrices::MixingMatrices(const PartWeights& part, const at::Tensor& x, const Rows& rows, Numeric numeric)
    : shape_(part.shape), numeric_(numeric), together_(part.shape.group()) {
  std::vector<TorchOps::Weight> weights;
  for (const at::Tensor& value : part.values) weights.push_back({value});
  TorchOps ops(rows, shape_, numeric);
  visit_mixer(part.part.mixer, [&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    const auto fields = parse_config<Mixer>(part.part.config);
    RETORT_CHECK(fields.ok(), fields.error().message);
    const auto in = Mixer::template inputs<TorchOps>(ops, *fields, shape_, weights.data(), TorchOps::Tensor(x));
    if (!Mixer::kRecurrent || shape_.window.size > 0) {
      set(kLocalQ, ops.rope(in.local_q, shape_.heads).t);
      set(kLocalK, ops.rope(in.local_k, shape_.kv_heads).t);
    }
    if constexpr (Mixer::kRecurrent) {
      recurrent_ = true;
      spec_ = part_recurrence<Mixer>(*fields, shape_);
      together_ = spec_.heads / spec_.kv_heads;
      set(kQ, ops.flat(in.q)), set(kK, ops.flat(in.k)), set(kSkip, in.skip.t);
      if (in.log_decay) set(kLogDecay, ops.flat(in.log_decay));
      if (in.erase) set(kErase, ops.flat(in.erase));
      if (in.erase_key) set(kEraseKey, ops.flat(in.erase_key));
      if (in.q_log_offset) offset_ = ops.flat(in.q_log_offset).detach();
      if (shape_.window.size > 0) {
        const TorchOps::Weight* j = weights.data() + Mixer::kWeightCount;
        set(kGate, ops.linear(TorchOps::Tensor(x), j[join::kGateWeight], j[join::kGateBias]).t);
        set(kGamma, j[join::kGamma].t), set(kRho, j[join::kRho].t);
      }
    }
  });
}

void MixingMatrices::set(Input input, const at::Tensor& value) {
  if (!value.defined()) return;
  const bool trained = value.requires_grad() && at::GradMode::is_enabled();
  sources_[input] = {value, trained ? value.detach().requires_grad_() : value, {}};
}

at::Tensor MixingMatrices::slice(Input input, const Sequence& sequence, int heads, int head, int count) const {
  const at::Tensor& x = sources_[input].cut;
  if (!x.defined()) return x;
  const int64_t width = x.size(1) / heads;
  return x.narrow(0, sequence.begin, sequence.size).narrow(1, head * width, count * width);
}

at::Tensor MixingMatrices::vector(Input input, int head, int count) const {
  const at::Tensor& x = sources_[input].cut;
  return x.defined() ? x.narrow(0, head, count) : x;
}

Normalised<TorchOps::Tensor> MixingMatrices::near(int head, int count, const Sequence& sequence) const {
  const auto by_head = [&](const at::Tensor& x, int n) { return x.reshape({sequence.size, n, -1}).transpose(0, 1); };
  const auto [weights, norm] = attention_matrix(by_head(slice(kLocalQ, sequence, shape_.heads, head, count), count),
                                                by_head(slice(kLocalK, sequence, shape_.kv_heads, head / shape_.group(), 1), 1), shape_.window);
  return {{weights.transpose(0, 1).reshape({sequence.size, -1})}, {norm.t()}};
}

Normalised<TorchOps::Tensor> MixingMatrices::far(TorchOps& ops, int head, int count, const Sequence& sequence) const {
  RecurrenceSpec spec = spec_;
  spec.heads = count, spec.kv_heads = 1, spec.value_dim = int(sequence.size);
  const int kv_head = head / together_;
  const auto of_keys = [&](Input input) { return TorchOps::Tensor(slice(input, sequence, spec_.kv_heads, kv_head, 1)); };
  RecurrenceInputs<TorchOps> in;
  in.q = {slice(kQ, sequence, spec_.heads, head, count)};
  in.k = of_keys(kK), in.log_decay = of_keys(kLogDecay), in.erase = of_keys(kErase), in.erase_key = of_keys(kEraseKey);
  in.skip = {vector(kSkip, head, count)};
  if (offset_.defined()) in.q_log_offset = {offset_.narrow(0, sequence.begin, sequence.size).narrow(1, head, count)};
  in.v = ops.leaving(at::eye(sequence.size, in.q.t.options()));  // what is written at t is token t, or the one that leaves the window there
  return ops.recurrence(spec, in);
}

at::Tensor MixingMatrices::of(int head, int count, const Sequence& sequence) {
  RETORT_CHECK(count == together_ || (!recurrent_ && head / together_ == (head + count - 1) / together_), "heads that share no keys");
  Rows rows;
  rows.total = sequence.size, rows.sequences = {{0, sequence.size}};
  TorchOps ops(rows, shape_, numeric_);
  const auto shaped = [&](const at::Tensor& m) { return m.reshape({sequence.size, count, sequence.size}); };
  if (!recurrent_) return shaped(near(head, count, sequence).out.t);
  if (shape_.window.size == 0) return shaped(far(ops, head, count, sequence).out.t);
  const auto window = near(head, count, sequence);
  auto rest = far(ops, head, count, sequence);
  const at::Tensor gate = slice(kGate, sequence, shape_.heads, head, count);
  if (!spec_.joins()) return shaped(window.out.t) + shaped(rest.out.t) * at::sigmoid(gate).unsqueeze(2);
  const at::Tensor& log_norm = window.log_norm.t;
  rest.log_norm = {gate + rest.log_norm.t * vector(kGamma, head, count) + log_norm * (1 - vector(kRho, head, count))};
  return shaped(ops.join(window, rest, count).t);
}

void MixingMatrices::backward(const at::Tensor& loss) {
  if (!loss.requires_grad()) return;
  std::vector<Source*> trained;
  torch::autograd::variable_list leaves;
  for (Source& source : sources_) {
    if (!source.cut.defined() || !source.cut.requires_grad()) continue;
    trained.push_back(&source);
    leaves.push_back(source.cut);
  }
  const auto gradients = torch::autograd::grad({loss}, leaves, {}, std::nullopt, false, true);
  for (size_t i = 0; i < trained.size(); ++i) {
    if (!gradients[i].defined()) continue;
    at::Tensor& sum = trained[i]->gradient;
    if (sum.defined()) sum.add_(gradients[i]);
    else sum = gradients[i];
  }
}

void MixingMatrices::append_gradients(torch::autograd::variable_list& outputs, torch::autograd::variable_list& gradients) const {
  for (const Source& source : sources_) {
    if (!source.gradient.defined()) continue;
    outputs.push_back(source.whole);
    gradients.push_back(source.gradient);
  }
}

}  // namespace retort::train
