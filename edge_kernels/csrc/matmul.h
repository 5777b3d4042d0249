// y = x W^T + bias, W packed: activations quantized once, then lookup or an int8 product.
#pragma once

#include "isa.h"
#include "pool.h"

namespace flwr_edge {

struct Epilogue {
  const float* bias = nullptr;  // [rows] or null
  bool relu = false;
};

class MatMul {
 public:
  // The weights' memory must outlive this. fast: 7-bit tables (see isa.h).
  MatMul(const Isa& isa, const Weights& weights, bool fast = false);

  // x [m][inputs], contiguous. y: row i at y + i * y_stride, `rows` floats are written and no more.
  // A row with NaN or infinity is computed in float from the dequantized weights, so that it
  // propagates as in a float product. m may be 0.
  void run(const float* x, int64_t m, const Epilogue& epilogue, float* y, int64_t y_stride,
           const Pool& pool) const;

  const Weights& weights() const { return weights_; }

 private:
  const Isa& isa_;
  Weights weights_;
  bool fast_;
};

// acc [64] of a tile of rows -> y, by isa.h: row scale, multiplier, bias, ReLU; rows beyond the
// weights' are left out.
void finish(const Weights& weights, int64_t row_tile, const float* acc, const Epilogue& epilogue,
            float* y);

}  // namespace flwr_edge
