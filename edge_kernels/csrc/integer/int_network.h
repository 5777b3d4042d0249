// A network in integers as one call: runs a program (int_program.h) a sample at a time. Values
// are channels last after a convolution; weights are packed once.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "int_product.h"
#include "int_program.h"
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
  // constants' memory must outlive the result.
  static std::unique_ptr<Network> create(const char* isa, Program program,
                                         const std::vector<Constant>& constants,
                                         std::string* error);

  const Program& program() const { return program_; }
  const Value& result() const { return program_.values[size_t(program_.result)]; }

  // x [batch][input], contiguous -> y [batch][result], uint8 or int32, in ONNX order of elements.
  // Concurrent runs share nothing that changes. The batch is spread over the pool.
  void run(const uint8_t* x, int64_t batch, void* y, const Pool& pool) const;

 private:
  // What one sample's run writes: values, then what a product needs.
  struct Frame {
    std::unique_ptr<uint8_t[]> memory;
    uint8_t* bytes;
  };

  // What an instruction needs of the constants.
  struct Step {
    Product product;
    const int32_t *m = nullptr, *shift = nullptr;
    const int64_t* term = nullptr;
    int64_t scale_step = 0;  // 0: one scale for all positions
  };

  Network(const Kernels& kernels, Program program);
  std::string prepare(size_t index, const std::vector<Constant>& constants);
  std::string prepare_product(size_t index, const std::vector<Constant>& constants);
  std::string prepare_mean(size_t index, const std::vector<Constant>& constants);
  std::string prepare_affine(size_t index, const std::vector<Constant>& constants);

  std::unique_ptr<Frame> take_frame() const;
  void give_frame(std::unique_ptr<Frame> frame) const;
  void run_sample(const uint8_t* x, void* y, Frame* frame) const;
  void run_instruction(size_t index, const uint8_t* x, Frame* frame) const;
  const uint8_t* at(int64_t value, const uint8_t* x, const Frame& frame) const {
    return value == 0 ? x : frame.bytes + program_.values[size_t(value)].offset;
  }

  const Kernels& kernels_;
  Program program_;
  std::vector<Step> steps_;
  size_t packed_ = 0;  // bytes of all weights, nearly
  size_t extra_ = 0;  // bytes of a frame behind its values
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Frame>> idle_;
};

}  // namespace flwr_edge::integer
