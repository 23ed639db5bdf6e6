// What the scheduler's sources share: requests, slots and rows while they are at work.
//
// Layer: serve, of scheduler*.cc alone. Belongs to the scheduler's thread but where it says otherwise.
#pragma once

#include "serve/scheduler.h"

namespace retort::serve {

// A request and what its choices share.
struct Scheduler::Group {
  uint64_t id, client;               // client: all that came with one submit()
  GenerationRequest request;
  GenerationSink sink;
  bool cancelled = false;            // under the scheduler's mutex
  int left;                          // choices that are not over
  bool forked = false;               // the prompt has been read
  std::optional<Sequence> prompt_state;  // after the prompt, for choices 1 and up
  std::vector<float> prompt_logits;
  GenerationStats prompt_stats;

  // What is scored is read, whoever has read it before.
  bool uses_cache() const { return request.cache && !request.prompt_logprobs; }
};

struct Scheduler::Slot {
  int id;
  bool busy = false;                 // under the scheduler's mutex
  bool ends = false;                 // what runs is to end; under the mutex too
  std::optional<Sequence> sequence;
  std::vector<int> kept;             // idle with a state: its tokens
  std::shared_ptr<Group> group;
  std::optional<Choice> choice;
  GenerationUpdate update;
  GenerationStats stats;
  Clock::time_point started, first_token;
  int64_t counted = 0;               // made tokens that are in the counts

  // While it reads.
  int64_t chunk = 0;                 // rows of its prompt in this pass
  bool exact = false;                // the state is, to the bit, that of reading in chunks from the start
  int64_t cached = 0;                // where a state of the prompt was found or kept last
  int64_t looked = -1;               // the cache's version when it was searched for this prompt

  // While it makes text.
  std::unique_ptr<Draft> draft;
  std::vector<Guess> guesses;
  std::vector<int> tokens;           // of its rows in this pass: the last one, and guesses
  int64_t drawn = 0;                 // rows of this pass that were drawn from
  int64_t trust = 0;                 // guesses that seem worth their rows
  Trial trial;

  int64_t prompt_left() const { return int64_t(group->request.prompt.size()) - sequence->position(); }
  bool reading() const { return prompt_left() > 0; }
  bool scores_prompt() const { return group->request.prompt_logprobs && choice->index() == 0; }
};

// A row of a pass that asked for logits.
struct Scheduler::Row {
  Slot* slot;
  int64_t scores = -1;  // the entry of update.prompt that these logits score, or -1
  bool draws = false;
  int64_t guess = 0;    // > 0: counts only if the token drawn from the row before is tokens[guess]
};

}  // namespace retort::serve
