/* Token ids by several ways of the C interface, for tests/install_test.sh, which wants those of `retort generate`:
 * tokens HOW MODEL PROMPT COUNT SEED TEMPERATURE [STATE] */
#include <retort/retort.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(retort_status status) {
  if (status == RETORT_OK) return;
  fprintf(stderr, "tokens: %s\n", retort_error());
  exit(2);
}

static retort_session* new_session(retort_model* model) {
  retort_session* session;
  check(retort_session_new(model, &session));
  return session;
}

static void feed_text(retort_model* model, retort_session* session, const char* text) {
  int32_t tokens[1000];
  int64_t count;
  check(retort_tokenize(model, text, -1, RETORT_ADD_SPECIAL | RETORT_PARSE_SPECIAL, tokens, 1000, &count));
  check(retort_session_feed(session, tokens, count));
}

/* The token on trial, with two after it that are not wanted. */
static void feed_on_trial(retort_session* session, int32_t token) {
  int32_t tokens[3];
  tokens[0] = token;
  tokens[1] = 7;
  tokens[2] = 11;
  check(retort_session_try(session, tokens, 3));
  check(retort_session_keep(session, 1));
}

/* The same text in another session. */
static retort_session* moved(const char* how, retort_model* model, retort_session* from, const char* path) {
  retort_session* to = NULL;
  if (strcmp(how, "clone") == 0) {
    check(retort_session_clone(from, &to));
  } else if (strcmp(how, "file") == 0) {
    to = new_session(model);
    check(retort_session_save(from, path));
    check(retort_session_load(to, path));
  } else if (strcmp(how, "memory") == 0) {
    int64_t size;
    void* bytes;
    to = new_session(model);
    check(retort_session_save_memory(from, NULL, 0, &size));
    bytes = malloc((size_t)size);
    if (!bytes) abort();
    check(retort_session_save_memory(from, bytes, size, &size));
    check(retort_session_load_memory(to, bytes, size));
    free(bytes);
  } else {
    return from;
  }
  retort_session_free(from);
  return to;
}

int main(int argc, char** argv) {
  retort_sampling_options options = RETORT_SAMPLING_DEFAULTS;
  retort_model* model;
  retort_session* session;
  retort_sampler* sampler;
  const char *how = argv[1], *path = argc > 7 ? argv[7] : NULL;
  int i, count;
  if (argc < 7 || retort_abi_version() != RETORT_ABI_VERSION) return 2;
  count = atoi(argv[4]);
  options.seed = strtoull(argv[5], NULL, 10);
  options.temperature = atof(argv[6]);
  check(retort_model_load(argv[2], NULL, &model));
  check(retort_sampler_new(&options, &sampler));
  session = new_session(model);
  if (strcmp(how, "load") == 0)
    check(retort_session_load(session, path));
  else
    feed_text(model, session, argv[3]);
  for (i = 0; i < count; ++i) {
    int32_t token;
    check(retort_sampler_draw(sampler, session, &token));
    printf("%s%d", i ? " " : "", (int)token);
    if (strcmp(how, "trial") == 0)
      feed_on_trial(session, token);
    else
      check(retort_session_feed(session, &token, 1));
    if (i % 5 == 2) session = moved(how, model, session, path);
  }
  printf("\n");
  if (strcmp(how, "save") == 0) check(retort_session_save(session, path));
  retort_model_free(model); /* in any order */
  retort_session_free(session);
  retort_sampler_free(sampler);
  return 0;
}
