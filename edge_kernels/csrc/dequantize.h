// The product in float, for activations that integers cannot hold.
#pragma once

#include "matmul.h"

namespace flwr_edge {

// y row i = x row i times the dequantized weights, for the rows `which` [count]: NaN and infinity
// propagate as in a float product. Slow: it unpacks every tile.
void float_product(const Isa& isa, const Weights& weights, const float* x, int64_t x_stride,
                   const int64_t* which, int64_t count, const Epilogue& epilogue, float* y,
                   int64_t y_stride, const Pool& pool);

}  // namespace flwr_edge
