// IntSequential's steps without products.
#pragma once

#include "int_kernels.h"
#include "int_program.h"

namespace flwr_edge::integer {

Source source(const Value& value, const uint8_t* x);
Target target(const Instruction& i, uint8_t* y);

// Means' multipliers and shifts at one position.
struct Mean {
  int64_t m;
  int32_t shift, zero;
};

// x in the order of memory of `from` to y in that of `to`; they have the same shape and elements.
void copy(const Kernels& kernels, const Value& from, const uint8_t* x, const Value& to, uint8_t* y);
void relu(const Value& value, const uint8_t* x, uint8_t* y);
// m and shift: of each position, or with a step of 0 of all. Null: the largest.
void pool(const Instruction& i, const Value& from, const uint8_t* x, const Value& to,
          const int32_t* m, const int32_t* shift, int64_t step, uint8_t* y);
void reduce(const Instruction& i, const Value& from, const uint8_t* x, const int32_t* m,
            const int32_t* shift, uint8_t* y);
// What a sum of n numbers is multiplied and shifted by, from that of one; the shift may pass 62.
Scale free_mean(const Scale& one, int64_t n);
void add(const Kernels& kernels, const Instruction& i, const Value& x_value, const uint8_t* x,
         const Value& y_value, const uint8_t* y, uint8_t* to);
void affine(const Instruction& i, const Value& from, const uint8_t* x, const int32_t* m,
            const int64_t* t, uint8_t* y);
void table(const Kernels& kernels, const Value& from, const uint8_t* x, const int32_t* entries,
           const Value& to, uint8_t* y);

}  // namespace flwr_edge::integer
