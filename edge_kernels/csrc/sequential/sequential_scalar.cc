// The oracle of LutSequential's kernels, and what runs where no other is built.
#include <cmath>
#include <cstring>

#include "sequential_kernels.h"

namespace flwr_edge {
namespace {

uint32_t magnitude(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits & 0x7fffffff;
}

uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

float row_product(const DenseJob& job, int64_t i, int64_t block, int row) {
  const Dense& layer = *job.layer;
  const uint8_t* a = job.a + i * job.a_stride;
  const int8_t* values = layer.values + (block * layer.steps * kBlock + row) * kStep;
  float acc = 0;
  for (int64_t s = 0; s < layer.segments; ++s) {
    const int64_t at = (block * layer.segments + s) * kBlock + row;
    int32_t dot = layer.starts[at];
    for (int step = 0; step < layer.segment_steps[s]; ++step) {
      for (int k = 0; k < kStep; ++k) dot += values[k] * a[k];
      values += kBlock * kStep;
      a += kStep;
    }
    const float sa = job.scale[i * job.scale_stride + s / layer.halves * job.scale_step];
    float u = float(dot);
    if (layer.zeros) u = std::fmaf(-layer.zeros[at], float(job.sums[i * layer.segments + s]), u);
    acc = layer.scales ? std::fmaf(u * sa, layer.scales[at], acc) : std::fmaf(u, sa, acc);
  }
  return acc;
}

uint32_t dense(const DenseJob& job) {
  const Dense& layer = *job.layer;
  uint32_t most = 0;
  for (int64_t i = 0; i < job.m; ++i) {
    for (int64_t r = 0; r < layer.rows; ++r) {
      float y = row_product(job, i, r / kBlock, int(r % kBlock));
      if (layer.row_scales) y *= layer.row_scales[r];
      y = y * layer.multiplier + layer.bias[r];
      if (job.relu && y < 0) y = 0;
      job.y[i * job.y_stride + r] = y;
      most = larger(most, magnitude(y));
    }
  }
  return most;
}

uint32_t largest(const float* x, int64_t n) {
  uint32_t most = 0;
  for (int64_t i = 0; i < n; ++i) most = larger(most, magnitude(x[i]));
  return most;
}

uint8_t quantized(float x, float inverse) {
  return uint8_t(int(std::nearbyintf(x * inverse)) + 128);
}

void quantize(const float* x, int64_t n, float inverse, uint8_t* q) {
  for (int64_t i = 0; i < n; ++i) q[i] = quantized(x[i], inverse);
}

void quantize_transposed(const float* x, int64_t d0, int64_t d1, float inverse, uint8_t* q) {
  for (int64_t i = 0; i < d0; ++i) {
    for (int64_t j = 0; j < d1; ++j) q[j * d0 + i] = quantized(x[i * d1 + j], inverse);
  }
}

void reduce(bool largest, const float* x, int64_t lines, int64_t step, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) {
    float result = x[i];
    for (int64_t k = 1; k < lines; ++k) {
      const float value = x[k * step + i];
      if (!largest) {
        result += value;
      } else if (value > result || value != value) {
        result = value;
      }
    }
    y[i] = result;
  }
}

}  // namespace

const SequentialKernels* sequential_scalar() {
  static const SequentialKernels kernels{"scalar", dense,  largest, quantize,
                                         quantize_transposed, reduce};
  return &kernels;
}

const SequentialKernels& sequential_kernels(const char* isa) {
  const SequentialKernels* best = nullptr;
#ifdef FLWR_EDGE_AVX512VNNI
  if (std::strcmp(isa, "avx512vnni") == 0) best = sequential_avx512vnni();
#endif
#ifdef FLWR_EDGE_AVXVNNI
  if (std::strcmp(isa, "avxvnni") == 0) best = sequential_avxvnni();
#endif
#ifdef FLWR_EDGE_AVX2
  if (!best && std::strncmp(isa, "avx", 3) == 0) best = sequential_avx2();
#endif
  (void)isa;
  return best ? *best : *sequential_scalar();
}

}  // namespace flwr_edge
