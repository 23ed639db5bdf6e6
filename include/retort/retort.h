/* libretort: models that Retort runs, from C and whatever calls C. docs/embedding.md explains all of it by example.
 *
 * Layer: the public face of src/capi/. C99; also C++.
 *
 * Every function that can fail returns a retort_status; retort_error() then says in one line what was wrong. Arguments
 * are checked: NULL, a negative count or a token outside the vocabulary is RETORT_INVALID, and nothing has changed. No
 * exception leaves a function, none prints, and none touches signals.
 *
 * Threads: a model may be used by any number of threads at once. A session, a sampler and a text stream belong to one
 * thread at a time; different ones, also clones, run side by side. Handles are freed in any order: a session holds on
 * to its model.
 *
 * Sizes of buffers: a function that fills a caller's buffer takes its capacity and says in *count or *size what there
 * is. Capacity 0 (the buffer may be NULL) only asks; one that is too small is RETORT_TOO_SMALL, and nothing is written.
 * Text is UTF-8. A `length` of -1 means up to the first NUL.
 *
 * Structs begin with their size, which the *_DEFAULTS macros fill in: a program built against an older header goes on
 * working. */
#ifndef RETORT_RETORT_H
#define RETORT_RETORT_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define RETORT_API __attribute__((visibility("default")))
#else
#define RETORT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when a program built against an older header would no longer work; the shared library's name ends in it. */
#define RETORT_ABI_VERSION 1

typedef enum retort_status {
  RETORT_OK = 0,
  RETORT_INVALID = 1,     /* what was given is wrong: an argument, a file, a text */
  RETORT_IO = 2,          /* the machine refused: full disk, no permission */
  RETORT_INTERRUPTED = 3, /* a callback asked to stop */
  RETORT_NO_MEMORY = 4,
  RETORT_TOO_SMALL = 5,   /* the buffer; what is needed was said */
  RETORT_INTERNAL = 6     /* a bug of the library */
} retort_status;

typedef struct retort_model retort_model;
typedef struct retort_session retort_session;
typedef struct retort_sampler retort_sampler;
typedef struct retort_stream retort_stream;

/* ---- the library: any thread ---- */

RETORT_API const char* retort_version(void); /* "0.1.0" */
RETORT_API int retort_abi_version(void);     /* RETORT_ABI_VERSION of the library that is running */
/* Of the latest call on this thread that failed; "" when none did. Valid until this thread's next failure. */
RETORT_API const char* retort_error(void);

/* ---- models: any thread ---- */

typedef struct retort_model_options {
  size_t size;
  const char* weights;  /* how weights are held: NULL or "auto", "f32", "bf16", "q8_0", "q4_0", "q4_1" */
  int threads;          /* 0: as many as the process may use */
  int bf16_activations; /* nonzero: inputs of products with bf16 weights are rounded too; faster prefill */
} retort_model_options;
#define RETORT_MODEL_DEFAULTS {sizeof(retort_model_options), NULL, 0, 0}

/* `path`: a Hugging Face folder or a .gguf file, which stays mapped: replace it by renaming, not in place. `options`:
 * NULL for the defaults. */
RETORT_API retort_status retort_model_load(const char* path, const retort_model_options* options, retort_model** model);
RETORT_API void retort_model_free(retort_model* model); /* NULL is fine, as in all *_free */

/* Facts. Of a NULL model: -1, or NULL. */

RETORT_API int32_t retort_model_vocabulary(const retort_model* model); /* tokens are 0 to this - 1 */
/* What the model was made for; 0: unknown. Nothing stops at it. */
RETORT_API int64_t retort_model_context_length(const retort_model* model);
RETORT_API int64_t retort_model_weight_bytes(const retort_model* model);
/* What the state of a session takes that has read so many tokens. */
RETORT_API int64_t retort_model_state_bytes(const retort_model* model, int64_t tokens);
/* Models with equal ones can read each other's states. Valid as long as the model. */
RETORT_API const char* retort_model_identity(const retort_model* model);
RETORT_API int retort_model_has_tokenizer(const retort_model* model);
RETORT_API int retort_model_has_chat_template(const retort_model* model);

/* ---- text and tokens: any thread ---- */

#define RETORT_ADD_SPECIAL 1u   /* to tokens: with what the tokenizer adds, such as a first <s> */
#define RETORT_PARSE_SPECIAL 2u /* to tokens: "<|im_end|>" is the control token, otherwise those ten characters */
#define RETORT_SKIP_SPECIAL 4u  /* to text: without control tokens */

RETORT_API retort_status retort_tokenize(const retort_model* model, const char* text, int64_t length, unsigned flags,
                                         int32_t* tokens, int64_t capacity, int64_t* count);
/* Valid UTF-8, without a NUL at its end. Text that comes token by token goes through a retort_stream instead. */
RETORT_API retort_status retort_detokenize(const retort_model* model, const int32_t* tokens, int64_t count,
                                           unsigned flags, char* text, int64_t capacity, int64_t* size);
RETORT_API int32_t retort_token_bos(const retort_model* model); /* -1: none */
RETORT_API int32_t retort_token_eos(const retort_model* model);
RETORT_API int retort_token_is_end(const retort_model* model, int32_t token); /* ends an answer: eos, end of turn */
RETORT_API int retort_token_is_special(const retort_model* model, int32_t token);

typedef struct retort_message {
  const char* role; /* "system", "user", "assistant" */
  const char* content;
} retort_message;
/* What the model is fed for a conversation, by its chat template. With `answer` nonzero the assistant's turn is begun.
 * Control tokens that somebody typed into a message stay plain text. */
RETORT_API retort_status retort_chat_tokens(const retort_model* model, const retort_message* messages, int64_t count,
                                            int answer, int32_t* tokens, int64_t capacity, int64_t* token_count);
/* The same as text, to be looked at. */
RETORT_API retort_status retort_chat_text(const retort_model* model, const retort_message* messages, int64_t count,
                                          int answer, char* text, int64_t capacity, int64_t* size);

/* ---- streams: tokens in, whole characters out; one thread at a time ---- */

/* Text that may be the beginning of one of the `stops` is held back; a stop itself never comes out. `stops` may be NULL
 * with count 0. */
RETORT_API retort_status retort_stream_new(const retort_model* model, const char* const* stops, int64_t count,
                                           retort_stream** stream);
RETORT_API void retort_stream_free(retort_stream* stream);
/* *text: what is certain now, often "", NUL-terminated, valid until the stream's next call. Its length too, unless
 * `size` is NULL. */
RETORT_API retort_status retort_stream_push(retort_stream* stream, int32_t token, const char** text, int64_t* size);
/* What was held back. The stream then starts anew. */
RETORT_API retort_status retort_stream_finish(retort_stream* stream, const char** text, int64_t* size);
RETORT_API int retort_stream_stopped(const retort_stream* stream); /* a stop was seen */

/* ---- sessions: one text, its state, and the logits for what comes next; one thread at a time ---- */

RETORT_API retort_status retort_session_new(retort_model* model, retort_session** session);
/* A copy that goes its own way. A state of full attention is shared until one of them writes. */
RETORT_API retort_status retort_session_clone(const retort_session* session, retort_session** clone);
RETORT_API void retort_session_free(retort_session* session);
RETORT_API retort_status retort_session_reset(retort_session* session); /* back to no text */

/* Reads tokens. An error inside leaves the text as it was, but for one: after RETORT_NO_MEMORY or RETORT_INTERNAL the
 * state may be torn, and all calls but reset, load and free are refused. */
RETORT_API retort_status retort_session_feed(retort_session* session, const int32_t* tokens, int64_t count);
/* Told every 256 tokens how many are read; nonzero stops: RETORT_INTERRUPTED. The session has then read that many, and
 * has no logits until it is fed again. */
typedef int (*retort_progress)(void* user, int64_t done, int64_t count);
RETORT_API retort_status retort_session_feed_watched(retort_session* session, const int32_t* tokens, int64_t count,
                                                     retort_progress progress, void* user);

RETORT_API int64_t retort_session_position(const retort_session* session);      /* tokens that were read; -1: NULL */
RETORT_API const int32_t* retort_session_tokens(const retort_session* session); /* [position], until the next change */
RETORT_API int64_t retort_session_state_bytes(const retort_session* session);   /* what the state takes now */
/* Of the token that comes next, [vocabulary], until the next change. NULL: there are none, or an error. */
RETORT_API const float* retort_session_logits(const retort_session* session);

/* ---- going back: tokens on trial, of which the first ones may be kept ---- */

#define RETORT_MOST_ON_TRIAL 256

/* One pass over 1 to RETORT_MOST_ON_TRIAL tokens. Until retort_session_keep() position, tokens and logits are those
 * before; feeding, saving and cloning are refused. */
RETORT_API retort_status retort_session_try(retort_session* session, const int32_t* tokens, int64_t count);
/* [vocabulary], after tokens 0 to `index` of the trial; until keep. */
RETORT_API const float* retort_session_trial_logits(const retort_session* session, int64_t index);
/* Keeps the first `count` of them, 0 to all: the session is to the bit as if these had been fed one by one, and no
 * others. */
RETORT_API retort_status retort_session_keep(retort_session* session, int64_t count);

/* ---- states as values ---- */

/* A file has text, state and logits; `retort generate` reads and writes the same. It appears whole or not at all. */
RETORT_API retort_status retort_session_save(const retort_session* session, const char* path);
/* What the session held is lost only when this succeeds. A file of another model, cut or damaged is RETORT_INVALID. */
RETORT_API retort_status retort_session_load(retort_session* session, const char* path);
RETORT_API retort_status retort_session_save_memory(const retort_session* session, void* buffer, int64_t capacity,
                                                    int64_t* size);
RETORT_API retort_status retort_session_load_memory(retort_session* session, const void* buffer, int64_t size);

/* ---- sampling; a sampler belongs to one text and one thread at a time ---- */

typedef struct retort_logit_bias {
  int32_t token;
  float bias; /* added to its logit */
} retort_logit_bias;

/* In llama.cpp's order and with its defaults. */
typedef struct retort_sampling_options {
  size_t size;
  uint64_t seed;
  double temperature;       /* 0: the likeliest token */
  int top_k;                /* 0: off */
  int repeat_last_n;        /* 0: off */
  double top_p;             /* 1: off */
  double min_p;             /* 0: off */
  double repeat_penalty;    /* 1: off; of the last repeat_last_n tokens of the text */
  double presence_penalty;  /* 0: off; of tokens that this sampler has drawn */
  double frequency_penalty; /* 0: off; for every time */
  const retort_logit_bias* logit_bias;
  int64_t logit_bias_count;
} retort_sampling_options;
#define RETORT_SAMPLING_DEFAULTS {sizeof(retort_sampling_options), 0, 0.8, 40, 64, 0.95, 0.05, 1, 0, 0, NULL, 0}

/* `options`: NULL for the defaults. The same seed, logits and text give the same tokens. */
RETORT_API retort_status retort_sampler_new(const retort_sampling_options* options, retort_sampler** sampler);
RETORT_API void retort_sampler_free(retort_sampler* sampler);
/* Draws what comes next in the session, which does not move: feed the token to go on. Ids that no token has, such as
 * rows that pad the vocabulary to a round number, are never drawn; nor is a token whose logit is NaN, as damaged weights
 * make it. Where no token has a number: RETORT_INVALID, `token` and the sampler stay as they were. */
RETORT_API retort_status retort_sampler_draw(retort_sampler* sampler, const retort_session* session, int32_t* token);
/* From any logits, such as those of a trial; `text`: the tokens before, for the penalty, or NULL with count 0. A logit
 * that is NaN is not drawn: that is how to leave out ids that no token has, which nothing does here. All NaN: as above. */
RETORT_API retort_status retort_sampler_draw_from(retort_sampler* sampler, const float* logits, int64_t vocabulary,
                                                  const int32_t* text, int64_t count, int32_t* token);

#ifdef __cplusplus
}
#endif

#endif
