// retort chat MODEL: a conversation by the model's chat template. The history is state: only new tokens are fed.
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <poll.h>
#include <unistd.h>

#include "base/format.h"
#include "base/interrupt.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "io/chat_template.h"
#include "io/utf8.h"
#include "runtime/session.h"

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
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_.path));
    RETORT_RETURN_IF_ERROR(check_text(system_, "--system-prompt"));
    RETORT_TRY(const SamplingOptions options, sampling_options(sampling_));
    RETORT_TRY(OpenedModel opened, open_for_running(model_, context));
    RETORT_TRY(const Tokenizer tokenizer, open_tokenizer(opened.files));
    RETORT_TRY(const ChatTemplate chat_template, ChatTemplate::of(tokenizer));
    catch_interrupts();
    Engine engine(opened.model, *opened.pool, opened.engine);
    Conversation talk{opened.files.config, tokenizer, chat_template, Session(engine), Session(engine), Sampler(options, choose_seed(context)), {}, false};
    RETORT_RETURN_IF_ERROR(loop(talk, context));
    return interrupted() ? Status(interrupted_error()) : Status();
  }

 private:
  struct Conversation {
    const ModelConfig& config;
    const Tokenizer& tokenizer;
    const ChatTemplate& chat_template;
    Session session;
    Session turn_start;  // before the latest answer
    Sampler sampler;
    std::vector<ChatMessage> messages;
    bool warned;         // that the conversation has outgrown the model's context
  };

  void restart(Conversation& talk) const {
    talk.messages.clear();
    if (!system_.empty()) talk.messages.push_back({"system", system_});
    talk.session.reset();
    talk.turn_start.reset();
  }

  Status loop(Conversation& talk, const Context& context) {
    const bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && !context.json;
    restart(talk);
    LineReader lines;
    std::string line;
    nlohmann::ordered_json turns = nlohmann::ordered_json::array();
    if (terminal) std::fprintf(stderr, "/reset starts over, /exit or ctrl-D ends\n");
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
      if (terminal && line[0] == '/') {
        std::fprintf(stderr, "no command %s; there are: /reset, /exit\n", line.c_str());
        continue;
      }
      if (auto status = check_text(line, cat("message ", turns.size() + 1)); !status.ok()) {
        if (!terminal) return status;
        std::fprintf(stderr, "%s\n", status.error().message.c_str());  // a slip of the keyboard does not end the conversation
        continue;
      }
      talk.messages.push_back({"user", line});
      RETORT_TRY(const int64_t fed, feed(talk));
      RETORT_TRY(const std::string answer, reply(talk, !context.json));
      talk.messages.push_back({"assistant", answer});
      turns.push_back({{"user", line}, {"assistant", answer}, {"tokens_fed", fed}});
      if (!talk.warned) talk.warned = warn_past_context(talk.config, int64_t(talk.session.tokens().size()));
      if (interrupted()) break;
    }
    if (terminal) std::fputs("\n", stdout);
    if (context.json) {
      print_json({{"model", model_.path}, {"turns", turns}, {"state_bytes", talk.session.sequence().bytes()}});
    }
    return {};
  }

  static bool starts_with(const std::vector<int32_t>& ids, const std::vector<int>& start) {
    return start.size() < ids.size() && std::equal(start.begin(), start.end(), ids.begin());
  }

  // Brings the state to where the answer begins. The template decides what the history looks like: when the answer as
  // generated is not how the template writes it down, the state goes back to before that answer.
  Result<int64_t> feed(Conversation& talk) const {
    RETORT_TRY(const jinja::Rendered prompt, talk.chat_template.apply(talk.messages));
    RETORT_TRY(const std::vector<int32_t> ids, encode_chat(talk.tokenizer, prompt));
    if (!starts_with(ids, talk.session.tokens())) {
      talk.session = talk.turn_start.clone();
      if (!starts_with(ids, talk.session.tokens())) talk.session.reset();
    }
    talk.session.commit(std::vector<int>(ids.begin() + ptrdiff_t(talk.session.tokens().size()), ids.end()));
    const int64_t fed = talk.session.pending();
    if (auto status = talk.session.consume([](int64_t) { return !interrupted(); }); !status.ok()) return status.error();
    talk.turn_start = talk.session.clone();
    return fed;
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
    for (int64_t made = 0; made < count_ && !interrupted(); ++made) {
      if (talk.session.pending() > 0) RETORT_RETURN_IF_ERROR(talk.session.consume());
      const int token = talk.sampler.sample(talk.session.logits(), talk.session.tokens());
      talk.session.commit(token);
      if (talk.tokenizer.is_eog(token)) break;
      if (!talk.tokenizer.is_special(token)) add(text.push(talk.tokenizer.token_bytes(token)));
    }
    add(text.finish());
    if (stream) std::fputs("\n", stdout);
    return answer;
  }

  ModelFlags model_;
  SamplingFlags sampling_;
  std::string system_;
  int64_t count_ = 1024;
};

}  // namespace

std::unique_ptr<Command> make_chat() { return std::make_unique<Chat>(); }

}  // namespace retort::cli
