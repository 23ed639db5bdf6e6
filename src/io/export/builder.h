// What the targets' tables are written with: tensors added by name, and the rules that most targets share.
//
// Layer: io.
#pragma once

#include "io/export/layout.h"
#include "mixers/list.h"

namespace retort {

// How a class calls what stands around the mixers of a Llama block. A stem is the name without ".weight"; those of a layer follow
// its prefix.
struct BlockNames {
  std::string embedding, final_norm;
  std::string layer;                      // "model.layers." before the number
  std::string mixer_norm, mlp_norm;
  std::string gate, up, down;             // gate and up alike: one tensor, gate above up
  ExportPiece::Change norms = ExportPiece::Change::kNone;
  std::string head = "lm_head.weight";
  bool ties = true;                       // the class can share the embedding with the head
};

class ExportBuilder {
 public:
  explicit ExportBuilder(const ModelConfig& config) : config_(config), specs_(specs_by_name(config)) {}

  const ModelConfig& config() const { return config_; }
  bool has(const std::string& ours) const { return specs_.count(ours) > 0; }
  const std::vector<int64_t>& shape(const std::string& ours) const { return specs_.at(ours).shape; }

  // As it is.
  void copy(const std::string& theirs, const std::string& ours) { add(theirs, {ExportPiece::copy(ours)}); }
  // Depthwise taps [channels, taps] as [channels, 1, taps].
  void conv(const std::string& theirs, std::vector<ExportPiece> pieces);
  // Pieces above one another; the columns are the first source's (and its fill's).
  void add(const std::string& theirs, std::vector<ExportPiece> pieces) { add_shaped(theirs, {}, std::move(pieces)); }
  // The same values in another shape; {}: as add() finds it.
  void add_shaped(const std::string& theirs, std::vector<int64_t> shape, std::vector<ExportPiece> pieces);
  // Embedding, norms, MLPs, head.
  void blocks(const BlockNames& names);

  std::vector<ExportTensor> take() { return std::move(tensors_); }

 private:
  const ModelConfig& config_;
  SpecsByName specs_;
  std::vector<ExportTensor> tensors_;
};

// "model.layers.3.mixer.": what our tensors' names of a layer with one part start with.
inline std::string ours_in(const ModelConfig& config, int layer) { return part_prefix(config, layer, 0); }

// One mixer in every layer, attention in others: its name, fields shared by all layers that have it, and which those are.
struct OneMixer {
  std::string mixer;               // "attention" or "window" when no layer has another
  nlohmann::json fields = nlohmann::json::object();
  std::vector<bool> recurrent;     // [layers]
  std::vector<int> kept;           // layers with attention
  WindowConfig kept_window;        // of "window" layers among them; all of them alike
};
// `target` names the class in messages. Head-wise hybrids, windows joined with a recurrence, two recurrent mixers in one model and
// fields that differ between layers are refused.
Result<OneMixer> one_mixer(const ModelConfig& config, const std::string& target);

// "'field' is 3; TARGET has 16 in its code".
template <class T>
Error wont_fit(const std::string& target, const std::string& what, const T& is, const std::string& rule) {
  return invalid("cannot be written as ", target, ": ", what, " is ", is, "; ", rule);
}

// The rule of classes whose mixers have nothing of a teacher's attention but its matrices.
Status no_qkv_extras(const ModelConfig& config, const std::string& target);

// The rules of attention layers that rotate as Llama does and have no more than q, k, v, o.
Status plain_attention(const ModelConfig& config, const OneMixer& one, const std::string& target, bool bias_fits);

// Keys that every config.json has.
nlohmann::json common_config(const ModelConfig& config, const char* architecture, const char* model_type);
// transformers' rope_parameters, base included.
nlohmann::json rope_parameters(const ModelConfig& config);

// c such that int(width * c), as Python computes it, is `wanted`; an error when there is none.
Result<double> width_factor(const ModelConfig& config, int64_t wanted, const std::string& target, const char* key);

}  // namespace retort
