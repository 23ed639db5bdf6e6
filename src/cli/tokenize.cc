#include <cstdio>
#include <optional>

#include "cli/command.h"
#include "cli/flags.h"
#include "cli/output.h"
#include "cli/text_input.h"
#include "io/tokenizer_files.h"

namespace retort::cli {
namespace {

class Tokenize : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_);
    app.add_option("--text", file_, "file to tokenize, or - for standard input");
    app.add_option("-p,--prompt", prompt_, "text to tokenize");
    app.add_flag("--ids", ids_only_, "ids only, on one line");
    app.add_flag("--no-special", no_special_, "add no <s> and the like");
    app.add_flag("--no-parse-special", no_parse_special_, "read control tokens in the text as plain text");
    app.add_flag("--decode", decode_, "the input is ids, separated by spaces or commas: print their text");
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_));
    if (file_.empty() == !prompt_) return invalid("tokenize: name one input: --text FILE (- for standard input) or --prompt TEXT");
    RETORT_TRY(const Tokenizer tokenizer, load_tokenizer(model_));
    RETORT_TRY(const std::string input, prompt_ ? Result<std::string>(*prompt_) : read_text_input(file_));
    if (decode_) return print_decoded(tokenizer, input, context.json);
    auto ids = tokenizer.encode(input, {.add_special = !no_special_, .parse_special = !no_parse_special_});
    if (!ids.ok()) return invalid(prompt_ ? "--prompt" : input_name(file_), ": ", ids.error().message);
    print_ids(tokenizer, *ids, context.json);
    return {};
  }

 private:
  void print_ids(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool json) const {
    if (json) {
      nlohmann::ordered_json document = {{"count", ids.size()}, {"ids", ids}};
      if (!ids_only_) {
        document["tokens"] = nlohmann::ordered_json::array();
        for (int32_t id : ids) document["tokens"].push_back(tokenizer.token_text(id));
      }
      return print_json(document);
    }
    if (ids_only_) {
      std::string line;
      for (int32_t id : ids) line += (line.empty() ? "" : " ") + std::to_string(id);
      std::printf("%s\n", line.c_str());
      return;
    }
    for (int32_t id : ids) {
      const std::string text = nlohmann::json(tokenizer.token_bytes(id)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      std::printf("%7d %s%s\n", id, text.c_str(), tokenizer.is_special(id) ? "  (special)" : "");
    }
    std::printf("%zu tokens\n", ids.size());
  }

  Status print_decoded(const Tokenizer& tokenizer, const std::string& input, bool json) const {
    std::vector<int32_t> ids;
    for (size_t pos = 0; (pos = input.find_first_not_of(" ,\t\r\n[]", pos)) != std::string::npos;) {
      const size_t end = std::min(input.find_first_of(" ,\t\r\n[]", pos), input.size());
      const std::string word = input.substr(pos, end - pos);
      const bool digits = word.size() <= 9 && word.find_first_not_of("0123456789") == std::string::npos;
      if (!digits || size_t(std::stol(word)) >= tokenizer.size()) {
        return invalid("--decode: '", word.substr(0, 40), "' is no id below ", tokenizer.size());
      }
      ids.push_back(std::stoi(word));
      pos = end;
    }
    const std::string text = tokenizer.decode(ids, no_special_);
    if (json) print_json({{"text", text}});
    else std::printf("%s\n", text.c_str());
    return {};
  }

  std::string model_, file_;
  std::optional<std::string> prompt_;
  bool ids_only_ = false, no_special_ = false, no_parse_special_ = false, decode_ = false;
};

}  // namespace

std::unique_ptr<Command> make_tokenize() { return std::make_unique<Tokenize>(); }

}  // namespace retort::cli
