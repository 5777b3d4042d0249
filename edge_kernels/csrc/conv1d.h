// 1-D convolution as a product whose rows overlap: nothing is materialised but the padded input.
//
// Packed inputs are ordered tap by tap, K = kernel * channels, input k = tap * channels + channel:
// in channels-last order a position's receptive field is then one run of bytes, `stride * channels`
// after its neighbour's. Activations share one scale a sample (largest |x| / 127): overlapping
// fields cannot have scales by 64 inputs.
#pragma once

#include <memory>

#include "matmul.h"
#include "scratch.h"

namespace flwr_edge {

struct ConvShape {
  int64_t channels, kernel, stride = 1, dilation = 1, pad_begin = 0, pad_end = 0;

  // Inputs from the first tap to the last.
  int64_t reach() const { return dilation * (kernel - 1) + 1; }
  // Positions of the output; 0: the input is too short.
  int64_t output_length(int64_t length) const {
    const int64_t room = pad_begin + length + pad_end - reach();
    return room < 0 ? 0 : room / stride + 1;
  }
};

class Conv1d {
 public:
  // Unpacks the weights once (a byte a weight); needs weights.inputs == kernel * channels.
  Conv1d(const Isa& isa, const Weights& weights, const ConvShape& shape);

  int64_t output_length(int64_t length) const { return shape_.output_length(length); }

  // ONNX order: x [channels][length] -> y [rows][output_length], one sample.
  void run(const float* x, int64_t length, const Epilogue& epilogue, float* y,
           const Pool& pool) const;

  // Channels last: x [length][channels] -> y [output_length][rows].
  void run_channels_last(const float* x, int64_t length, const Epilogue& epilogue, float* y,
                         const Pool& pool) const;

 private:
  const Isa& isa_;
  Weights weights_;
  ConvShape shape_;
  std::unique_ptr<Scratch> memory_;
  int8_t* values_;       // as unpack() writes them [row_tiles][input_tiles][4096]
  int32_t* value_sums_;  // [row_tiles][input_tiles][2][64]
};

}  // namespace flwr_edge
