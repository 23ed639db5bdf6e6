/* Continues a text, as `retort generate` does: generate MODEL PROMPT [TOKENS [SEED [TEMPERATURE]]]
 *
 *   cc -std=c99 generate.c $(pkg-config --cflags --libs retort) -o generate
 *
 * With PROMPT of the form "chat: TEXT" the model answers TEXT by its chat template. */
#include <retort/retort.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Calls return a status; what went wrong is one line. */
static void check(retort_status status) {
  if (status == RETORT_OK) return;
  fprintf(stderr, "generate: %s\n", retort_error());
  exit(2);
}

/* The prompt's tokens: asked for their number first, then for themselves. */
static int32_t* read_prompt(const retort_model* model, const char* prompt, int64_t* count) {
  const int chat = strncmp(prompt, "chat: ", 6) == 0;
  retort_message message;
  int32_t* tokens = NULL;
  int64_t room = 0;
  message.role = "user";
  message.content = chat ? prompt + 6 : prompt;
  for (;;) {
    check(chat ? retort_chat_tokens(model, &message, 1, 1, tokens, room, count)
               : retort_tokenize(model, prompt, -1, RETORT_ADD_SPECIAL | RETORT_PARSE_SPECIAL, tokens, room, count));
    if (room > 0 || *count == 0) return tokens;
    room = *count;
    tokens = malloc((size_t)room * sizeof *tokens);
    if (!tokens) abort();
  }
}

static void print(const char* text) {
  fputs(text, stdout);
  fflush(stdout);
}

static void generate(retort_model* model, const int32_t* prompt, int64_t count, int64_t most,
                     const retort_sampling_options* sampling) {
  retort_session* session;
  retort_sampler* sampler;
  retort_stream* stream;
  const char* text;
  int64_t made;
  check(retort_session_new(model, &session));
  check(retort_sampler_new(sampling, &sampler));
  check(retort_stream_new(model, NULL, 0, &stream));
  check(retort_session_feed(session, prompt, count));
  for (made = 0; made < most; ++made) {
    int32_t token;
    check(retort_sampler_draw(sampler, session, &token));
    if (retort_token_is_end(model, token) > 0) break;
    check(retort_stream_push(stream, token, &text, NULL)); /* whole characters only */
    print(text);
    check(retort_session_feed(session, &token, 1));
  }
  check(retort_stream_finish(stream, &text, NULL));
  print(text);
  print("\n");
  retort_stream_free(stream);
  retort_sampler_free(sampler);
  retort_session_free(session);
}

int main(int argc, char** argv) {
  retort_model* model;
  retort_sampling_options sampling = RETORT_SAMPLING_DEFAULTS;
  int32_t* prompt;
  int64_t count;
  if (argc < 3) {
    fprintf(stderr, "usage: generate MODEL PROMPT [TOKENS [SEED [TEMPERATURE]]]\n");
    return 2;
  }
  if (argc > 4) sampling.seed = strtoull(argv[4], NULL, 10);
  if (argc > 5) sampling.temperature = atof(argv[5]);
  check(retort_model_load(argv[1], NULL, &model));
  prompt = read_prompt(model, argv[2], &count);
  generate(model, prompt, count, argc > 3 ? atoi(argv[3]) : 64, &sampling);
  free(prompt);
  retort_model_free(model);
  return 0;
}
