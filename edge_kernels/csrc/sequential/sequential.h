// A whole small network as one call: runs a program (sequential_program.h) a sample at a time.
// Values between layers are float, channels last after a convolution. Each layer quantizes its
// input as LutMatMul and LutConv1d do: a scale for 64 inputs, or for a convolution one a sample.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sequential_layer.h"
#include "sequential_program.h"

namespace flwr_edge {

struct Constant {
  const void* data;
  size_t bytes;
  bool floats;  // float32; else uint8
};

class Sequential {
 public:
  // Null, and why in *error, where program and constants do not fit. The constants' memory must
  // outlive the result.
  static std::unique_ptr<Sequential> create(const Isa& isa, Program program,
                                            const std::vector<Constant>& constants,
                                            std::string* error);

  const Program& program() const { return program_; }

  // x [batch][input], contiguous -> y[i] [batch][output i], in ONNX order of elements. Concurrent
  // runs share nothing that changes. The batch is spread over the pool.
  void run(const float* x, int64_t batch, float* const* y, const Pool& pool) const;

 private:
  // What one sample's run writes.
  struct Frame {
    std::unique_ptr<uint8_t[]> memory;
    float* floats;
    uint8_t* bytes;
    std::vector<float*> at;         // of each value
    std::vector<uint32_t> largest;  // bits of the largest magnitude, or kUnknown
  };

  // What an instruction needs of the constants.
  struct Step {
    std::unique_ptr<SequentialLinear> linear;
    std::unique_ptr<SequentialConv> conv;
    std::vector<float> scale, shift;  // affine, as long as its axis; or empty
  };

  Sequential(const Isa& isa, Program program);
  std::string prepare(const Isa& isa, size_t index, const std::vector<Constant>& constants);
  std::string prepare_layer(const Isa& isa, size_t index, const std::vector<Constant>& constants);
  // Counts what a layer keeps of constants, of which one may serve many layers; false: too much.
  bool unpacked(size_t bytes);
  std::string prepare_affine(size_t index, const std::vector<Constant>& constants);

  std::unique_ptr<Frame> take_frame() const;
  void give_frame(std::unique_ptr<Frame> frame) const;
  void run_sample(const float* x, int64_t sample, float* const* y, Frame* frame) const;
  void run_instruction(size_t index, Frame* frame) const;

  // x as it lies in memory where that is [d0][d1]; else a copy in `room`.
  const float* in_onnx_order(int64_t value, const Frame& frame, float* room) const;

  const SequentialKernels& kernels_;
  Program program_;
  std::vector<Step> steps_;
  size_t bytes_ = 0;     // a frame's, behind its floats
  size_t unpacked_ = 0;  // of all layers, nearly
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Frame>> idle_;
};

}  // namespace flwr_edge
