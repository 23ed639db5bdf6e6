// retort synthesize MODEL --prompts FILE --out FILE.jsonl: the model's own answers to prompts, a conversation a line, as data to train a
// student on (pseudo-labels).
#include <algorithm>
#include <cstdio>

#include "base/atomic_file.h"
#include "base/format.h"
#include "base/interrupt.h"
#include "base/mapped_file.h"
#include "base/progress.h"
#include "base/sha256.h"
#include "base/timing.h"
#include "cli/answering/answering.h"
#include "cli/answering/progress_file.h"
#include "cli/output.h"
#include "cli/synthesize/prompts.h"

namespace retort::cli {
namespace {

using harness::Json;

constexpr size_t kMostBytes = size_t{2} << 30;  // of the prompts' file
constexpr uint64_t kDefaultSeed = 0;                   // the same answers for whoever asks, unless another seed is wanted

struct Summary {
  int64_t prompts = 0, resumed = 0, cut = 0;
  AnsweringWork work;  // of this process
  double seconds = 0;

  double tokens_per_second() const { return seconds > 0 ? double(work.made_tokens) / seconds : 0; }
};

Json sampling_json(const SamplingOptions& s) {
  return {{"temperature", s.temperature}, {"top_k", s.top_k}, {"top_p", s.top_p}, {"min_p", s.min_p},
          {"repeat_penalty", s.repeat_penalty}, {"repeat_last_n", s.repeat_last_n}};
}

class Synthesize : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_.path);
    add_runtime_flags(app, model_);
    app.add_option("--prompts", prompts_, "lines of a .jsonl with \"messages\" or \"prompt\", or lines of a .txt; also .gz, .zst");
    app.add_option("-o,--out", out_, "the .jsonl file to write: a conversation a line");
    app.add_option("-n,--n-predict", answering_.max_tokens, "tokens per answer at most")->check(CLI::Range(1, 1 << 24))->capture_default_str();
    app.add_option("--parallel", answering_.parallel, "answers that are made at a time (-np)")->check(CLI::Range(1, 1024))->capture_default_str();
    app.add_option("--shard", shard_text_, "i/n: only the prompts whose place modulo n is i, from 0; for job arrays");
    add_sampling_flags(app, sampling_);
    app.add_option("--cache-ram", cache_mib_, "MiB of states kept for prompts that begin like earlier ones; 0 turns it off")
        ->check(CLI::Range(0, 1 << 24))->capture_default_str();
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_.path));
    RETORT_RETURN_IF_ERROR(prepare(context));
    RETORT_TRY(const OpenedText opened, open_with_tokenizer(model_, context));
    const Tokenizer& tokenizer = opened.tokenizer;
    catch_interrupts();
    RETORT_TRY(const Summary summary, answer(opened, tokenizer));
    print(context, summary);
    return {};
  }

 private:
  // Everything that can be wrong with what was given is found before the model runs.
  Status prepare(const Context& context) {
    if (prompts_.empty()) return invalid("no --prompts: name a .jsonl or .txt file of prompts");
    if (out_.empty()) return invalid("no --out: name the .jsonl file to write");
    RETORT_TRY(shard_, parse_shard(shard_text_));
    // The teacher's own distribution, unless asked otherwise.
    sampling_.temperature = sampling_.temperature.value_or(1);
    sampling_.top_k = sampling_.top_k.value_or(0);
    sampling_.top_p = sampling_.top_p.value_or(1);
    sampling_.min_p = sampling_.min_p.value_or(0);
    RETORT_TRY(const SamplingOptions sampling, sampling_options(sampling_));
    answering_.sampling = [sampling](size_t) { return sampling; };
    answering_.seed = context.seed.value_or(kDefaultSeed);
    answering_.cache_bytes = int64_t(cache_mib_) << 20;
    RETORT_TRY(std::string content, read_text_file(prompts_, kMostBytes));
    settings_ = {{"prompts", sha256_hex(content)}, {"max_tokens", answering_.max_tokens}, {"seed", answering_.seed},
                 {"sampling", sampling_json(sampling)}, {"shard", {shard_.index, shard_.count}},
                 {"weights", model_.weights}, {"activations", model_.activations}};
    RETORT_TRY(asked_, read_prompts(std::move(content), prompts_));
    for (size_t k = size_t(shard_.index); k < asked_.size(); k += size_t(shard_.count)) mine_.push_back(k);
    RETORT_RETURN_IF_ERROR(check_can_write(out_));
    RETORT_TRY(const ModelFiles files, open_model(model_.path));
    return check_prompts(files);
  }

  // The model's chat template takes each of them.
  Status check_prompts(const ModelFiles& files) const {
    RETORT_TRY(const Tokenizer tokenizer, open_tokenizer(files));
    RETORT_TRY(const ChatTemplate chat_template, ChatTemplate::of(tokenizer));
    int64_t longest = 0;
    for (size_t k : mine_) {
      const auto rendered = chat_template.apply(asked_[k].messages);
      if (!rendered.ok()) return invalid(asked_[k].where, ": ", rendered.error().message);
      const auto ids = encode_chat(tokenizer, *rendered);
      if (!ids.ok()) return invalid(asked_[k].where, ": ", ids.error().message);
      if (ids->empty()) return invalid(asked_[k].where, ": the model's chat template makes nothing of this prompt");
      longest = std::max(longest, int64_t(ids->size()));
    }
    warn_past_context(files.config, longest + answering_.max_tokens);
    return {};
  }

  Result<Summary> answer(const OpenedModel& opened, const Tokenizer& tokenizer) {
    settings_["identity"] = opened.model->identity();
    RETORT_TRY(ProgressFile partial, ProgressFile::open(out_ + ".partial", settings_));
    for (const auto& [k, answer] : partial.answers()) {
      const auto has = [&answer = answer](const char* key) { return answer.is_object() && answer.contains(key) && answer[key].is_string(); };
      if (!has("content") || !has("finish")) return invalid(out_, ".partial: not an answer of ", k, "; delete the file to begin again");
    }
    Summary summary;
    std::vector<size_t> todo;
    for (size_t k : mine_) {
      if (!partial.answers().contains(k)) todo.push_back(k);
    }
    summary.prompts = int64_t(mine_.size());
    summary.resumed = summary.prompts - int64_t(todo.size());
    std::vector<Conversation> conversations;
    for (const auto& prompt : asked_) conversations.push_back({prompt.messages});
    Progress progress("synthesize", int64_t(todo.size()));
    const auto started = Clock::now();
    int64_t done = 0;
    RETORT_RETURN_IF_ERROR(answer_all(opened, tokenizer, conversations, todo, answering_, summary.work, [&](size_t k, const Answer& made) {
      summary.seconds = seconds_since(started);
      progress.update(++done, cat(format_count(summary.work.made_tokens), " tokens  ", format_significant(summary.tokens_per_second(), 3), " tok/s"));
      return partial.add(k, {{"content", made.turns.front()}, {"finish", made.whole ? "stop" : "length"}});
    }));
    summary.seconds = seconds_since(started);
    progress.finish();
    RETORT_RETURN_IF_ERROR(write(partial, summary));
    partial.remove();
    return summary;
  }

  Status write(const ProgressFile& partial, Summary& summary) const {
    RETORT_TRY(AtomicFile file, AtomicFile::create(out_));
    for (size_t k : mine_) {
      const Json& answer = partial.answers().at(k);
      Json messages = Json::array();
      for (const auto& [role, content] : asked_[k].messages) messages.push_back({{"role", role}, {"content", content}});
      messages.push_back({{"role", "assistant"}, {"content", answer["content"]}});
      summary.cut += answer["finish"] == "length";
      RETORT_RETURN_IF_ERROR(file.write(Json{{"messages", messages}, {"source", k}, {"finish", answer["finish"]}}.dump() + "\n"));
    }
    return file.commit();
  }

  void print(const Context& context, const Summary& s) const {
    if (context.json) {
      return print_json({{"out", out_}, {"model", model_.path}, {"prompts", s.prompts}, {"resumed", s.resumed}, {"cut_at_length", s.cut},
                         {"prompt_tokens", s.work.prompt_tokens}, {"cached_tokens", s.work.cached_tokens}, {"made_tokens", s.work.made_tokens},
                         {"tokens_per_second", s.tokens_per_second()}, {"seconds", s.seconds}, {"seed", answering_.seed}});
    }
    std::printf("%s: %lld answers, %lld of them cut at %lld tokens; %s tokens made in %s, %s tok/s\n", out_.c_str(), static_cast<long long>(s.prompts),
                static_cast<long long>(s.cut), static_cast<long long>(answering_.max_tokens), format_count(s.work.made_tokens).c_str(),
                format_duration(s.seconds).c_str(), format_significant(s.tokens_per_second(), 3).c_str());
  }

  ModelFlags model_;
  std::string prompts_, out_, shard_text_;
  AnsweringOptions answering_{.parallel = 16, .max_tokens = 1024};
  SamplingFlags sampling_;
  int cache_mib_ = 256;
  Shard shard_;
  Json settings_;
  std::vector<SynthesisPrompt> asked_;
  std::vector<size_t> mine_;  // places in asked_
};

}  // namespace

std::unique_ptr<Command> make_synthesize() { return std::make_unique<Synthesize>(); }

}  // namespace retort::cli
