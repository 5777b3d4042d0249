// A network in integers as one call: runs a program (int_program.h) a sample at a time. Values
// are channels last after a convolution; weights are packed once.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "int_product.h"
#include "int_program.h"
#include "int_recurrent.h"
#include "pool.h"

namespace flwr_edge::integer {

enum class Type { kInt8, kInt32, kInt64 };

struct Constant {
  const void* data;
  int64_t count;
  Type type;
};

class Network {
 public:
  // Null, and why in *error, where program and constants do not fit. `isa`: its name. The
  // constants' memory must outlive the result. `longest`: of a free axis.
  static std::unique_ptr<Network> create(const char* isa, const Code& code, int64_t longest,
                                         const std::vector<Constant>& constants,
                                         std::string* error);

  const Value& input() const { return program_.values[0]; }  // a free axis: at its longest
  const Value& result() const { return program_.values[size_t(program_.result)]; }

  // x [batch][input], contiguous -> y [batch][result], uint8, uint16 or int32, in ONNX order of
  // elements. Concurrent runs share nothing that changes. The batch is spread over the pool.
  // `length`: of a free axis, from 1 to its longest. Throws std::runtime_error where the program
  // takes too much memory at that length.
  void run(const uint8_t* x, int64_t batch, int64_t length, void* y, const Pool& pool) const;

 private:
  // What one sample's run writes: values, then what an instruction needs.
  struct Frame {
    std::unique_ptr<uint8_t[]> memory;
    size_t size = 0;
    uint8_t* bytes = nullptr;
  };

  // The program at one length.
  struct Plan {
    Program program;
    size_t extra = 0;  // bytes of a frame behind its values
    const Value& value(int64_t number) const { return program.values[size_t(number)]; }
  };

  // One sample.
  struct Run {
    const Plan& plan;
    const uint8_t* x;
    uint8_t* bytes;
    const uint8_t* at(int64_t value) const {
      return value == 0 ? x : bytes + plan.value(value).offset;
    }
    uint8_t* room() const { return bytes + plan.program.scratch; }
  };

  // What an instruction needs of the constants.
  struct Step {
    Product product;
    Recurrence recurrence;
    const int32_t *m = nullptr, *shift = nullptr;
    const int64_t* term = nullptr;
    int64_t scale_step = 0;  // 0: one scale for all positions
  };

  Network(const Kernels& kernels, const Code& code, Program program);
  std::string prepare(size_t index, const std::vector<Constant>& constants);
  std::string prepare_product(size_t index, const std::vector<Constant>& constants);
  std::string prepare_mean(size_t index, const std::vector<Constant>& constants);
  std::string prepare_scales(size_t index, const std::vector<Constant>& constants);
  std::string prepare_recurrence(size_t index, const std::vector<Constant>& constants);
  std::string prepare_entries(size_t index, const std::vector<Constant>& constants);

  std::shared_ptr<const Plan> plan_for(int64_t length) const;
  size_t extra_of(const Program& program, size_t index) const;
  size_t extra_of(const Program& program) const;
  std::unique_ptr<Frame> take_frame(size_t size) const;
  void give_frame(std::unique_ptr<Frame> frame) const;
  void run_sample(const Run& run, void* y) const;
  void run_instruction(size_t index, const Run& run) const;
  void run_norm(size_t index, const Run& run, uint8_t* y) const;
  void run_attention(size_t index, const Run& run, uint8_t* y) const;
  void run_recurrence(size_t index, const Run& run, uint8_t* y) const;

  const Kernels& kernels_;
  Code code_;
  Program program_;  // a free axis: at its longest
  std::vector<Step> steps_;
  size_t packed_ = 0;  // bytes of all weights, nearly
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<const Plan>> plans_;  // the latest last, a few
  mutable std::vector<std::unique_ptr<Frame>> idle_;
};

}  // namespace flwr_edge::integer
