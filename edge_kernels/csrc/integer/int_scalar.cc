// The oracle of IntSequential's kernels, and what runs where no other is built.
#include <cstring>

#include "int_cells.h"

namespace flwr_edge::integer {
namespace {

// Modulo 2^32 while it is made; the whole fits int32.
int32_t sum(const Layer& layer, const uint8_t* a, int64_t row) {
  const int64_t block = row / kBlock;
  const int8_t* values = layer.values + (block * layer.steps * kBlock + row % kBlock) * kStep;
  auto dot = uint32_t(layer.start[row]);
  for (int64_t step = 0; step < layer.steps; ++step) {
    for (int k = 0; k < kStep; ++k) dot += uint32_t(values[k] * a[k]);
    values += kBlock * kStep;
    a += kStep;
  }
  return int32_t(dot);
}

void product(const Job& job) {
  const Layer& layer = *job.layer;
  for (int64_t i = 0; i < job.count; ++i) {
    for (int64_t row = 0; row < layer.rows; ++row) {
      const int32_t acc = sum(layer, job.a + i * job.a_stride, row);
      const int64_t at = i * layer.rows + row;
      if (!job.q && !job.q16) {
        job.acc[at] = acc;
        continue;
      }
      const int left = layer.left ? layer.left[row] : 0;
      const int64_t numerator = int64_t(acc) * (int64_t(1) << left) * layer.m[row];
      const int64_t q = rounded(numerator, layer.shift[row], job.zero, job.low, job.top());
      if (job.q) job.q[at] = uint8_t(q);
      else job.q16[at] = uint16_t(q);
    }
  }
}

void transpose(const uint8_t* x, int64_t d0, int64_t d1, uint8_t* y) {
  for (int64_t i = 0; i < d0; ++i) {
    for (int64_t j = 0; j < d1; ++j) y[j * d0 + i] = x[i * d1 + j];
  }
}

}  // namespace

const Kernels* scalar() {
  static const Kernels kernels{false,        product,   transpose, table_rows,       add_rows,
                               rescale_rows, norm_rows, exponential_rows, weighted_rows,
                               multiply_rows, lstm_cell<sigmoid_rows>,
                               gru_cell<sigmoid_rows>};
  return &kernels;
}

const Kernels& kernels_for(const char* isa) {
  const Kernels* best = nullptr;
#ifdef FLWR_EDGE_AVX512VNNI
  // That Isa asks for VBMI besides, which these kernels do not.
  const bool vnni = std::strcmp(isa, "avx512") == 0 && __builtin_cpu_supports("avx512vnni");
  if (vnni || std::strcmp(isa, "avx512vnni") == 0) best = avx512vnni();
#endif
#ifdef FLWR_EDGE_AVXVNNI
  if (std::strcmp(isa, "avxvnni") == 0) best = avxvnni();
#endif
#ifdef FLWR_EDGE_AVX2
  if (!best && std::strncmp(isa, "avx", 3) == 0) best = avx2();
#endif
#ifdef FLWR_EDGE_NEON_DOT
  if (std::strcmp(isa, "neon_dot") == 0) best = neon_dot();
#endif
#ifdef FLWR_EDGE_NEON
  if (std::strcmp(isa, "neon") == 0) best = neon();
#endif
  (void)isa;
  return best ? *best : *scalar();
}

}  // namespace flwr_edge::integer
