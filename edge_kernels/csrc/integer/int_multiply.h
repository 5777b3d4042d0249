// IntSequential's steps of gates and tokens: products of two values, parts of one, constants.
#pragma once

#include "int_kernels.h"
#include "int_program.h"

namespace flwr_edge::integer {

// x and y, each of the result's axes or 1, to the result, in its order of memory.
void multiply(const Kernels& kernels, const Instruction& i, const Value& x_value, const uint8_t* x,
              const Value& y_value, const uint8_t* y, const Value& to_value, uint8_t* to);
// The part of `from` that begins at i.start; the same order of memory.
void slice(const Instruction& i, const Value& from, const uint8_t* x, const Value& to, uint8_t* y);
// Entries that fit the value's type.
void constant(const int32_t* entries, const Value& to, uint8_t* y);

}  // namespace flwr_edge::integer
