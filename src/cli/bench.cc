// retort bench MODEL...: prefill and decoding speed, state and memory at several context lengths, and which share of the
// machine's streaming-read bandwidth decoding reaches.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>

#include <unistd.h>

#include "base/cpu.h"
#include "base/format.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "kernels/elementwise.h"
#include "runtime/session.h"

namespace retort::cli {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : (v[(v.size() - 1) / 2] + v[v.size() / 2]) / 2;
}

int64_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  int64_t size = 0, resident = 0;
  in >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// Bytes per second that a plain read of memory far larger than the caches gets, with all threads: the median of five.
double streaming_read(ThreadPool& pool) {
  std::vector<uint64_t> memory(size_t(256 << 20) / 8, 1);
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
  int64_t context = 0, state_bytes = 0, resident = 0;
  double prefill = 0;            // tokens per second from the start to here
  double decode = 0, slowest = 0, fastest = 0;
  double bandwidth_share = 0;
};

class Bench : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, models_);
    add_runtime_flags(app, flags_);
    app.add_option("--contexts", contexts_, "context lengths, separated by commas")
        ->delimiter(',')->check(CLI::Range(1, 1 << 24))->capture_default_str();
    app.add_option("-n,--n-gen", count_, "tokens decoded per repetition")->check(CLI::Range(1, 4096))->capture_default_str();
    app.add_option("-r,--repetitions", repetitions_, "repetitions of decoding")->check(CLI::Range(1, 100))->capture_default_str();
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(models_));
    std::sort(contexts_.begin(), contexts_.end());
    catch_interrupts();
    Table table({"model", "context", "prefill tok/s", "decode tok/s", "spread", "state", "resident", "of streaming read"});
    nlohmann::ordered_json out;
    out["threads"] = context.threads;
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
        table.row({path, format_count(m.context), format_significant(m.prefill, 3), format_significant(m.decode, 3),
                   cat(format_significant(m.slowest, 3), " to ", format_significant(m.fastest, 3)),
                   format_bytes(double(m.state_bytes)), format_bytes(double(m.resident)),
                   format_fixed(100 * m.bandwidth_share, 0) + " %"});
        entry["results"].push_back({{"context", m.context}, {"prefill_tokens_per_second", m.prefill},
                                    {"decode_tokens_per_second", m.decode}, {"decode_slowest", m.slowest},
                                    {"decode_fastest", m.fastest}, {"state_bytes", m.state_bytes},
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
    Session session(engine);
    Random random(1);
    std::vector<Measurement> results;
    std::vector<Session> reached;
    Progress progress("bench", contexts_.back());
    double prefill_seconds = 0;
    for (const int64_t context : contexts_) {
      std::vector<int> tokens(size_t(context - int64_t(session.tokens().size())));
      for (int& t : tokens) t = int(random.next() % uint64_t(opened.model->config().vocab_size));
      session.commit(tokens);
      const auto started = Clock::now();
      const int64_t before = session.sequence().position();
      RETORT_RETURN_IF_ERROR(session.consume([&](int64_t done) {
        progress.update(before + done);
        return !interrupted();
      }));
      prefill_seconds += seconds_since(started);
      Measurement m;
      m.context = session.sequence().position();
      m.state_bytes = session.sequence().bytes();
      m.prefill = double(context) / prefill_seconds;
      m.resident = resident_bytes();
      results.push_back(m);
      reached.push_back(session.clone());
    }
    progress.finish();
    RETORT_RETURN_IF_ERROR(decode(opened, reached, results));
    return results;
  }

  // Contexts take turns, so that a machine that is busier for a while is busier for all of them.
  Status decode(const OpenedModel& opened, const std::vector<Session>& reached, std::vector<Measurement>& results) {
    std::vector<std::vector<double>> rates(reached.size());
    for (int repeat = 0; repeat < repetitions_ + 1; ++repeat) {
      for (size_t c = 0; c < reached.size(); ++c) {
        RETORT_TRY(const double rate, decode_once(reached[c]));
        if (repeat > 0) rates[c].push_back(rate);  // the first one warms up
      }
    }
    for (size_t c = 0; c < reached.size(); ++c) {
      Measurement& m = results[c];
      m.decode = median(rates[c]);
      m.slowest = *std::min_element(rates[c].begin(), rates[c].end());
      m.fastest = *std::max_element(rates[c].begin(), rates[c].end());
      m.bandwidth_share = m.decode * double(opened.model->weight_bytes() + m.state_bytes) / read_rate_;
    }
    return {};
  }

  // Tokens per second of the next `count_` ones.
  Result<double> decode_once(const Session& at) {
    Session session = at.clone();
    const auto started = Clock::now();
    for (int i = 0; i < count_; ++i) {
      session.commit(int(elementwise().argmax(session.logits().data(), int64_t(session.logits().size()))));
      RETORT_RETURN_IF_ERROR(session.consume());
      if (interrupted()) return interrupted_error();
    }
    return count_ / seconds_since(started);
  }

  std::vector<std::string> models_;
  ModelFlags flags_;
  std::vector<int64_t> contexts_{128, 2048, 8000};
  int count_ = 32, repetitions_ = 3;
  double read_rate_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_bench() { return std::make_unique<Bench>(); }

}  // namespace retort::cli
