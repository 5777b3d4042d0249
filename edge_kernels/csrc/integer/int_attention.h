// IntSequential's attention: a head at a time, its keys and values packed as a product's weights.
#pragma once

#include "int_kernels.h"
#include "int_program.h"

namespace flwr_edge::integer {

// What is read, by rows: value 0 is not readable behind its end, and no more is read than it has.
struct Heads {
  const Value &x, &k, &v;
  const uint8_t *x_data, *k_data, *v_data;
};

// Bytes of memory that a run needs besides its values.
size_t attention_scratch(const Instruction& i, const Value& x, const Value& k, const Value& v);
void attention(const Kernels& kernels, const Instruction& i, const Heads& heads, uint8_t* room,
               uint8_t* y);

}  // namespace flwr_edge::integer
