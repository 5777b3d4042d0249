// What IntSequential computes on each instruction set: products of u8 activations by s8 weights,
// in blocks of 16 rows and steps of 4 inputs, requantized in integers; and what a transformer does
// row by row. All give the same bits.
#pragma once

#include <cstddef>
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
  const int32_t* left;     // [blocks][16], or null: sums are shifted up first, within 32 bits
  const int16_t* words;    // values as int16, where the kernels read these
};

struct Job {
  const Layer* layer;
  const uint8_t* a;        // row i at a + i * a_stride; 3 bytes more than K are readable
  int64_t a_stride, count;
  int32_t zero, low;       // of the result; low: the smallest, where ReLU zero
  uint8_t* q;              // row i at q + i * rows; all shifts are 32 or more
  uint16_t* q16;           // where q is null: the same with 16 bits
  int32_t* acc;            // where both are null: row i at acc + i * rows
  void* room;              // `product_room` bytes
  int32_t top() const { return q ? 255 : 65535; }
};

// For activations as int16.
static inline size_t product_room(int64_t a_stride, int64_t count, int64_t steps) {
  return size_t((count - 1) * a_stride + steps * kStep) * 2 + 64;
}

// Values that are read: uint8_t, or uint16_t where wide.
struct Source {
  const void* data;
  bool wide;
  int32_t zero;
};

// Values that are written, clamped to low and their largest.
struct Target {
  void* data;
  bool wide;
  int32_t zero, low;
};

// Both of the form numerator * m >> shift.
struct Scale {
  int64_t m;
  int shift;
};

// A norm over n numbers: d = n (q - zero) - sum, times 1 / sqrt(n * squares - sum^2 + epsilon).
struct NormScale {
  const int32_t* m;        // [n]
  const int64_t* t;        // [n]
  int64_t epsilon;
  int shift;
  bool rms;                // sum is 0
};

// A row of attention's weighted sums: (256 high + low + offset) >> less, times m >> shift.
struct Weighted {
  const int32_t *high, *low;
  int64_t offset;
  int less;
  Scale scale;
};

constexpr int32_t kStateBits = 15;  // of the fraction of sigmoids and states
constexpr int32_t kOne = 1 << kStateBits;

// One position of a recurrent layer's direction, of `width` numbers; its gates lie one after
// another.
struct Cell {
  Source x;                 // [gates][width]
  const int32_t *sums, *m;  // [gates][width]: of the last state, and by what they are multiplied
  int64_t m_x;              // by what x is
  int shift;                // of both
  const uint32_t* logistic;  // [256]: an entry, and 2^16 times what the next one has more
  Scale scale;              // from states to y
  int64_t width;
  int32_t* gates;           // [gates + 1][width], written
  int32_t* states;          // [width], read and written
  int32_t zero;             // of y
  uint8_t* y;
};

// One number, any shift: clamp(((numerator + 2^(shift - 1)) >> shift) + zero).
static inline int64_t rounded(int64_t numerator, int shift, int64_t zero, int64_t low,
                              int64_t top) {
  const int64_t q = ((numerator + (int64_t(1) << (shift - 1))) >> shift) + zero;
  return q < low ? low : q > top ? top : q;
}

struct Kernels {
  bool words;  // product reads a layer's words, and writes a job's room
  void (*product)(const Job& job);
  // x [d0][d1] -> y [d1][d0].
  void (*transpose)(const uint8_t* x, int64_t d0, int64_t d1, uint8_t* y);
  // y[i] = table[x[i]].
  void (*table)(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* y);
  // net.py's Add, Rescale and Norm of n numbers each.
  void (*add)(const Source& x, int64_t m_x, const Source& y, int64_t m_y, int shift, int64_t n,
              const Target& to);
  void (*rescale)(const Source& x, const Scale& scale, int64_t n, const Target& to);
  void (*norm)(const Source& x, const NormScale& scale, int64_t rows, int64_t n, int32_t* room,
               const Target& to);
  // Attention's p of n scores, as 256 high + low, and their sum. From `limit` on p is 0.
  int64_t (*exponentials)(const int32_t* scores, int64_t n, const Scale& scale, int32_t limit,
                          uint8_t* high, uint8_t* low);
  void (*weighted)(const Weighted& row, int64_t n, const Target& to);
  // net.py's Multiply of n numbers each.
  void (*multiply)(const Source& x, const Source& y, const Scale& scale, int64_t n,
                   const Target& to);
  // recurrent.py's LSTM and GRU at one position.
  void (*lstm)(const Cell& cell);
  void (*gru)(const Cell& cell);
};

const Kernels* scalar();
// Where the build has them.
const Kernels* avx2();
const Kernels* avxvnni();
const Kernels* avx512vnni();
const Kernels* neon();
const Kernels* neon_dot();  // ARMv8.2 dot product

// Those that fit the Isa of this name.
const Kernels& kernels_for(const char* isa);

}  // namespace flwr_edge::integer
