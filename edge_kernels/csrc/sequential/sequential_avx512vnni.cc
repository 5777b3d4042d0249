// LutSequential's kernels for AVX-512 with VNNI: u8 activations by s8 weights.
#include "sequential_kernels.h"

#include <cstring>
// GCC 12 takes its own intrinsics' undefined vectors for ours.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

namespace flwr_edge {
namespace {

constexpr int64_t kBlockBytes = kBlock * kStep;

struct Lines {  // what the blocks at hand need of the layer
  const int8_t* values;
  const int32_t* starts;
  const float *scales, *zeros, *row_scales, *bias;
};

Lines lines_of(const Dense& layer, int64_t block) {
  const int64_t segment = block * layer.segments * kBlock;
  return {layer.values + block * layer.steps * kBlockBytes,
          layer.starts + segment,
          layer.scales ? layer.scales + segment : nullptr,
          layer.zeros ? layer.zeros + segment : nullptr,
          layer.row_scales ? layer.row_scales + block * kBlock : nullptr,
          layer.bias + block * kBlock};
}

__m512i broadcast_step(const uint8_t* a) {
  int32_t four;
  std::memcpy(&four, a, 4);
  return _mm512_set1_epi32(four);
}

// In place: GCC 12 makes of the intrinsic a product and two copies.
void add_products(__m512i* dot, __m512i x, __m512i w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(*dot) : "v"(x), "v"(w));
}

// R blocks of rows by P rows of activations from `first` on; with zero points; with scales.
template <int R, int P, bool kZeros, bool kScales>
__m512i tile(const DenseJob& job, const Lines& at, int64_t first, __mmask16 last, __m512i most) {
  const Dense& layer = *job.layer;
  const int64_t segments = layer.segments, value_stride = layer.steps * kBlockBytes;
  const uint8_t* a = job.a + first * job.a_stride;
  const int8_t* values = at.values;
  alignas(64) float acc[R * P * kBlock];  // not in registers: the products take them all
  for (int i = 0; i < R * P; ++i) _mm512_store_ps(acc + i * kBlock, _mm512_setzero_ps());
  for (int64_t s = 0; s < segments; ++s) {
    asm volatile("" : : "r"(acc) : "memory");  // GCC 12 would have both there, and spill
    __m512i dot[R][P];
    for (int r = 0; r < R; ++r) {
      const __m512i start = _mm512_loadu_si512(at.starts + (r * segments + s) * kBlock);
      for (int p = 0; p < P; ++p) dot[r][p] = start;
    }
    for (int step = layer.segment_steps[s]; step > 0; --step) {
      __m512i w[R];
      for (int r = 0; r < R; ++r) {
        w[r] = _mm512_loadu_si512(values + r * value_stride);
        asm("" : "+v"(w[r]));  // or it is loaded again for each of P
      }
      for (int p = 0; p < P; ++p) {
        const __m512i x = broadcast_step(a + p * job.a_stride);
        for (int r = 0; r < R; ++r) add_products(&dot[r][p], x, w[r]);
      }
      values += kBlockBytes;
      a += kStep;
    }
    const float* sa = job.scale + first * job.scale_stride + s / layer.halves * job.scale_step;
    for (int p = 0; p < P; ++p) {
      const __m512 scale_a = _mm512_set1_ps(sa[p * job.scale_stride]);
      for (int r = 0; r < R; ++r) {
        __m512 u = _mm512_cvtepi32_ps(dot[r][p]);
        const int64_t row = (r * segments + s) * kBlock;
        if (kZeros) {
          const __m512 total = _mm512_set1_ps(float(job.sums[(first + p) * segments + s]));
          u = _mm512_fnmadd_ps(_mm512_loadu_ps(at.zeros + row), total, u);
        }
        float* to = acc + (r * P + p) * kBlock;
        const __m512 sum = _mm512_load_ps(to);
        _mm512_store_ps(to, kScales ? _mm512_fmadd_ps(_mm512_mul_ps(u, scale_a),
                                                      _mm512_loadu_ps(at.scales + row), sum)
                                    : _mm512_fmadd_ps(u, scale_a, sum));
      }
    }
  }
  const __m512 multiplier = _mm512_set1_ps(layer.multiplier);
  for (int p = 0; p < P; ++p) {
    float* y = job.y + (first + p) * job.y_stride + (at.bias - layer.bias);
    for (int r = 0; r < R; ++r) {
      __m512 v = _mm512_load_ps(acc + (r * P + p) * kBlock);
      if (at.row_scales) v = _mm512_mul_ps(v, _mm512_loadu_ps(at.row_scales + r * kBlock));
      v = _mm512_add_ps(_mm512_mul_ps(v, multiplier), _mm512_loadu_ps(at.bias + r * kBlock));
      if (job.relu) v = _mm512_max_ps(_mm512_setzero_ps(), v);  // NaN stays: the second operand
      const __mmask16 mask = r == R - 1 ? last : __mmask16(0xffff);
      _mm512_mask_storeu_ps(y + r * kBlock, mask, v);
      const __m512i bits = _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
      most = _mm512_mask_max_epu32(most, mask, most, bits);
    }
  }
  return most;
}

using Tile = __m512i (*)(const DenseJob&, const Lines&, int64_t, __mmask16, __m512i);

// All activations by R blocks, P at a time, as evenly as can be.
template <int R, int P, bool kZeros, bool kScales>
__m512i sweep(const DenseJob& job, const Lines& at, __mmask16 last, __m512i most) {
  static constexpr Tile tiles[10] = {
      tile<R, 1, kZeros, kScales>,
      tile<R, P < 2 ? P : 2, kZeros, kScales>,
      tile<R, P < 3 ? P : 3, kZeros, kScales>,
      tile<R, P < 4 ? P : 4, kZeros, kScales>,
      tile<R, P < 5 ? P : 5, kZeros, kScales>,
      tile<R, P < 6 ? P : 6, kZeros, kScales>,
      tile<R, P < 7 ? P : 7, kZeros, kScales>,
      tile<R, P < 8 ? P : 8, kZeros, kScales>,
      tile<R, P < 9 ? P : 9, kZeros, kScales>,
      tile<R, P < 10 ? P : 10, kZeros, kScales>,
  };
  const int64_t parts = (job.m + P - 1) / P;
  int64_t done = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t count = (job.m - done + parts - part - 1) / (parts - part);
    most = tiles[count - 1](job, at, done, last, most);
    done += count;
  }
  return most;
}

template <int R, int P>
__m512i sweep(const DenseJob& job, const Lines& at, __mmask16 last, __m512i most) {
  if (at.zeros) {
    constexpr int kFewer = P / 2 + 1;  // their sums take registers too
    return at.scales ? sweep<R, kFewer, true, true>(job, at, last, most)
                     : sweep<R, kFewer, true, false>(job, at, last, most);
  }
  return at.scales ? sweep<R, P, false, true>(job, at, last, most)
                   : sweep<R, P, false, false>(job, at, last, most);
}

uint32_t dense(const DenseJob& job) {
  const Dense& layer = *job.layer;
  __m512i most = _mm512_setzero_si512();
  for (int64_t block = 0; block < layer.blocks; block += 4) {
    const int64_t count = layer.blocks - block < 4 ? layer.blocks - block : 4;
    const int64_t tail = layer.rows - (block + count - 1) * kBlock;
    const __mmask16 last = tail >= kBlock ? 0xffff : __mmask16((1 << tail) - 1);
    const Lines at = lines_of(layer, block);
    switch (count) {
      case 1: most = sweep<1, 10>(job, at, last, most); break;
      case 2: most = sweep<2, 10>(job, at, last, most); break;
      case 3: most = sweep<3, 6>(job, at, last, most); break;
      default: most = sweep<4, 5>(job, at, last, most); break;
    }
  }
  return _mm512_reduce_max_epu32(most);
}

__mmask16 tail_mask(int64_t left) { return left >= 16 ? 0xffff : __mmask16((1 << left) - 1); }

uint32_t largest(const float* x, int64_t n) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  for (int64_t i = 0; i < n; i += 16) {
    const __m512i bits = _mm512_maskz_loadu_epi32(tail_mask(n - i), x + i);
    __m512i* to = &most[i / 16 % 2];
    *to = _mm512_max_epu32(*to, _mm512_and_si512(bits, magnitude));
  }
  return _mm512_reduce_max_epu32(_mm512_max_epu32(most[0], most[1]));
}

__m128i quantized(const float* x, __mmask16 mask, __m512 inverse) {
  const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x), inverse));
  return _mm_xor_si128(_mm512_cvtepi32_epi8(q), _mm_set1_epi8(-128));
}

void quantize(const float* x, int64_t n, float inverse, uint8_t* q) {
  const __m512 by = _mm512_set1_ps(inverse);
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    _mm_mask_storeu_epi8(q + i, mask, quantized(x + i, mask, by));
  }
}

// Four channels by sixteen positions: bytes to dwords of one position's channels.
void transpose_four(const float* x, int64_t d0, int64_t d1, int64_t left, __m512 by, uint8_t* q) {
  const __mmask16 mask = tail_mask(left);
  __m128i c[4];
  for (int i = 0; i < 4; ++i) c[i] = quantized(x + i * d1, mask, by);
  const __m128i low[2] = {_mm_unpacklo_epi8(c[0], c[1]), _mm_unpackhi_epi8(c[0], c[1])};
  const __m128i high[2] = {_mm_unpacklo_epi8(c[2], c[3]), _mm_unpackhi_epi8(c[2], c[3])};
  alignas(64) uint8_t fours[64];
  for (int i = 0; i < 2; ++i) {
    _mm_store_si128((__m128i*)(fours + 32 * i), _mm_unpacklo_epi16(low[i], high[i]));
    _mm_store_si128((__m128i*)(fours + 32 * i + 16), _mm_unpackhi_epi16(low[i], high[i]));
  }
  for (int64_t j = 0; j < (left < 16 ? left : 16); ++j) std::memcpy(q + j * d0, fours + 4 * j, 4);
}

void quantize_transposed(const float* x, int64_t d0, int64_t d1, float inverse, uint8_t* q) {
  const __m512 by = _mm512_set1_ps(inverse);
  for (int64_t j = 0; j < d1; j += 16) {
    int64_t i = 0;
    for (; i + 4 <= d0; i += 4) {
      transpose_four(x + i * d1 + j, d0, d1, d1 - j, by, q + j * d0 + i);
    }
    for (; i < d0; ++i) {
      alignas(16) uint8_t column[16];
      _mm_store_si128((__m128i*)column, quantized(x + i * d1 + j, tail_mask(d1 - j), by));
      for (int64_t k = 0; k < 16 && j + k < d1; ++k) q[(j + k) * d0 + i] = column[k];
    }
  }
}

void reduce(bool largest, const float* x, int64_t lines, int64_t step, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    __m512 result = _mm512_maskz_loadu_ps(mask, x + i);
    for (int64_t k = 1; k < lines; ++k) {
      const __m512 line = _mm512_maskz_loadu_ps(mask, x + k * step + i);
      if (largest) {
        const __mmask16 more = _mm512_cmp_ps_mask(line, result, _CMP_GT_OQ);
        const __mmask16 odd = _mm512_cmp_ps_mask(line, line, _CMP_UNORD_Q);
        result = _mm512_mask_mov_ps(result, more | odd, line);
      } else {
        result = _mm512_add_ps(result, line);
      }
    }
    _mm512_mask_storeu_ps(y + i, mask, result);
  }
}

}  // namespace

const SequentialKernels* sequential_avx512vnni() {
  static const SequentialKernels kernels{"avx512vnni", dense, largest, quantize,
                                         quantize_transposed, reduce};
  return &kernels;
}

}  // namespace flwr_edge
