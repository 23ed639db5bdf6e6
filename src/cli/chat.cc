// retort chat MODEL: a conversation by the model's chat template. The history is state: only new tokens are fed, also after going
// back to an earlier message, whose state the prefix cache has.
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <poll.h>
#include <unistd.h>

#include "base/format.h"
#include "base/interrupt.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "cli/speculation_flags.h"
#include "io/chat_template.h"
#include "io/utf8.h"
#include "runtime/prefix_cache.h"

namespace retort::cli {
namespace {

// Lines of standard input; ctrl-C ends the wait.
class LineReader {
 public:
  // False at the end of the input, or when interrupted.
  bool next(std::string& line) {
    for (;;) {
      if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
        line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return true;
      }
      if (!fill()) break;
    }
    line.swap(buffer_);
    buffer_.clear();
    return !line.empty() && !interrupted();
  }

 private:
  bool fill() {
    pollfd wait{STDIN_FILENO, POLLIN, 0};
    while (poll(&wait, 1, -1) < 0) {
      if (errno != EINTR || interrupted()) return false;
    }
    char bytes[4096];
    const ssize_t count = read(STDIN_FILENO, bytes, sizeof bytes);
    if (count <= 0) return false;
    buffer_.append(bytes, size_t(count));
    return true;
  }
  std::string buffer_;
};

Status check_text(const std::string& text, const std::string& what) {
  const size_t bad = utf8::first_invalid(text);
  return bad == utf8::kValid ? Status() : Status(invalid(what, ": not valid UTF-8 at byte ", bad));
}

class Chat : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_.path);
    add_runtime_flags(app, model_);
    app.add_option("--system-prompt", system_, "what the model is told first (-sys)");
    app.add_option("-n,--n-predict", count_, "tokens per answer at most")->check(CLI::Range(1, 1 << 30))->capture_default_str();
    add_sampling_flags(app, sampling_);
    add_speculation_flags(app, speculation_flags_);
    app.add_option("--cache-ram", cache_mib_, "MiB of states kept for going back in the conversation; 0 turns it off")
        ->check(CLI::Range(0, 1 << 24))->capture_default_str();
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_.path));
    RETORT_RETURN_IF_ERROR(check_text(system_, "--system-prompt"));
    RETORT_TRY(SamplingOptions options, sampling_options(sampling_));
    RETORT_TRY(OpenedText opened, open_with_tokenizer(model_, context));
    const Tokenizer& tokenizer = opened.tokenizer;
    options = with_tokens_alone(std::move(options), opened);
    RETORT_TRY(const ChatTemplate chat_template, ChatTemplate::of(tokenizer));
    const uint64_t seed = choose_seed(context);
    RETORT_TRY(auto speculation, open_speculation(speculation_flags_, opened, tokenizer, options, seed));
    catch_interrupts();
    Engine engine(opened.model, *opened.pool, opened.engine);
    Conversation talk{opened.files.config, tokenizer, chat_template, Session(engine), PrefixCache(int64_t(cache_mib_) << 20),
                      Sampler(options, seed), std::move(speculation), {}, false, false};
    RETORT_RETURN_IF_ERROR(loop(talk, context));
    return interrupted() ? Status(interrupted_error()) : Status();
  }

 private:
  struct Conversation {
    const ModelConfig& config;
    const Tokenizer& tokenizer;
    const ChatTemplate& chat_template;
    Session session;
    PrefixCache cache;
    Sampler sampler;
    std::optional<OpenedSpeculation> speculation;
    std::vector<ChatMessage> messages;
    bool warned;        // that the conversation has outgrown the model's context
    bool warned_inert;  // that the cache cannot hold a state
  };

  void restart(Conversation& talk) const {
    talk.messages.clear();
    if (!system_.empty()) talk.messages.push_back({"system", system_});
    talk.session.reset();
  }

  static constexpr std::string_view kEdit = "/edit ";

  // "/regenerate" and "/edit TEXT": takes the latest answer and its question back; line becomes the message to answer now.
  static bool go_back(Conversation& talk, std::string& line) {
    if (talk.messages.empty() || talk.messages.back().role != "assistant") return false;
    talk.messages.pop_back();
    line = line.starts_with(kEdit) ? line.substr(kEdit.size()) : talk.messages.back().content;
    talk.messages.pop_back();
    return true;
  }

  Status loop(Conversation& talk, const Context& context) {
    const bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && !context.json;
    restart(talk);
    LineReader lines;
    std::string line;
    nlohmann::ordered_json turns = nlohmann::ordered_json::array();
    if (terminal) std::fprintf(stderr, "/regenerate answers again, /edit TEXT asks something else instead, /reset starts over, /exit or ctrl-D ends\n");
    for (;;) {
      if (terminal) {
        std::fputs("> ", stdout);
        std::fflush(stdout);
      }
      if (!lines.next(line) || line == "/exit") break;
      if (line.empty()) continue;
      if (line == "/reset") {
        restart(talk);
        continue;
      }
      const bool back = line == "/regenerate" || line.starts_with(kEdit);
      if (terminal && line[0] == '/' && !back) {
        std::fprintf(stderr, "no command %s; there are: /regenerate, /edit TEXT, /reset, /exit\n", line.c_str());
        continue;
      }
      if (auto status = check_text(line, cat("message ", turns.size() + 1)); !status.ok()) {
        if (!terminal) return status;
        std::fprintf(stderr, "%s\n", status.error().message.c_str());  // a slip of the keyboard does not end the conversation
        continue;
      }
      if (back && !go_back(talk, line)) {
        std::fprintf(stderr, "%s: there is no answer yet\n", line.c_str());
        continue;
      }
      talk.messages.push_back({"user", line});
      RETORT_TRY(const Fed fed, feed(talk));
      RETORT_TRY(const std::string answer, reply(talk, !context.json));
      talk.messages.push_back({"assistant", answer});
      turns.push_back({{"user", line}, {"assistant", answer}, {"tokens_fed", fed.fed}, {"cached_tokens", fed.cached}});
      warn_inert_cache(talk);
      if (!talk.warned) talk.warned = warn_past_context(talk.config, int64_t(talk.session.tokens().size()));
      if (interrupted()) break;
    }
    if (terminal) std::fputs("\n", stdout);
    if (context.json) {
      nlohmann::ordered_json document = {{"model", model_.path}, {"turns", turns}, {"state_bytes", talk.session.sequence().bytes()}};
      const PrefixCache::Stats& cache = talk.cache.stats();
      document["prefix_cache"] = {{"states", cache.states}, {"bytes", cache.bytes}, {"lookups", cache.lookups}, {"hits", cache.hits},
                                  {"evicted", cache.evicted}, {"refused", cache.refused}};
      if (talk.speculation) document["speculation"] = speculation_json(*talk.speculation);
      print_json(document);
    } else if (talk.speculation) {
      std::fprintf(stderr, "%s\n", speculation_line(talk.speculation->speculation.stats()).c_str());
    }
    return {};
  }

  // Brings the state to where the answer begins. The template decides what the history looks like: when the answer as
  // generated is not how the template writes it down, the state goes back to before that answer.
  static Result<Fed> feed(Conversation& talk) {
    RETORT_TRY(const jinja::Rendered prompt, talk.chat_template.apply(talk.messages));
    RETORT_TRY(const std::vector<int32_t> ids, encode_chat(talk.tokenizer, prompt));
    return feed_with_cache(talk.session, talk.cache, ids, kSnapshotTokens, [](int64_t) { return !interrupted(); });
  }

  void warn_inert_cache(Conversation& talk) const {
    if (cache_mib_ == 0 || talk.warned_inert || talk.cache.stats().refused == 0) return;
    talk.warned_inert = true;
    std::fprintf(stderr, "retort: warning: --cache-ram %d holds no state of this length (%s): going back feeds everything again\n",
                 cache_mib_, format_bytes(double(talk.session.sequence().bytes())).c_str());
  }

  Result<std::string> reply(Conversation& talk, bool stream) const {
    TextStream text;
    std::string answer;
    const auto add = [&](const std::string& piece) {
      answer += piece;
      if (!stream) return;
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    };
    int64_t made = 0;
    bool ended = false;
    const auto take = [&](int token) {
      ++made;
      ended = talk.tokenizer.is_eog(token);
      if (!ended && !talk.tokenizer.is_special(token)) add(text.push(talk.tokenizer.token_bytes(token)));
      return !ended;
    };
    while (made < count_ && !ended && !interrupted()) {
      if (talk.speculation) {
        RETORT_RETURN_IF_ERROR(talk.speculation->speculation.step(talk.session, talk.sampler, count_ - made, take));
        continue;
      }
      if (talk.session.pending() > 0) RETORT_RETURN_IF_ERROR(talk.session.consume());
      talk.session.commit(talk.sampler.sample(talk.session.logits(), talk.session.tokens()));
      take(talk.session.tokens().back());
    }
    const Sequence& state = talk.session.sequence();
    talk.cache.put(std::span(talk.session.tokens()).first(size_t(state.position())), state);
    add(text.finish());
    if (stream) std::fputs("\n", stdout);
    return answer;
  }

  static constexpr int64_t kSnapshotTokens = 512;

  ModelFlags model_;
  SamplingFlags sampling_;
  SpeculationFlags speculation_flags_;
  int cache_mib_ = 1024;
  std::string system_;
  int64_t count_ = 1024;
};

}  // namespace

std::unique_ptr<Command> make_chat() { return std::make_unique<Chat>(); }

}  // namespace retort::cli
