// LutSequential's kernels for AVX2: u8 by s8 into 16 bits, widened before they can overflow.
#include "sequential_avx2.h"

namespace flwr_edge {
namespace {

// A product of two is at most 2 * 15 * 255 (zero points): four of them fit int16.
constexpr int kRun = 4;

// Eight rows by P rows of activations from `first` on.
template <int P>
__m256i tile(const DenseJob& job, const Lines& at, int64_t first, __m256i mask, __m256i most) {
  const Dense& layer = *job.layer;
  const uint8_t* a = job.a + first * job.a_stride;
  const int8_t* values = at.values;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 acc[P];
  for (int p = 0; p < P; ++p) acc[p] = _mm256_setzero_ps();
  for (int64_t s = 0; s < layer.segments; ++s) {
    __m256i dot[P];
    for (int p = 0; p < P; ++p) dot[p] = load(at.starts + s * kBlock);
    for (int left = layer.segment_steps[s]; left > 0; left -= kRun) {
      __m256i pairs[P];
      for (int p = 0; p < P; ++p) pairs[p] = _mm256_setzero_si256();
      for (int step = left < kRun ? left : kRun; step > 0; --step) {
        const __m256i w = load(values);
        for (int p = 0; p < P; ++p) {
          const __m256i x = broadcast_step(a + p * job.a_stride);
          pairs[p] = _mm256_add_epi16(pairs[p], _mm256_maddubs_epi16(x, w));
        }
        values += kBlockBytes;
        a += kStep;
      }
      for (int p = 0; p < P; ++p) {
        dot[p] = _mm256_add_epi32(dot[p], _mm256_madd_epi16(pairs[p], ones));
      }
    }
    const float* sa = job.scale + first * job.scale_stride + s / layer.halves * job.scale_step;
    for (int p = 0; p < P; ++p) {
      const __m256 scale_a = _mm256_set1_ps(sa[p * job.scale_stride]);
      __m256 u = _mm256_cvtepi32_ps(dot[p]);
      if (at.zeros) {
        const __m256 sum = _mm256_set1_ps(float(job.sums[(first + p) * layer.segments + s]));
        u = _mm256_fnmadd_ps(_mm256_loadu_ps(at.zeros + s * kBlock), sum, u);
      }
      acc[p] = at.scales ? _mm256_fmadd_ps(_mm256_mul_ps(u, scale_a),
                                           _mm256_loadu_ps(at.scales + s * kBlock), acc[p])
                         : _mm256_fmadd_ps(u, scale_a, acc[p]);
    }
  }
  const __m256 multiplier = _mm256_set1_ps(layer.multiplier), bias = _mm256_loadu_ps(at.bias);
  for (int p = 0; p < P; ++p) {
    __m256 v = acc[p];
    if (at.row_scales) v = _mm256_mul_ps(v, _mm256_loadu_ps(at.row_scales));
    v = _mm256_add_ps(_mm256_mul_ps(v, multiplier), bias);
    if (job.relu) v = _mm256_max_ps(_mm256_setzero_ps(), v);  // NaN stays: the second operand
    _mm256_maskstore_ps(job.y + (first + p) * job.y_stride + at.row, mask, v);
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    const __m256i bits = _mm256_and_si256(_mm256_castps_si256(v), magnitude);
    most = _mm256_max_epu32(most, _mm256_and_si256(bits, mask));
  }
  return most;
}

uint32_t dense(const DenseJob& job) {
  constexpr int kMost = 5;
  __m256i most = _mm256_setzero_si256();
  for (int64_t row = 0; row < job.layer->rows; row += kHalf) {
    const __m256i mask = first_lanes(job.layer->rows - row);
    const Lines at = lines_of(*job.layer, row);
    const int64_t parts = (job.m + kMost - 1) / kMost;
    int64_t done = 0;
    for (int64_t part = 0; part < parts; ++part) {  // as evenly as can be
      const int64_t count = (job.m - done + parts - part - 1) / (parts - part);
      switch (count) {
        case 1: most = tile<1>(job, at, done, mask, most); break;
        case 2: most = tile<2>(job, at, done, mask, most); break;
        case 3: most = tile<3>(job, at, done, mask, most); break;
        case 4: most = tile<4>(job, at, done, mask, most); break;
        default: most = tile<5>(job, at, done, mask, most); break;
      }
      done += count;
    }
  }
  return reduce(most);
}

}  // namespace

const SequentialKernels* sequential_avx2() {
  static const SequentialKernels kernels{"avx2", dense, largest, quantize, quantize_transposed,
                                         reduce};
  return &kernels;
}

}  // namespace flwr_edge
