// IntSequential's kernels for AVX2: both sides are widened to 16 bits beforehand, so that no product
// of two saturates and the loop has nothing but products and sums.
#include "int_avx2.h"

namespace flwr_edge::integer {
namespace {

constexpr int kQuarters = 4;  // of a block: four rows of four inputs are a vector

// Four activations, four times.
__m256i broadcast_step(const int16_t* a) {
  int64_t four;
  std::memcpy(&four, a, 8);
  return _mm256_set1_epi64x(four);
}

// Weights from memory: with twelve sums and three activations, one register is left.
void add_products(__m256i* dot, __m256i x, const int16_t* w) {
  __m256i products;
  asm("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0"
      : "+x"(*dot), "=&x"(products)
      : "m"(*reinterpret_cast<const __m256i_u*>(w)), "x"(x));
}

// Adds neighbours: sums of pairs of two quarters to eight rows in order.
__m256i rows_of(__m256i first, __m256i second) {
  return _mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), _MM_SHUFFLE(3, 1, 2, 0));
}

// A block of rows by P rows of activations from `first` on; `words`: all activations as int16.
template <int P>
void tile(const Job& job, const int16_t* words, int64_t block, int64_t first) {
  const Layer& layer = *job.layer;
  const int16_t* a = words + first * job.a_stride;
  const int16_t* values = layer.words + block * layer.steps * kBlock * kStep;
  __m256i dot[kQuarters][P];  // in registers, if every loop over them is unrolled early
#pragma GCC unroll 4
  for (int r = 0; r < kQuarters; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) dot[r][p] = _mm256_setzero_si256();
  }
  for (int64_t step = layer.steps; step > 0; --step) {
    __m256i x[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) x[p] = broadcast_step(a + p * job.a_stride);
#pragma GCC unroll 4
    for (int r = 0; r < kQuarters; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        add_products(&dot[r][p], x[p], values + r * 16);
      }
    }
    _mm_prefetch(reinterpret_cast<const char*>(values) + kAhead, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(values) + kAhead + 64, _MM_HINT_T0);
    values += kBlock * kStep;
    a += kStep;
  }
  const int64_t left = layer.rows - block * kBlock;
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    store(job, rows_of(dot[0][p], dot[1][p]), block, 0, first + p, left < 8 ? left : 8);
    if (left > 8) {
      store(job, rows_of(dot[2][p], dot[3][p]), block, 1, first + p, left < 16 ? left - 8 : 8);
    }
  }
}

// Rows of activations may overlap: they are widened as they lie.
const int16_t* widened(const Job& job) {
  auto* words = static_cast<int16_t*>(job.room);
  const int64_t count = (job.count - 1) * job.a_stride + job.layer->steps * kStep;
  for (int64_t i = 0; i < count; ++i) words[i] = job.a[i];
  return words;
}

void product(const Job& job) {
  const int16_t* words = widened(job);
  for (int64_t block = 0; block < job.layer->blocks; ++block) {
    int64_t i = 0;
    for (; job.count - i >= 3 && job.count - i != 4; i += 3) tile<3>(job, words, block, i);
    for (; job.count - i >= 2; i += 2) tile<2>(job, words, block, i);
    if (i < job.count) tile<1>(job, words, block, i);
  }
}

}  // namespace

const Kernels* avx2() {
  static const Kernels kernels{true,         product,   scalar()->transpose, table_rows,       add_rows,
                               rescale_rows, norm_rows,           exponential_rows, weighted_rows,
                               multiply_rows, lstm_cell<sigmoid_rows>,
                               gru_cell<sigmoid_rows>};
  return &kernels;
}

}  // namespace flwr_edge::integer
