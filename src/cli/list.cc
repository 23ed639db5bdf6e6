// Every command, once. Adding one: a file src/cli/<name>.cc, its maker declared here, its line in the table.
#include "cli/command.h"

namespace retort::cli {

std::unique_ptr<Command> make_bench();
std::unique_ptr<Command> make_chat();
std::unique_ptr<Command> make_convert();
std::unique_ptr<Command> make_distill();
std::unique_ptr<Command> make_eval();
std::unique_ptr<Command> make_generate();
std::unique_ptr<Command> make_inspect();
std::unique_ptr<Command> make_layout();
std::unique_ptr<Command> make_perplexity();
std::unique_ptr<Command> make_probe();
std::unique_ptr<Command> make_quantize();
std::unique_ptr<Command> make_report();
std::unique_ptr<Command> make_serve();
std::unique_ptr<Command> make_shrink();
std::unique_ptr<Command> make_synthesize();
std::unique_ptr<Command> make_tokenize();

const std::vector<CommandEntry>& command_list() {
  static const std::vector<CommandEntry> list = {
      {"inspect", "layers, mixers, sizes, bytes of state per sequence and per token", make_inspect},
      {"distill", "turn a teacher into a recurrent student, by a recipe", make_distill},
      {"layout", "which attention a hybrid should keep, measured", make_layout},
      {"synthesize", "a model's answers to prompts, as chat data to train on", make_synthesize},
      {"shrink", "a small model of some of a model's layers, such as a draft", make_shrink},
      {"generate", "continue a text", make_generate},
      {"chat", "talk with a model", make_chat},
      {"serve", "answer over HTTP, as OpenAI's clients and llama.cpp's expect", make_serve},
      {"perplexity", "perplexity of a text, in windows", make_perplexity},
      {"eval", "benchmarks, as lm-evaluation-harness runs them", make_eval},
      {"probe", "what a model recalls of its context: needles, copying, perplexity by position", make_probe},
      {"bench", "speed, state and memory at several context lengths", make_bench},
      {"tokenize", "token ids of a text, or the text of ids", make_tokenize},
      {"convert", "write a model for Retort or another library: Hugging Face folders, GGUF", make_convert},
      {"quantize", "write a model with 4-bit or 8-bit weights, calibrated on text", make_quantize},
      {"report", "one self-contained HTML page about a run, with plots", make_report},
  };
  return list;
}

}  // namespace retort::cli
