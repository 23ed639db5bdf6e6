// retort generate MODEL -p "...": the text streams to standard output as it is made.
#include <cstdio>

#include "base/atomic_file.h"
#include "base/format.h"
#include "base/interrupt.h"
#include "base/timing.h"
#include "cli/flags.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "cli/speculation_flags.h"
#include "cli/text_input.h"

namespace retort::cli {
namespace {

class Generate : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_.path);
    add_runtime_flags(app, model_);
    app.add_option("-p,--prompt", prompt_, "the text to continue");
    app.add_option("-f,--file", file_, "read the prompt from a file, or - for standard input");
    app.add_option("-n,--n-predict", count_, "tokens to make at most")->check(CLI::Range(0, 1 << 30))->capture_default_str();
    add_sampling_flags(app, sampling_);
    add_speculation_flags(app, speculation_flags_);
    app.add_flag("--ignore-eos", ignore_eos_, "go on after the end-of-text token");
    app.add_flag("--no-display-prompt", hide_prompt_, "print only what was made");
    app.add_option("--state-in", state_in_, "continue from a saved state");
    app.add_option("--state-out", state_out_, "save the state at the end");
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_.path));
    if (!prompt_.empty() && !file_.empty()) return invalid("generate: give either -p or -f, not both");
    RETORT_TRY(SamplingOptions options, sampling_options(sampling_));
    const uint64_t seed = choose_seed(context);
    RETORT_RETURN_IF_ERROR(check_can_write(state_out_));
    RETORT_TRY(OpenedText opened, open_with_tokenizer(model_, context));
    const Tokenizer& tokenizer = opened.tokenizer;
    options = with_tokens_alone(std::move(options), opened);
    RETORT_TRY(speculation_, open_speculation(speculation_flags_, opened, tokenizer, options, seed));
    Engine engine(opened.model, *opened.pool, opened.engine);
    Session session(engine);
    RETORT_RETURN_IF_ERROR(prepare(tokenizer, session));
    warn_past_context(opened.model->config(), int64_t(session.tokens().size()) + count_);
    catch_interrupts();
    Sampler sampler(options, seed);
    RETORT_RETURN_IF_ERROR(generate(tokenizer, session, sampler, !context.json));
    if (!state_out_.empty()) RETORT_RETURN_IF_ERROR(session.save(state_out_));
    if (context.json) print_json(document(opened, session, seed));
    else std::fprintf(stderr, "%s\n", timing_line().c_str());
    return interrupted() ? Status(interrupted_error()) : Status();
  }

 private:
  // Commits the saved tokens and the prompt.
  Status prepare(const Tokenizer& tokenizer, Session& session) {
    if (!state_in_.empty()) RETORT_RETURN_IF_ERROR(session.load(state_in_));
    if (!file_.empty()) {
      RETORT_TRY(prompt_, read_text_input(file_));
    }
    const bool fresh = session.tokens().empty();
    auto ids = tokenizer.encode(prompt_, {.add_special = fresh, .parse_special = true});
    if (!ids.ok()) return invalid("the prompt: ", ids.error().message);
    if (ids->empty() && fresh) {
      if (tokenizer.bos_id() < 0) return invalid("generate: an empty prompt, and the model has no start token: give -p or -f");
      ids->push_back(tokenizer.bos_id());
    }
    if (ids->empty() && session.pending() == 0 && session.logits().empty()) {
      return invalid(state_in_, ": the state has neither a pending token nor logits: give -p or -f");
    }
    session.commit(std::vector<int>(ids->begin(), ids->end()));
    return {};
  }

  Status generate(const Tokenizer& tokenizer, Session& session, Sampler& sampler, bool stream) {
    auto write = [&](const std::string& text) {
      if (!stream || text.empty()) return;
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
    if (!hide_prompt_) write(prompt_);
    const int64_t waiting = session.pending();
    auto started = Clock::now();
    const Status consumed = session.consume([](int64_t) { return !interrupted(); });
    prompt_tokens_ = waiting - session.pending();
    prompt_seconds_ = seconds_since(started);
    if (!consumed.ok()) {
      if (!interrupted()) return consumed;
      stop_ = "interrupted";
      write("\n");
      return {};
    }
    started = Clock::now();
    TextStream text;
    const auto take = [&](int token) {
      made_.push_back(token);
      if (tokenizer.is_eog(token) && !ignore_eos_) {
        stop_ = "eos";
        return false;
      }
      const std::string piece = text.push(tokenizer.is_special(token) ? "" : tokenizer.token_bytes(token));
      text_ += piece;
      write(piece);
      return true;
    };
    while (int64_t(made_.size()) < count_ && stop_ != "eos" && !interrupted()) {
      if (speculation_) {
        RETORT_RETURN_IF_ERROR(speculation_->speculation.step(session, sampler, count_ - int64_t(made_.size()), take));
        continue;
      }
      if (session.pending() > 0) RETORT_RETURN_IF_ERROR(session.consume());
      session.commit(sampler.sample(session.logits(), session.tokens()));
      take(session.tokens().back());
    }
    if (interrupted()) stop_ = "interrupted";
    decode_seconds_ = seconds_since(started);
    const std::string rest = text.finish();
    text_ += rest;
    write(rest);
    write("\n");
    return {};
  }

  std::string timing_line() const {
    return cat(prompt_tokens_, " prompt tokens at ", format_significant(double(prompt_tokens_) / std::max(prompt_seconds_, 1e-9), 3),
               " tok/s, ", made_.size(), " new at ", format_significant(double(made_.size()) / std::max(decode_seconds_, 1e-9), 3),
               " tok/s", speculation_ ? "; " + speculation_line(speculation_->speculation.stats()) : "");
  }

  nlohmann::ordered_json document(const OpenedModel& opened, const Session& session, uint64_t seed) const {
    nlohmann::ordered_json out;
    out["model"] = model_.path;
    out["prompt"] = prompt_;
    out["text"] = text_;
    out["tokens"] = made_;
    out["stop"] = stop_;
    out["seed"] = seed;
    out["prompt_tokens"] = prompt_tokens_;
    out["state_bytes"] = session.sequence().bytes();
    if (speculation_) out["speculation"] = speculation_json(*speculation_);
    out["timings"] = {{"load_seconds", opened.load_seconds},
                      {"prompt_seconds", prompt_seconds_},
                      {"prompt_tokens_per_second", double(prompt_tokens_) / std::max(prompt_seconds_, 1e-9)},
                      {"decode_seconds", decode_seconds_},
                      {"decode_tokens_per_second", double(made_.size()) / std::max(decode_seconds_, 1e-9)}};
    return out;
  }

  ModelFlags model_;
  SamplingFlags sampling_;
  SpeculationFlags speculation_flags_;
  std::optional<OpenedSpeculation> speculation_;
  std::string prompt_, file_, state_in_, state_out_;
  int64_t count_ = 128;
  bool ignore_eos_ = false, hide_prompt_ = false;
  std::vector<int> made_;
  std::string text_, stop_ = "length";
  int64_t prompt_tokens_ = 0;
  double prompt_seconds_ = 0, decode_seconds_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_generate() { return std::make_unique<Generate>(); }

}  // namespace retort::cli
