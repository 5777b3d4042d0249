// LutSequential's instructions that multiply nothing: plain loops, the inner one over what is
// contiguous.
#pragma once

#include "sequential_kernels.h"
#include "sequential_program.h"

namespace flwr_edge {

void sequential_relu(const float* x, int64_t n, float* y);
void sequential_add(const Value& xv, const float* x, const Value& yv, const float* y, float* sum);
// scale, shift: as long as the axis, or null.
void sequential_affine(const Instruction& i, const Value& v, const float* x, const float* scale,
                       const float* shift, float* y);
void sequential_pool(const Instruction& i, const Value& from, const float* x, const Value& to,
                     float* y);
void sequential_reduce(const SequentialKernels& kernels, const Instruction& i, const Value& from,
                       const float* x, float* y);
// Copies x into `to` with its element (0, 0) at `y`, whatever the two orders in memory.
void sequential_copy(const Value& from, const float* x, const Value& to, float* y);

}  // namespace flwr_edge
