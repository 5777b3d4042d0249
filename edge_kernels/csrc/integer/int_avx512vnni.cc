// IntSequential's kernels for AVX-512 with VNNI.
#include <cstring>
// GCC 12 takes its own intrinsics' undefined vectors for ours.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "int_cells.h"

namespace flwr_edge::integer {
namespace {

constexpr int64_t kBlockBytes = kBlock * kStep;

__m512i load(const void* from) { return _mm512_loadu_si512(from); }

__m512i broadcast_step(const uint8_t* a) {
  int32_t four;
  std::memcpy(&four, a, 4);
  return _mm512_set1_epi32(four);
}

// In place: GCC 12 makes of the intrinsic a product and two copies.
void add_products(__m512i* dot, __m512i x, __m512i w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(*dot) : "v"(x), "v"(w));
}

// What a block's sums become bytes with.
struct BlockScale {
  __m512i m, m_odd, half_even, half_odd, shift, zero, low, left;
};

BlockScale scale_of(const Job& job, int64_t block) {
  const Layer& layer = *job.layer;
  const __m512i m = load(layer.m + block * kBlock);
  return {m,
          _mm512_srli_epi64(m, 32),
          load(layer.half + block * kBlock),
          load(layer.half + block * kBlock + 8),
          _mm512_sub_epi32(load(layer.shift + block * kBlock), _mm512_set1_epi32(32)),
          _mm512_set1_epi32(job.zero),
          _mm512_set1_epi32(job.low),
          layer.left ? load(layer.left + block * kBlock) : _mm512_setzero_si512()};
}

// Shifts are 32 or more: of a product only the upper half is looked at.
__m512i requantized(__m512i acc, const BlockScale& by) {
  acc = _mm512_sllv_epi32(acc, by.left);
  const __m512i even = _mm512_add_epi64(_mm512_mul_epi32(acc, by.m), by.half_even);
  const __m512i odd = _mm512_add_epi64(
      _mm512_mul_epi32(_mm512_srli_epi64(acc, 32), by.m_odd), by.half_odd);
  const __m512i high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
  const __m512i q = _mm512_add_epi32(_mm512_srav_epi32(high, by.shift), by.zero);
  return _mm512_max_epi32(q, by.low);
}

constexpr int64_t kAhead = 1024;  // bytes of weights that are fetched before they are needed

// R blocks of rows from `block` on by P rows of activations from `first` on.
template <int R, int P>
void tile(const Job& job, int64_t block, int64_t first, __mmask16 last) {
  const Layer& layer = *job.layer;
  const int64_t value_stride = layer.steps * kBlockBytes;
  const uint8_t* a = job.a + first * job.a_stride;
  const int8_t* values = layer.values + block * value_stride;
  __m512i dot[R][P];  // in registers: GCC 12 sees to it if every loop over them is unrolled early
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    const __m512i start = load(layer.start + (block + r) * kBlock);
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p) dot[r][p] = start;
  }
  for (int64_t step = layer.steps; step > 0; --step) {
    __m512i w[R];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      w[r] = load(values + r * value_stride);
      _mm_prefetch(values + r * value_stride + kAhead, _MM_HINT_T0);
      asm("" : "+v"(w[r]));  // or it is loaded again for each of P
    }
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p) {
      const __m512i x = broadcast_step(a + p * job.a_stride);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) add_products(&dot[r][p], x, w[r]);
    }
    values += kBlockBytes;
    a += kStep;
  }
  // By way of memory: as an operand of the loops below they would be there throughout.
  alignas(64) int32_t sums[R * P * kBlock];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p) _mm512_store_si512(sums + (r * P + p) * kBlock, dot[r][p]);
  }
  asm volatile("" : : "r"(sums) : "memory");
  for (int r = 0; r < R; ++r) {
    const __mmask16 mask = r == R - 1 ? last : __mmask16(0xffff);
    const int32_t* from = sums + r * P * kBlock;
    int64_t at = first * layer.rows + (block + r) * kBlock;
    const bool scaled = job.q || job.q16;
    const BlockScale by = scaled ? scale_of(job, block + r) : BlockScale{};
    for (int p = 0; p < P; ++p, at += layer.rows, from += kBlock) {
      const __m512i acc = _mm512_load_si512(from);
      if (!scaled) {
        _mm512_mask_storeu_epi32(job.acc + at, mask, acc);
        continue;
      }
      const __m512i q = requantized(acc, by);
      if (job.q) _mm_mask_storeu_epi8(job.q + at, mask, _mm512_cvtusepi32_epi8(q));
      else _mm256_mask_storeu_epi16(job.q16 + at, mask, _mm512_cvtusepi32_epi16(q));
    }
  }
}

using Tile = void (*)(const Job&, int64_t, int64_t, __mmask16);

// All activations by R blocks, P at a time, as evenly as can be.
template <int R, int P>
void sweep(const Job& job, int64_t block, __mmask16 last) {
  static constexpr Tile tiles[12] = {
      tile<R, 1>,
      tile<R, P < 2 ? P : 2>,
      tile<R, P < 3 ? P : 3>,
      tile<R, P < 4 ? P : 4>,
      tile<R, P < 5 ? P : 5>,
      tile<R, P < 6 ? P : 6>,
      tile<R, P < 7 ? P : 7>,
      tile<R, P < 8 ? P : 8>,
      tile<R, P < 9 ? P : 9>,
      tile<R, P < 10 ? P : 10>,
      tile<R, P < 11 ? P : 11>,
      tile<R, P < 12 ? P : 12>,
  };
  const int64_t parts = (job.count + P - 1) / P;
  int64_t done = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t count = (job.count - done + parts - part - 1) / (parts - part);
    tiles[count - 1](job, block, done, last);
    done += count;
  }
}

void product(const Job& job) {
  const Layer& layer = *job.layer;
  const int64_t most = job.count > 6 && job.count <= 12 ? 2 : 4;  // weights are read once
  for (int64_t block = 0; block < layer.blocks; block += most) {
    const int64_t count = layer.blocks - block < most ? layer.blocks - block : most;
    const int64_t tail = layer.rows - (block + count - 1) * kBlock;
    const __mmask16 last = tail >= kBlock ? 0xffff : __mmask16((1 << tail) - 1);
    switch (count) {
      case 1: sweep<1, 12>(job, block, last); break;
      case 2: sweep<2, 12>(job, block, last); break;
      case 3: sweep<3, 8>(job, block, last); break;
      default: sweep<4, 6>(job, block, last); break;
    }
  }
}

__mmask16 tail_mask(int64_t left) { return left >= 16 ? 0xffff : __mmask16((1 << left) - 1); }

// Four lines of x by sixteen columns.
void transpose_four(const uint8_t* x, int64_t d0, int64_t d1, int64_t left, uint8_t* y) {
  const __mmask16 mask = tail_mask(left);
  __m128i c[4];
  for (int i = 0; i < 4; ++i) c[i] = _mm_maskz_loadu_epi8(mask, x + i * d1);
  const __m128i low[2] = {_mm_unpacklo_epi8(c[0], c[1]), _mm_unpackhi_epi8(c[0], c[1])};
  const __m128i high[2] = {_mm_unpacklo_epi8(c[2], c[3]), _mm_unpackhi_epi8(c[2], c[3])};
  alignas(64) uint8_t fours[64];
  for (int i = 0; i < 2; ++i) {
    _mm_store_si128((__m128i*)(fours + 32 * i), _mm_unpacklo_epi16(low[i], high[i]));
    _mm_store_si128((__m128i*)(fours + 32 * i + 16), _mm_unpackhi_epi16(low[i], high[i]));
  }
  for (int64_t j = 0; j < (left < 16 ? left : 16); ++j) std::memcpy(y + j * d0, fours + 4 * j, 4);
}

void transpose(const uint8_t* x, int64_t d0, int64_t d1, uint8_t* y) {
  int64_t i = 0;
  for (; i + 4 <= d0; i += 4) {
    for (int64_t j = 0; j < d1; j += 16) {
      transpose_four(x + i * d1 + j, d0, d1, d1 - j, y + j * d0 + i);
    }
  }
  for (; i < d0; ++i) {
    for (int64_t j = 0; j < d1; ++j) y[j * d0 + i] = x[i * d1 + j];
  }
}

// By the low four bits among 16 entries, then by the high four among the 16 results.
void table(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* y) {
  __m512i parts[16];
  for (int i = 0; i < 16; ++i) {
    parts[i] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)(table + 16 * i)));
  }
  for (int64_t i = 0; i < n; i += 64) {
    const __mmask64 in = n - i >= 64 ? ~__mmask64(0) : (__mmask64(1) << (n - i)) - 1;
    const __m512i q = _mm512_maskz_loadu_epi8(in, x + i);
    const __m512i low = _mm512_and_si512(q, _mm512_set1_epi8(15));
    const __mmask64 bit4 = _mm512_test_epi8_mask(q, _mm512_set1_epi8(16));
    const __mmask64 bit5 = _mm512_test_epi8_mask(q, _mm512_set1_epi8(32));
    const __mmask64 bit6 = _mm512_test_epi8_mask(q, _mm512_set1_epi8(64));
    const __mmask64 bit7 = _mm512_movepi8_mask(q);
    __m512i out[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      out[k] = _mm512_shuffle_epi8(parts[2 * k], low);
      out[k] = _mm512_mask_shuffle_epi8(out[k], bit4, parts[2 * k + 1], low);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) out[k] = _mm512_mask_mov_epi8(out[2 * k], bit5, out[2 * k + 1]);
    out[0] = _mm512_mask_mov_epi8(out[0], bit6, out[1]);
    out[2] = _mm512_mask_mov_epi8(out[2], bit6, out[3]);
    _mm512_mask_storeu_epi8(y + i, in, _mm512_mask_mov_epi8(out[0], bit7, out[2]));
  }
}

// Sixteen entries of 256 by their numbers: from eight pairs of registers, by the bits of a number.
inline __m512i look_up(const uint32_t* table, __m512i number) {
  const __mmask16 bit5 = _mm512_test_epi32_mask(number, _mm512_set1_epi32(32));
  const __mmask16 bit6 = _mm512_test_epi32_mask(number, _mm512_set1_epi32(64));
  const __mmask16 bit7 = _mm512_test_epi32_mask(number, _mm512_set1_epi32(128));
  __m512i quarters[4], pair[2];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const uint32_t* from = table + q * 64 + half * 32;
      pair[half] = _mm512_permutex2var_epi32(_mm512_loadu_si512(from), number,
                                             _mm512_loadu_si512(from + 16));
    }
    quarters[q] = _mm512_mask_blend_epi32(bit5, pair[0], pair[1]);
  }
  return _mm512_mask_blend_epi32(bit7, _mm512_mask_blend_epi32(bit6, quarters[0], quarters[1]),
                                 _mm512_mask_blend_epi32(bit6, quarters[2], quarters[3]));
}

void sigmoids(int32_t* g, int64_t n, const uint32_t* table) {
  const __m512i most = _mm512_set1_epi32(65535), one = _mm512_set1_epi32(kOne);
  for (int64_t i = 0; i < n; i += 16) {
    const auto here = n - i < 16 ? __mmask16((1u << (n - i)) - 1) : __mmask16(0xffff);
    const __m512i x = _mm512_maskz_loadu_epi32(here, g + i);
    const __m512i u = _mm512_min_epi32(_mm512_abs_epi32(x), most);
    const __m512i both = look_up(table, _mm512_srli_epi32(u, 8));
    const __m512i part = _mm512_mullo_epi32(_mm512_srli_epi32(both, 16),
                                            _mm512_and_si512(u, _mm512_set1_epi32(255)));
    const __m512i more = _mm512_srli_epi32(_mm512_add_epi32(part, _mm512_set1_epi32(128)), 8);
    const __m512i v = _mm512_add_epi32(_mm512_and_si512(both, _mm512_set1_epi32(0xffff)), more);
    const __mmask16 below = _mm512_movepi32_mask(x);
    _mm512_mask_storeu_epi32(g + i, here, _mm512_mask_sub_epi32(v, below, one, v));
  }
}

}  // namespace

const Kernels* avx512vnni() {
  static const Kernels kernels{false,        product,   transpose, table,            add_rows,
                               rescale_rows, norm_rows, exponential_rows, weighted_rows,
                               multiply_rows, lstm_cell<sigmoids>, gru_cell<sigmoids>};
  return &kernels;
}

}  // namespace flwr_edge::integer
