// IntSequential's kernels for AVX2 with AVX-VNNI: bytes as they are.
#include "avxvnni.h"
#include "int_avx2.h"

namespace flwr_edge::integer {
namespace {

constexpr int kHalves = 2;  // of a block: eight rows of four inputs are a vector
constexpr int kMost = 5;    // rows of activations: ten sums, two vectors of weights, an activation

__m256i broadcast_step(const uint8_t* a) {
  int32_t four;
  std::memcpy(&four, a, 4);
  return _mm256_set1_epi32(four);
}

// A block of rows by P rows of activations from `first` on.
template <int P>
void tile(const Job& job, int64_t block, int64_t first) {
  const Layer& layer = *job.layer;
  const uint8_t* a = job.a + first * job.a_stride;
  const int8_t* values = layer.values + block * layer.steps * kBlock * kStep;
  __m256i dot[kHalves][P];  // in registers, if every loop over them is unrolled early
#pragma GCC unroll 5
  for (int p = 0; p < P; ++p) dot[0][p] = dot[1][p] = _mm256_setzero_si256();
  for (int64_t step = layer.steps; step > 0; --step) {
    __m256i w0 = load(values), w1 = load(values + 32);
    asm("" : "+x"(w0), "+x"(w1));  // or they are loaded again for each of P
#pragma GCC unroll 5
    for (int p = 0; p < P; ++p) {
      const __m256i x = broadcast_step(a + p * job.a_stride);
      dot[0][p] = add_products(dot[0][p], x, w0);
      dot[1][p] = add_products(dot[1][p], x, w1);
    }
    _mm_prefetch(reinterpret_cast<const char*>(values) + kAhead, _MM_HINT_T0);
    values += kBlock * kStep;
    a += kStep;
  }
  const int64_t left = layer.rows - block * kBlock;
#pragma GCC unroll 5
  for (int p = 0; p < P; ++p) {
    store(job, dot[0][p], block, 0, first + p, left < 8 ? left : 8);
    if (left > 8) store(job, dot[1][p], block, 1, first + p, left < 16 ? left - 8 : 8);
  }
}

void product(const Job& job) {
  static constexpr void (*tiles[kMost])(const Job&, int64_t, int64_t) = {tile<1>, tile<2>, tile<3>,
                                                                         tile<4>, tile<5>};
  const int64_t parts = (job.count + kMost - 1) / kMost;
  for (int64_t block = 0; block < job.layer->blocks; ++block) {
    int64_t done = 0;
    for (int64_t part = 0; part < parts; ++part) {  // as evenly as can be
      const int64_t count = (job.count - done + parts - part - 1) / (parts - part);
      tiles[count - 1](job, block, done);
      done += count;
    }
  }
}

}  // namespace

const Kernels* avxvnni() {
  static const Kernels kernels{false,        product,   scalar()->transpose, table_rows,       add_rows,
                               rescale_rows, norm_rows, exponential_rows, weighted_rows,
                               multiply_rows, lstm_cell<sigmoid_rows>,
                               gru_cell<sigmoid_rows>};
  return &kernels;
}

}  // namespace flwr_edge::integer
