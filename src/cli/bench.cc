// retort bench MODEL...: prefill and decoding speed, state and memory at several context lengths, and which share of the
// machine's streaming-read bandwidth decoding reaches.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>

#include <unistd.h>

#include "base/cpu.h"
#include "base/format.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/threads.h"
#include "base/timing.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "eval/decoding_speed.h"

namespace retort::cli {
namespace {

int64_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  int64_t size = 0, resident = 0;
  in >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// Twice the last cache and no less than 256 MB: a read of less would find part of it there.
size_t streamed_bytes() {
  const long last = sysconf(_SC_LEVEL3_CACHE_SIZE);  // 0 or -1: not known
  return std::max(size_t(256) << 20, size_t(std::clamp(last, 0L, 1L << 30)) * 2);
}

// Bytes per second that a plain read of memory larger than the caches gets, with all threads: the median of five.
double streaming_read(ThreadPool& pool) {
  std::vector<uint64_t> memory(streamed_bytes() / 8, 1);
  std::vector<double> rates;
  std::atomic<uint64_t> total{0};
  for (int repeat = 0; repeat < 6; ++repeat) {
    const auto started = Clock::now();
    pool.parallel_for(int64_t(memory.size()), 1 << 17, [&](int64_t begin, int64_t end) {
      uint64_t sums[8] = {};
      for (int64_t i = begin; i + 8 <= end; i += 8) {
        for (int j = 0; j < 8; ++j) sums[j] += memory[size_t(i + j)];
      }
      total += sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
    });
    if (repeat > 0) rates.push_back(double(memory.size() * 8) / seconds_since(started));
  }
  return total.load() > 0 ? median(rates) : 0;
}

struct Measurement {
  int parallel = 1;
  int64_t context = 0, state_bytes = 0, resident = 0;
  double prefill = 0;            // tokens per second from the start to here
  DecodingRate decode;
  double bandwidth_share = 0;
};

class Bench : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, models_);
    add_runtime_flags(app, flags_);
    app.add_option("--contexts", contexts_, "context lengths, separated by commas")
        ->delimiter(',')->check(CLI::Range(1, 1 << 24))->capture_default_str();
    app.add_option("--parallel,-P", parallel_, "sequences that decode together, separated by commas; rates are of all of them")
        ->delimiter(',')->check(CLI::Range(1, 256))->capture_default_str();
    app.add_option("-n,--n-gen", count_, "tokens decoded in a turn")->check(CLI::Range(1, 4096))->capture_default_str();
    app.add_option("-r,--repetitions", repetitions_, "turns of every context; their median counts")->check(CLI::Range(1, 100))->capture_default_str();
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(models_));
    const auto ascending = [](auto& values) {
      std::sort(values.begin(), values.end());
      values.erase(std::unique(values.begin(), values.end()), values.end());
    };
    ascending(contexts_), ascending(parallel_);
    catch_interrupts();
    Table table({"model", "context", "sequences", "prefill tok/s", "decode tok/s", "spread", "state", "resident", "of streaming read"});
    nlohmann::ordered_json out;
    out["threads"] = context.threads > 0 ? context.threads : usable_processors();
    out["models"] = nlohmann::ordered_json::array();
    for (const std::string& path : models_) {
      RETORT_TRY(OpenedModel opened, open_for_running({path, flags_.weights, flags_.activations}, context));
      read_rate_ = streaming_read(*opened.pool);
      nlohmann::ordered_json entry;
      entry["model"] = path;
      entry["weights"] = flags_.weights;
      entry["activations"] = flags_.activations;
      entry["weight_bytes"] = opened.model->weight_bytes();
      entry["streaming_read_bytes_per_second"] = read_rate_;
      entry["results"] = nlohmann::ordered_json::array();
      RETORT_TRY(const std::vector<Measurement> results, measure(opened));
      for (const Measurement& m : results) {
        table.row({path, format_count(m.context), cat(m.parallel), format_significant(m.prefill, 3), format_significant(m.decode.median, 3),
                   cat(format_significant(m.decode.slowest, 3), " to ", format_significant(m.decode.fastest, 3)),
                   format_bytes(double(m.state_bytes)), format_bytes(double(m.resident)),
                   format_fixed(100 * m.bandwidth_share, 0) + " %"});
        entry["results"].push_back({{"context", m.context}, {"sequences", m.parallel}, {"prefill_tokens_per_second", m.prefill},
                                    {"decode_tokens_per_second", m.decode.median}, {"decode_slowest", m.decode.slowest},
                                    {"decode_fastest", m.decode.fastest}, {"state_bytes", m.state_bytes},
                                    {"resident_bytes", m.resident}, {"bandwidth_share", m.bandwidth_share}});
      }
      out["models"].push_back(std::move(entry));
    }
    if (context.json) print_json(out);
    else table.print();
    return {};
  }

 private:
  Result<std::vector<Measurement>> measure(OpenedModel& opened) {
    Engine engine(opened.model, *opened.pool, opened.engine);
    Random random(1);
    std::vector<int> tokens(size_t(contexts_.back()));
    for (int& t : tokens) t = int(random.next() % uint64_t(opened.model->config().vocab_size));
    Progress progress("bench", contexts_.back());
    std::vector<int64_t> resident;
    RETORT_TRY(const auto filled, fill_contexts(engine, tokens, contexts_, [&](int64_t position) {
      progress.update(position);
      if (resident.size() < contexts_.size() && position >= contexts_[resident.size()]) resident.push_back(resident_bytes());
      return !interrupted();
    }));
    progress.finish();
    RETORT_TRY(const auto rates, decode_in_turn(filled, parallel_, count_, repetitions_));
    std::vector<Measurement> results;
    for (size_t i = 0; i < filled.size() * parallel_.size(); ++i) {
      const size_t c = i / parallel_.size(), p = i % parallel_.size();
      Measurement m;
      m.parallel = parallel_[p];
      m.context = filled[c].context;
      m.state_bytes = filled[c].sequence.bytes();
      m.resident = resident[c];
      m.prefill = filled[c].prefill;
      m.decode = rates[c][p];
      m.bandwidth_share = m.decode.median * (double(opened.model->weight_bytes()) / m.parallel + double(m.state_bytes)) / read_rate_;
      results.push_back(m);
    }
    return results;
  }

  std::vector<std::string> models_;
  ModelFlags flags_;
  std::vector<int64_t> contexts_{128, 2048, 8000};
  std::vector<int> parallel_{1};
  int count_ = 8, repetitions_ = 16;
  double read_rate_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_bench() { return std::make_unique<Bench>(); }

}  // namespace retort::cli
