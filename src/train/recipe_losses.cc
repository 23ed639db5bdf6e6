// The losses of a stage.
#include <algorithm>

#include "train/recipe_names.h"
#include "train/recipe_parts.h"

namespace retort::train {
namespace {

constexpr Named kLosses[] = {{"attn_out", int(LossKind::kAttnOut)}, {"hidden", int(LossKind::kHidden)},
                             {"matrix", int(LossKind::kMatrix)}, {"attn_xent", int(LossKind::kAttnXent)},
                             {"logits", int(LossKind::kLogits)}, {"ce", int(LossKind::kCe)}, {"dpo", int(LossKind::kDpo)}};
constexpr Named kLayerForms[] = {{"relative", int(LossForm::kRelative)}, {"l2", int(LossForm::kL2)}, {"mse", int(LossForm::kMse)}};
constexpr Named kMatrixForms[] = {{"frobenius", int(LossForm::kFrobenius)}, {"mse", int(LossForm::kMse)}};
constexpr Named kPlaces[] = {{"output", 0}, {"heads", 1}};
constexpr Named kLogitForms[] = {{"kl", int(LossForm::kKl)}, {"ce", int(LossForm::kSoftCe)}};
constexpr Named kReductions[] = {{"token_mean", int(Reduction::kTokenMean)}, {"batch_mean", int(Reduction::kBatchMean)}};
constexpr Named kMasks[] = {{"all", int(LossMask::kAll)}, {"labels", int(LossMask::kLabels)}};
constexpr Named kReferences[] = {{"teacher", int(Reference::kTeacher)}, {"start", int(Reference::kStart)}};

bool is_layer_loss(LossKind kind) {
  return kind == LossKind::kAttnOut || kind == LossKind::kHidden || kind == LossKind::kMatrix || kind == LossKind::kAttnXent;
}

std::span<const Named> forms_of(LossKind kind) {
  switch (kind) {
    case LossKind::kAttnOut:
    case LossKind::kHidden: return kLayerForms;
    case LossKind::kMatrix: return kMatrixForms;
    case LossKind::kLogits: return kLogitForms;
    default: return {};
  }
}

LossSpec read_loss(YamlSource& source, const YAML::Node& name_node, const YAML::Node& node, const std::string& key) {
  LossSpec loss;
  const std::string name = name_node.IsScalar() ? name_node.Scalar() : "?";
  choose(source, name_node, key, "loss", kLosses, name, loss.kind);
  if (!source.status.ok()) return loss;
  if (loss.kind == LossKind::kHidden) loss.form = LossForm::kL2;
  if (loss.kind == LossKind::kMatrix) loss.form = LossForm::kFrobenius;
  if (loss.kind == LossKind::kAttnXent) loss.form = LossForm::kSoftCe;
  if (loss.kind == LossKind::kLogits) loss.form = LossForm::kKl;
  if (loss.kind == LossKind::kCe) loss.form = LossForm::kHard, loss.mask = LossMask::kLabels;
  if (loss.kind == LossKind::kDpo) loss.form = LossForm::kSigmoid;
  const std::string what = "loss '" + name + "'";
  if (node.IsScalar()) {
    if (!parse_number(node.Scalar(), loss.weight) || loss.weight < 0) {
      source.fail(node, key, what, " is '", node.Scalar(), "'; expected its weight, or a mapping such as {weight: 1}");
    }
    return loss;
  }
  YamlFields fields(source, node, key, what);
  fields.number("weight", loss.weight, 0, 1e9);
  if (const auto forms = forms_of(loss.kind); !forms.empty()) read_name(source, fields, "form", "form of a loss", forms, loss.form);
  if (loss.kind == LossKind::kAttnOut) read_name(source, fields, "at", "place", kPlaces, loss.at_heads);
  if (loss.kind == LossKind::kHidden) fields.whole("gap", loss.gap, 1, 1 << 16);
  if (loss.kind == LossKind::kLogits) {
    fields.number("temperature", loss.temperature, 1e-3, 1e3);
    read_name(source, fields, "reduction", "reduction", kReductions, loss.reduction);
    read_cache(source, fields, loss);
  }
  if (loss.kind == LossKind::kLogits || loss.kind == LossKind::kCe) read_name(source, fields, "mask", "mask", kMasks, loss.mask);
  if (loss.kind == LossKind::kDpo) {
    fields.number("beta", loss.beta, 1e-6, 1e3);
    read_name(source, fields, "reference", "reference", kReferences, loss.reference);
  }
  fields.finish();
  return loss;
}

}  // namespace

void read_losses(YamlSource& source, YamlFields& stage, std::vector<LossSpec>& losses) {
  if (!stage.has("loss")) return source.fail(stage.node(), stage.key_of("loss"), "a stage needs 'loss', such as loss: {attn_out: 1}");
  const YAML::Node node = stage.take("loss");
  if (node.IsScalar()) {  // loss: attn_out
    losses.push_back(read_loss(source, node, YAML::Node(YAML::NodeType::Map), stage.key_of("loss")));
  } else if (node.IsMap() && node.size() > 0) {
    const YamlFields once(source, node, stage.key_of("loss"), "'loss'");  // no loss is named twice
    for (const auto& entry : node) {
      const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "?";
      losses.push_back(read_loss(source, entry.first, entry.second, stage.key_of("loss") + "." + name));
    }
  } else {
    return source.fail(node, stage.key_of("loss"), "'loss' must name one loss, or map losses to weights");
  }
  const auto layered = std::count_if(losses.begin(), losses.end(), [](const LossSpec& l) { return is_layer_loss(l.kind); });
  if (layered != 0 && layered != int64_t(losses.size())) {
    source.fail(node, stage.key_of("loss"), "attn_out, hidden, matrix and attn_xent feed every layer from the teacher, logits and ce run the student end to end: "
                "they cannot share a stage; make two");
  }
  const bool pairs = std::any_of(losses.begin(), losses.end(), [](const LossSpec& l) { return l.kind == LossKind::kDpo; });
  if (pairs && losses.size() > 1) {
    source.fail(node, stage.key_of("loss"), "dpo reads pairs of answers, the other losses read text: they cannot share a stage; make two");
  }
}

const char* loss_name(LossKind kind) { return name_of(kLosses, kind); }

const char* form_name(LossForm form) {
  if (form == LossForm::kHard) return "hard";
  if (form == LossForm::kFrobenius) return name_of(kMatrixForms, form);
  if (form == LossForm::kSigmoid) return "sigmoid";
  const bool logits = form == LossForm::kKl || form == LossForm::kSoftCe;
  return name_of(logits ? std::span<const Named>(kLogitForms) : std::span<const Named>(kLayerForms), form);
}

bool StageSpec::layer_wise() const {
  return std::all_of(losses.begin(), losses.end(), [](const LossSpec& l) { return is_layer_loss(l.kind); });
}

const LossSpec* StageSpec::find(LossKind kind) const {
  for (const auto& loss : losses) {
    if (loss.kind == kind) return &loss;
  }
  return nullptr;
}

}  // namespace retort::train
