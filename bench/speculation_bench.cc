// Speculation on real text: for every number of guesses the acceptance, the tokens per step beside what the acceptance predicts, and
// the speed beside plain decoding's of the same prompts in the same run. Greedy text must be plain decoding's token for token:
// anything else ends with exit code 1.
//
//   speculation_bench MODEL --text FILE [--draft MODEL] [--prompts 100] [--prompt-tokens 128] [--tokens 64] [--guesses 2,3,4,5,6,8]
//
// Then what a step costs: a plain one, a judging pass, going back over half of it by the replay log, and what copies of the whole
// state after every token would cost instead.
#include <cstdio>
#include <map>

#include <CLI/CLI.hpp>

#include "base/timing.h"
#include "io/corpus.h"
#include "io/tokenizer_files.h"
#include "runtime/speculation.h"

namespace retort {
namespace {

struct Flags {
  std::string model, draft, text;
  int prompts = 100, prompt_tokens = 128, tokens = 64, threads = 0;
  std::vector<int> guesses{2, 3, 4, 5, 6, 8};
};

const SamplingOptions kGreedy{.temperature = 0, .top_k = 0, .top_p = 1, .min_p = 0};

Result<std::vector<std::vector<int>>> read_prompts(const Flags& flags, const Tokenizer& tokenizer) {
  RETORT_TRY(CorpusReader reader, CorpusReader::open(flags.text));
  std::vector<std::vector<int>> prompts;
  while (int(prompts.size()) < flags.prompts) {
    RETORT_TRY(const auto document, reader.next());
    if (!document) break;
    RETORT_TRY(const std::vector<int32_t> ids, tokenizer.encode(document->text));
    if (int(ids.size()) < flags.prompt_tokens) continue;
    prompts.emplace_back(ids.begin(), ids.begin() + flags.prompt_tokens);
  }
  if (prompts.empty()) return invalid(flags.text, ": no document of ", flags.prompt_tokens, " tokens");
  return prompts;
}

struct Total {
  SpeculationStats stats;
  double seconds = 0;
  int64_t differing = 0;  // prompts
};

class Bench {
 public:
  Bench(Flags flags, std::shared_ptr<const Model> model, std::shared_ptr<const Model> draft, ThreadPool& pool)
      : flags_(std::move(flags)), model_(std::move(model)), draft_(std::move(draft)), pool_(pool), engine_(model_, pool) {}

  // True: every text was plain decoding's.
  Result<bool> run(const std::vector<std::vector<int>>& prompts) {
    for (size_t i = 0; i < prompts.size(); ++i) {
      RETORT_RETURN_IF_ERROR(one_prompt(prompts[i]));
      std::fprintf(stderr, "\r%zu of %zu prompts", i + 1, prompts.size());
    }
    std::fprintf(stderr, "\n");
    const double plain = double(plain_tokens_) / plain_seconds_;
    std::printf("%zu prompts of %d tokens, %d new each, %d threads; plain decoding %.1f tok/s\n", prompts.size(), flags_.prompt_tokens,
                flags_.tokens, pool_.size(), plain);
    std::printf("%-6s %7s %9s %6s %12s %9s %8s %9s  %s\n", "draft", "guesses", "accepted", "alpha", "tokens/step", "expected", "tok/s",
                "speed-up", "greedy text");
    bool same = true;
    for (const auto& [key, t] : totals_) {
      const double rate = double(t.stats.tokens) / t.seconds;
      const double guesses = double(t.stats.guessed) / double(t.stats.steps);  // per step: n-grams often have none
      std::printf("%-6s %7d %8.1f%% %6.2f %12.2f %9.2f %8.1f %9.2f  %s\n", key.first.c_str(), key.second, 100 * t.stats.accepted_share(),
                  t.stats.alpha(), t.stats.tokens_per_step(), 1 + (expected_tokens(t.stats.alpha(), key.second) - 1) * guesses / key.second,
                  rate, rate / plain, t.differing == 0 ? "identical" : cat(t.differing, " prompts DIFFER").c_str());
      same = same && t.differing == 0;
    }
    return same;
  }

  Status costs(const std::vector<int>& prompt) {
    Session session(engine_);
    session.commit(prompt);
    RETORT_RETURN_IF_ERROR(session.consume());
    session.commit(prompt.front());
    constexpr int kRepeats = 20;
    Session plain = session.clone();
    double step = 0;
    for (int i = 0; i < kRepeats; ++i) {
      const auto started = Clock::now();
      RETORT_RETURN_IF_ERROR(plain.consume());
      step += seconds_since(started);
      plain.commit(prompt[size_t(i) % prompt.size()]);
    }
    std::printf("\nplain step %.2f ms; state %.2f MB\n%7s %14s %10s %14s %14s\n", 1e3 * step / kRepeats,
                double(session.sequence().bytes()) / 1e6, "guesses", "judging pass", "steps", "going back", "or copies");
    Trial trial;
    std::vector<float> logits;
    for (const int k : flags_.guesses) {
      double pass = 0, back = 0, copies = 0;
      for (int i = 0; i < kRepeats; ++i) {
        const std::vector<int> guesses(prompt.begin(), prompt.begin() + std::min(k, int(prompt.size())));
        auto started = Clock::now();
        RETORT_RETURN_IF_ERROR(session.consume_on_trial(guesses, trial, logits));
        pass += seconds_since(started);
        started = Clock::now();
        session.keep(trial, std::span(guesses).first(size_t(k + 1) / 2));
        back += seconds_since(started);
        started = Clock::now();
        std::vector<Sequence> states(size_t(k + 1), session.sequence());
        copies += seconds_since(started);
      }
      const double ms = 1e3 / kRepeats;
      std::printf("%7d %11.2f ms %10.2f %11.2f ms %11.2f ms\n", k, ms * pass, pass / step, ms * back, ms * copies);
    }
    std::printf("replay log and overwritten rows: %.2f MB\n", double(trial.bytes()) / 1e6);
    return {};
  }

 private:
  Status one_prompt(const std::vector<int>& prompt) {
    Session start(engine_);
    start.commit(prompt);
    RETORT_RETURN_IF_ERROR(start.consume());
    Sampler sampler(kGreedy, 1);
    Session plain = start.clone();
    auto started = Clock::now();
    for (int i = 0; i < flags_.tokens; ++i) {
      if (plain.pending() > 0) RETORT_RETURN_IF_ERROR(plain.consume());
      plain.commit(sampler.sample(plain.logits(), plain.tokens()));
    }
    plain_seconds_ += seconds_since(started);
    plain_tokens_ += flags_.tokens;
    for (const int guesses : flags_.guesses) {
      RETORT_RETURN_IF_ERROR(speculate(start, plain.tokens(), totals_[{"ngram", guesses}], {std::make_unique<NgramDraft>(), guesses}));
      if (!draft_) continue;
      auto draft = std::make_unique<ModelDraft>(draft_, pool_, EngineOptions{}, kGreedy, 1);
      std::vector<Guess> unused;
      RETORT_RETURN_IF_ERROR(draft->propose(prompt, 1, unused));  // reading the prompt is prefill, not decoding
      RETORT_RETURN_IF_ERROR(speculate(start, plain.tokens(), totals_[{"model", guesses}], {std::move(draft), guesses}));
    }
    return {};
  }

  Status speculate(const Session& start, const std::vector<int>& expected, Total& total, Speculation speculation) {
    Session session = start.clone();
    Sampler sampler(kGreedy, 1);
    const auto started = Clock::now();
    for (int64_t made = 0; made < flags_.tokens;) {
      RETORT_RETURN_IF_ERROR(speculation.step(session, sampler, flags_.tokens - made, [&](int) { return ++made > 0; }));
    }
    total.seconds += seconds_since(started);
    total.differing += session.tokens() != expected;
    const SpeculationStats& s = speculation.stats();
    total.stats.steps += s.steps, total.stats.tokens += s.tokens, total.stats.guessed += s.guessed;
    total.stats.judged += s.judged, total.stats.accepted += s.accepted;
    return {};
  }

  Flags flags_;
  std::shared_ptr<const Model> model_, draft_;
  ThreadPool& pool_;
  Engine engine_;
  std::map<std::pair<std::string, int>, Total> totals_;
  double plain_seconds_ = 0;
  int64_t plain_tokens_ = 0;
};

Result<bool> run(const Flags& flags) {
  ThreadPool pool(flags.threads);
  RETORT_TRY(const ModelFiles files, open_model(flags.model));
  RETORT_TRY(const auto model, Model::load(files, WeightFormat::kAuto, pool));
  RETORT_TRY(const Tokenizer tokenizer, files.gguf ? tokenizer_from_gguf(*files.gguf) : load_tokenizer(files.path));
  std::shared_ptr<const Model> draft;
  if (!flags.draft.empty()) {
    RETORT_TRY(const ModelFiles draft_files, open_model(flags.draft));
    RETORT_TRY(draft, Model::load(draft_files, WeightFormat::kAuto, pool));
  }
  RETORT_TRY(const auto prompts, read_prompts(flags, tokenizer));
  Bench bench(flags, model, draft, pool);
  RETORT_TRY(const bool same, bench.run(prompts));
  RETORT_RETURN_IF_ERROR(bench.costs(prompts.front()));
  return same;
}

}  // namespace
}  // namespace retort

int main(int argc, char** argv) {
  retort::Flags flags;
  CLI::App app("Speculation beside plain decoding, on real text");
  app.add_option("MODEL", flags.model)->required();
  app.add_option("--text", flags.text, ".txt or .jsonl, plain, gzip or zstd")->required();
  app.add_option("--draft", flags.draft, "a model with the same tokens");
  app.add_option("--prompts", flags.prompts)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--prompt-tokens", flags.prompt_tokens)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--tokens", flags.tokens)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--guesses", flags.guesses)->delimiter(',')->check(CLI::Range(1, 32))->capture_default_str();
  app.add_option("-t,--threads", flags.threads)->check(CLI::Range(0, 1024));
  CLI11_PARSE(app, argc, argv);
  const auto same = retort::run(flags);
  if (!same.ok()) std::fprintf(stderr, "speculation_bench: %s\n", same.error().message.c_str());
  return same.ok() ? *same ? 0 : 1 : 2;
}
