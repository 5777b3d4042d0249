// IntSequential's steps without products.
#pragma once

#include "int_kernels.h"
#include "int_program.h"

namespace flwr_edge::integer {

// Means' multipliers and shifts at one position.
struct Mean {
  int64_t m;
  int32_t shift, zero;
};

// x in the order of memory of `from` to y in that of `to`; they have the same shape.
void copy(const Kernels& kernels, const Value& from, const uint8_t* x, const Value& to, uint8_t* y);
void copy_accumulators(const Value& from, const int32_t* x, const Value& to, int32_t* y);
void relu(const uint8_t* x, int64_t n, int64_t zero, uint8_t* y);
// m and shift: of each position, or with a step of 0 of all. Null: the largest.
void pool(const Instruction& i, const Value& from, const uint8_t* x, const Value& to,
          const int32_t* m, const int32_t* shift, int64_t step, uint8_t* y);
void reduce(const Instruction& i, const Value& from, const uint8_t* x, const int32_t* m,
            const int32_t* shift, uint8_t* y);
void add(const Instruction& i, const Value& x_value, const uint8_t* x, const Value& y_value,
         const uint8_t* y, uint8_t* to);
void affine(const Instruction& i, const Value& from, const uint8_t* x, const int32_t* m,
            const int64_t* t, uint8_t* y);

}  // namespace flwr_edge::integer
