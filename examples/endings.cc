// Several endings of one beginning: endings MODEL PROMPT [ENDINGS [TOKENS]]
//
// Stands on the C++ headers (find_package(Retort COMPONENTS cpp), Retort::runtime). The beginning is read once; every
// ending starts from a copy of its state.
#include <cstdio>
#include <cstdlib>

#include "io/tokenizer_files.h"
#include "runtime/sampling.h"
#include "runtime/session.h"

namespace {

using namespace retort;

Result<std::string> ending(const Tokenizer& tokenizer, Session session, Sampler sampler, int most) {
  std::string text;
  TextStream stream;
  for (int made = 0; made < most; ++made) {
    if (session.pending() > 0) RETORT_RETURN_IF_ERROR(session.consume());
    const int token = sampler.sample(session.logits(), session.tokens());
    if (tokenizer.is_eog(token)) break;
    text += stream.push(tokenizer.is_special(token) ? "" : tokenizer.token_bytes(token));
    session.commit(token);
  }
  return text + stream.finish();
}

Status run(const std::string& path, const std::string& prompt, int endings, int most) {
  ThreadPool pool;
  RETORT_TRY(const ModelFiles files, open_model(path));
  RETORT_TRY(const Tokenizer tokenizer, open_tokenizer(files));
  RETORT_TRY(const auto model, Model::load(files, WeightFormat::kAuto, pool));
  Engine engine(model, pool);
  Session session(engine);
  RETORT_TRY(const std::vector<int32_t> tokens, tokenizer.encode(prompt));
  session.commit(tokens);
  RETORT_RETURN_IF_ERROR(session.consume());
  SamplingOptions options;
  options.never = tokenizer.ids_without_token(files.config.vocab_size);
  for (int seed = 1; seed <= endings; ++seed) {
    RETORT_TRY(const std::string text, ending(tokenizer, session.clone(), Sampler(options, uint64_t(seed)), most));
    std::printf("%d: %s%s\n", seed, prompt.c_str(), text.c_str());
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: endings MODEL PROMPT [ENDINGS [TOKENS]]\n");
    return 2;
  }
  const Status status = run(argv[1], argv[2], argc > 3 ? std::atoi(argv[3]) : 3, argc > 4 ? std::atoi(argv[4]) : 32);
  if (!status.ok()) std::fprintf(stderr, "endings: %s\n", status.error().message.c_str());
  return status.ok() ? 0 : 2;
}
