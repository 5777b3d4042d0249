// What IntSequential computes on each instruction set: products of u8 activations by s8 weights,
// in blocks of 16 rows and steps of 4 inputs, requantized in integers. All give the same bits.
#pragma once

#include <cstdint>

namespace flwr_edge::integer {

constexpr int kBlock = 16;  // rows
constexpr int kStep = 4;    // inputs

// A product's constants. Vectors over rows are padded to whole blocks: weights and sums of zero.
struct Layer {
  int64_t rows, blocks, steps;
  const int8_t* values;    // [blocks][steps][16][4]
  const int32_t* start;    // [blocks][16]: bias - zero of x * sum of weights, modulo 2^32
  const int32_t* start_signed;  // the same for activations less 128
  const int32_t* m;        // [blocks][16], or null: accumulators
  const int32_t* shift;    // [blocks][16]
  const int64_t* half;     // [blocks][2][8]: 2^(shift - 1) of even rows, then of odd rows
};

struct Job {
  const Layer* layer;
  const uint8_t* a;        // row i at a + i * a_stride; 3 bytes more than K are readable
  int64_t a_stride, count;
  int32_t zero, low;       // of the result; low: the smallest, where ReLU zero
  uint8_t* q;              // row i at q + i * rows; all shifts are 32 or more
  int32_t* acc;            // where q is null: row i at acc + i * rows
};

// One number, any shift: clamp(((numerator + 2^(shift - 1)) >> shift) + zero).
inline uint8_t rounded(int64_t numerator, int shift, int32_t zero, int32_t low) {
  const int64_t q = ((numerator + (int64_t(1) << (shift - 1))) >> shift) + zero;
  return uint8_t(q < low ? low : q > 255 ? 255 : q);
}

struct Kernels {
  void (*product)(const Job& job);
  // x [d0][d1] -> y [d1][d0].
  void (*transpose)(const uint8_t* x, int64_t d0, int64_t d1, uint8_t* y);
};

const Kernels* scalar();
// Where the build has them.
const Kernels* avx2();
const Kernels* avx512vnni();
const Kernels* neon();
const Kernels* neon_dot();  // ARMv8.2 dot product

// Those that fit the Isa of this name.
const Kernels& kernels_for(const char* isa);

}  // namespace flwr_edge::integer
