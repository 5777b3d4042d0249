// What LutSequential computes on each instruction set. Small layers have few rows and short inputs,
// so tiles of 64 by 64 would be mostly padding: here weights are unpacked once, in blocks of 16
// rows and steps of 4 inputs, and the bias, ReLU and largest magnitude are part of the product.
// The arithmetic is isa.h's, operation by operation: the same bits as LutMatMul and LutConv1d.
#pragma once

#include <cstdint>

namespace flwr_edge {

constexpr int kBlock = 16;  // rows
constexpr int kStep = 4;    // inputs

// An unpacked layer. Vectors over rows are padded to whole blocks with zeros.
struct Dense {
  int64_t rows, blocks, segments, steps;  // steps: of all segments
  const int32_t* segment_steps;  // [segments]; a segment is what shares a weight scale and a tile
  int halves;                    // segments of a tile
  const int8_t* values;          // [blocks][steps][16][4]
  const int32_t* starts;         // [blocks][segments][16]: -128 times the segment's sum of values
  const float* scales;           // [blocks][segments][16], or null: u * sa is added unscaled
  const float* zeros;            // the same shape, or null
  const float* row_scales;       // [blocks][16], or null
  float multiplier;
  const float* bias;             // [blocks][16]
};

struct DenseJob {
  const Dense* layer;
  bool relu;
  const uint8_t* a;         // q + 128: row i at a + i * a_stride; 3 bytes more than K are readable
  int64_t a_stride, m;
  const float* scale;       // sa of row i, tile t: scale[i * scale_stride + t * scale_step]
  int64_t scale_stride, scale_step;
  const int32_t* sums;      // [m][segments]: sum of q; null where layer->zeros is
  float* y;                 // row i at y + i * y_stride; layer->rows floats are written
  int64_t y_stride;
};

struct SequentialKernels {
  const char* name;
  // Returns the bits of the largest |y|; as unsigned numbers they are ordered like the magnitudes,
  // and those of infinities and NaN are 0x7f800000 or more.
  uint32_t (*dense)(const DenseJob& job);
  uint32_t (*largest)(const float* x, int64_t n);
  // q = round-half-even(x * inverse) + 128; |x * inverse| is at most 127 and a rounding error.
  void (*quantize)(const float* x, int64_t n, float inverse, uint8_t* q);
  // The same with x [d0][d1] -> q [d1][d0].
  void (*quantize_transposed)(const float* x, int64_t d0, int64_t d1, float inverse, uint8_t* q);
  // y [n]: the largest, NaN if there is one, or the sum, in order, of lines x, x + step, ..
  void (*reduce)(bool largest, const float* x, int64_t lines, int64_t step, int64_t n, float* y);
};

const SequentialKernels* sequential_scalar();
// Where the build has them. On ARM the scalar ones run.
const SequentialKernels* sequential_avx2();
const SequentialKernels* sequential_avxvnni();
const SequentialKernels* sequential_avx512vnni();

// Those that fit the Isa of this name.
const SequentialKernels& sequential_kernels(const char* isa);

}  // namespace flwr_edge
