// LutSequential's kernels for AVX2 with AVX-VNNI: u8 by s8 into 32 bits.
#include "avxvnni.h"
#include "sequential_avx2.h"

#define INLINE inline __attribute__((always_inline))

namespace flwr_edge {
namespace {

// Sums of H times eight rows by P rows of activations.
template <int H, int P>
using Sums = __m256i[H][P];
template <int H, int P>
using Floats = __m256[H][P];

// Adds the products of so many steps.
template <int H, int P>
INLINE void add_steps(const int8_t* values, const uint8_t* a, int64_t a_stride, int steps,
                      Sums<H, P>& dot) {
  for (; steps > 0; --steps) {
    __m256i w[H];
    for (int h = 0; h < H; ++h) {
      w[h] = load(values + h * kHalf * kStep);
      asm("" : "+x"(w[h]));  // or it is loaded again for each of P
    }
    for (int p = 0; p < P; ++p) {
      const __m256i x = broadcast_step(a + p * a_stride);
      for (int h = 0; h < H; ++h) dot[h][p] = add_products(dot[h][p], x, w[h]);
    }
    values += kBlockBytes;
    a += kStep;
  }
}

// Adds a segment's sums to acc, scaled.
template <int H, int P>
INLINE void add_scaled(const DenseJob& job, const Lines& at, int64_t first, int64_t segment,
                       const Sums<H, P>& dot, Floats<H, P>& acc) {
  const Dense& layer = *job.layer;
  const float* sa = job.scale + first * job.scale_stride + segment / layer.halves * job.scale_step;
  for (int p = 0; p < P; ++p) {
    const __m256 scale_a = _mm256_set1_ps(sa[p * job.scale_stride]);
    for (int h = 0; h < H; ++h) {
      const int64_t row = segment * kBlock + h * kHalf;
      __m256 u = _mm256_cvtepi32_ps(dot[h][p]);
      if (at.zeros) {
        const __m256 sum = _mm256_set1_ps(float(job.sums[(first + p) * layer.segments + segment]));
        u = _mm256_fnmadd_ps(_mm256_loadu_ps(at.zeros + row), sum, u);
      }
      acc[h][p] = at.scales ? _mm256_fmadd_ps(_mm256_mul_ps(u, scale_a),
                                              _mm256_loadu_ps(at.scales + row), acc[h][p])
                            : _mm256_fmadd_ps(u, scale_a, acc[h][p]);
    }
  }
}

// Writes acc with its bias, the rows in `last` of the last eight; returns the largest magnitude.
template <int H, int P>
INLINE __m256i finish(const DenseJob& job, const Lines& at, int64_t first, __m256i last,
                      const Floats<H, P>& acc, __m256i most) {
  const __m256 multiplier = _mm256_set1_ps(job.layer->multiplier);
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  for (int h = 0; h < H; ++h) {
    const __m256i mask = h == H - 1 ? last : _mm256_set1_epi32(-1);
    const __m256 bias = _mm256_loadu_ps(at.bias + h * kHalf);
    for (int p = 0; p < P; ++p) {
      __m256 v = acc[h][p];
      if (at.row_scales) v = _mm256_mul_ps(v, _mm256_loadu_ps(at.row_scales + h * kHalf));
      v = _mm256_add_ps(_mm256_mul_ps(v, multiplier), bias);
      if (job.relu) v = _mm256_max_ps(_mm256_setzero_ps(), v);  // NaN stays: the second operand
      _mm256_maskstore_ps(job.y + (first + p) * job.y_stride + at.row + h * kHalf, mask, v);
      const __m256i bits = _mm256_and_si256(_mm256_castps_si256(v), magnitude);
      most = _mm256_max_epu32(most, _mm256_and_si256(bits, mask));
    }
  }
  return most;
}

// H times eight rows by P rows of activations from `first` on.
template <int H, int P>
__m256i tile(const DenseJob& job, const Lines& at, int64_t first, __m256i last, __m256i most) {
  const Dense& layer = *job.layer;
  const uint8_t* a = job.a + first * job.a_stride;
  const int8_t* values = at.values;
  Floats<H, P> acc;
  for (auto& half : acc) {
    for (__m256& v : half) v = _mm256_setzero_ps();
  }
  for (int64_t s = 0; s < layer.segments; ++s) {
    const int steps = layer.segment_steps[s];
    Sums<H, P> dot;
    for (int h = 0; h < H; ++h) {
      for (__m256i& sum : dot[h]) sum = load(at.starts + s * kBlock + h * kHalf);
    }
    add_steps<H, P>(values, a, job.a_stride, steps, dot);
    add_scaled<H, P>(job, at, first, s, dot, acc);
    values += steps * kBlockBytes;
    a += steps * kStep;
  }
  return finish<H, P>(job, at, first, last, acc, most);
}

// H times eight rows from `row` on by all rows of activations, as evenly as can be.
template <int H>
__m256i sweep(const DenseJob& job, int64_t row, __m256i most) {
  constexpr int kMost = 5;
  const __m256i last = first_lanes(job.layer->rows - row - (H - 1) * kHalf);
  const Lines at = lines_of(*job.layer, row);
  const int64_t parts = (job.m + kMost - 1) / kMost;
  int64_t done = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t count = (job.m - done + parts - part - 1) / (parts - part);
    switch (count) {
      case 1: most = tile<H, 1>(job, at, done, last, most); break;
      case 2: most = tile<H, 2>(job, at, done, last, most); break;
      case 3: most = tile<H, 3>(job, at, done, last, most); break;
      case 4: most = tile<H, 4>(job, at, done, last, most); break;
      default: most = tile<H, 5>(job, at, done, last, most); break;
    }
    done += count;
  }
  return most;
}

uint32_t dense(const DenseJob& job) {
  const int64_t rows = job.layer->rows;
  __m256i most = _mm256_setzero_si256();
  for (int64_t row = 0; row < rows; row += kBlock) {
    most = rows - row > kHalf ? sweep<2>(job, row, most) : sweep<1>(job, row, most);
  }
  return reduce(most);
}

}  // namespace

const SequentialKernels* sequential_avxvnni() {
  static const SequentialKernels kernels{"avxvnni", dense, largest, quantize, quantize_transposed,
                                         reduce};
  return &kernels;
}

}  // namespace flwr_edge
