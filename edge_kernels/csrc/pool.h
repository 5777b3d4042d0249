// How work is spread over threads. ONNX Runtime's own pool, or none.
#pragma once

#include <cstdint>
#include <functional>

namespace flwr_edge {

struct Pool {
  virtual ~Pool() = default;
  virtual int threads() const { return 1; }
  // Calls job(0) .. job(jobs - 1), on any thread, in any order; returns when all are done.
  virtual void run(int64_t jobs, const std::function<void(int64_t)>& job) const {
    for (int64_t i = 0; i < jobs; ++i) job(i);
  }
};

}  // namespace flwr_edge
