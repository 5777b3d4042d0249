// The memory floor: how fast this machine reads so many bytes and does nothing with them. The
// benchmark holds the kernels against it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "readers.h"

namespace {

using flwr_edge::kReadBlock;
using flwr_edge::Reader;

constexpr size_t kSample = 256 * 1024;   // bytes to read between two looks at the clock, at least,
constexpr size_t kMostPasses = 64;       // but not by more passes than these
constexpr int kWarm = 6;                 // passes until caches hold what they will hold
constexpr int kTrials = 5;               // samples that decide between readers

void relax(int turns) {
  if (turns > 1024) std::this_thread::yield();  // more threads than cores
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Threads that each read their share of a buffer when told; the caller reads the first share.
class Team {
 public:
  Team(const uint8_t* buffer, size_t bytes, int threads) {
    const size_t blocks = bytes / kReadBlock;
    for (int i = 0; i < threads; ++i) {
      const size_t begin = blocks * i / threads, end = blocks * (i + 1) / threads;
      shares_.push_back({buffer + begin * kReadBlock, (end - begin) * kReadBlock});
    }
    try {
      for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { help(shares_[i]); });
    } catch (const std::system_error&) {
      stop();
      throw;
    }
  }
  ~Team() { stop(); }

  // Between passes alone.
  void use(Reader reader) { reader_ = reader; }

  void pass() {
    done_.store(0, std::memory_order_relaxed);
    go_.fetch_add(1, std::memory_order_release);
    read(shares_[0]);
    for (int turns = 0; done_.load(std::memory_order_acquire) != int(helpers_.size()); ++turns)
      relax(turns);
  }

 private:
  struct Share {
    const uint8_t* begin;
    size_t bytes;
  };

  void read(const Share& share) {
    // The sum has to go somewhere, or the reading is left out.
    const uint64_t sum = reader_(share.begin, share.bytes);
    asm volatile("" : : "r"(sum) : "memory");
  }

  void help(const Share& share) {
    for (int64_t seen = 0;; ++seen) {
      for (int turns = 0; go_.load(std::memory_order_acquire) == seen; ++turns) relax(turns);
      if (stop_.load(std::memory_order_relaxed)) return;
      read(share);
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  void stop() {
    stop_.store(true, std::memory_order_relaxed);
    go_.fetch_add(1, std::memory_order_release);
    for (std::thread& helper : helpers_) helper.join();
    helpers_.clear();
  }

  Reader reader_ = flwr_edge::readers()[0];
  std::vector<Share> shares_;
  std::vector<std::thread> helpers_;
  std::atomic<int64_t> go_{0};
  std::atomic<int> done_{0};
  std::atomic<bool> stop_{false};
};

double sample(Team& team, int passes) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < passes; ++i) team.pass();
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  return took.count() / passes;
}

// The reader that is faster here, by the medians of a few samples in turns.
Reader faster_reader(Team& team, int passes) {
  std::vector<double> took[flwr_edge::kReaders];
  for (int trial = 0; trial < kTrials; ++trial) {
    for (int i = 0; i < flwr_edge::kReaders; ++i) {
      team.use(flwr_edge::readers()[i]);
      took[i].push_back(sample(team, passes));
    }
  }
  int best = 0;
  for (int i = 0; i < flwr_edge::kReaders; ++i) {
    std::nth_element(took[i].begin(), took[i].begin() + kTrials / 2, took[i].end());
    if (took[i][kTrials / 2] < took[best][kTrials / 2]) best = i;
  }
  return flwr_edge::readers()[best];
}

}  // namespace

// Reads a buffer of `bytes` (rounded up to 256) again and again on `threads` threads, each its own
// share, by the faster of the readers. After passes that are not counted, microseconds[i] of each of
// `samples` is one pass; what is small is read several times between two looks at the clock. The
// buffer is malloc's, as the weights of an ONNX Runtime session are. Returns 0, or 1: bad arguments,
// no memory or no threads.
extern "C" __attribute__((visibility("default"))) int flwr_edge_stream(size_t bytes, int threads,
                                                                      int samples,
                                                                      double* microseconds) {
  if (bytes == 0 || bytes > (size_t(1) << 40) || threads < 1 || threads > 1024) return 1;
  bytes = (bytes + kReadBlock - 1) / kReadBlock * kReadBlock;
  uint8_t* buffer = static_cast<uint8_t*>(std::aligned_alloc(kReadBlock, bytes));
  if (!buffer) return 1;
  std::memset(buffer, 1, bytes);
  int wrong = 0;
  try {
    Team team(buffer, bytes, threads);
    for (int i = 0; i < kWarm; ++i) team.pass();
    const int passes = int(std::clamp<size_t>(kSample / bytes, 1, kMostPasses));
    team.use(faster_reader(team, passes));
    for (int i = 0; i < samples; ++i) microseconds[i] = sample(team, passes);
  } catch (const std::exception&) {
    wrong = 1;
  }
  std::free(buffer);
  return wrong;
}
