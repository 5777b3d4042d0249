// A linear layer or a convolution of LutSequential: weights unpacked once, in the kernels' order.
#pragma once

#include <memory>
#include <vector>

#include "conv1d.h"
#include "matmul.h"
#include "sequential_kernels.h"

namespace flwr_edge {

// What bits of a largest magnitude mean that there is a NaN or an infinity.
constexpr uint32_t kNotFinite = 0x7f800000;
constexpr uint32_t kUnknown = 0xffffffff;

class SequentialLayer {
 public:
  // The blob's memory must outlive this. bias: weights.rows floats, or null.
  SequentialLayer(const Isa& isa, const Weights& weights, const float* bias, bool relu);
  virtual ~SequentialLayer() = default;
  static size_t unpacked_bytes(const Weights& weights);  // that a layer will take, nearly
  SequentialLayer(const SequentialLayer&) = delete;
  SequentialLayer& operator=(const SequentialLayer&) = delete;

 protected:
  DenseJob job() const;
  // Sums of q over the segments of `m` fields, for zero points.
  void sum_fields(const uint8_t* a, int64_t a_stride, int64_t m, int32_t* sums) const;
  void float_fields(const float* fields, int64_t count, float* y) const;

  const Isa& isa_;
  const SequentialKernels& kernels_;
  const Weights weights_;
  Dense dense_{};
  Epilogue epilogue_;

 private:
  void unpack();
  void unpack_tile(int64_t row_tile, int64_t tile);
  void copy_scales(int64_t row_tile, int64_t tile);
  void copy_rows(const float* from, std::vector<float>* to) const;

  std::vector<float> plain_bias_;
  std::vector<int8_t> values_;  // with room to align
  int8_t* aligned_values_ = nullptr;
  std::vector<int32_t> starts_, segment_steps_;
  std::vector<int64_t> first_steps_;  // [segments]
  std::vector<float> scales_, zeros_, row_scales_, bias_;
};

class SequentialLinear : public SequentialLayer {
 public:
  SequentialLinear(const Isa& isa, const Weights& weights, const float* bias, bool relu,
                   int64_t rows);
  size_t scratch() const;  // bytes
  // x [m][K] -> y [m][n], m as in the constructor.
  uint32_t run(const float* x, uint8_t* scratch, float* y) const;

 private:
  uint32_t run_some(const float* x, int64_t count, uint8_t* scratch, float* y) const;
  int64_t m_;
  std::unique_ptr<MatMul> large_;  // where reading packed weights is what counts
};

class SequentialConv : public SequentialLayer {
 public:
  SequentialConv(const Isa& isa, const Weights& weights, const float* bias, bool relu,
                 const ConvShape& shape, int64_t length, int64_t positions);
  size_t scratch() const;  // bytes
  // x [length][channels], or with channels_first [channels][length], and the bits of its largest
  // magnitude -> y [positions][n].
  uint32_t run(const float* x, bool channels_first, uint32_t largest, uint8_t* scratch,
               float* y) const;

 private:
  size_t row_bytes() const;
  size_t field_bytes() const;
  void gather(const uint8_t* row, uint8_t* fields) const;
  uint32_t run_not_finite(const float* x, bool channels_first, float* y) const;

  ConvShape shape_;
  int64_t length_, positions_;
};

}  // namespace flwr_edge
