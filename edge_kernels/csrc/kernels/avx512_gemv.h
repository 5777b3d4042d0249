// One row of activations: lookup at 1, 2, 3 bits, dot product at 4. Part of avx512_kernels.h.
#pragma once

namespace flwr_edge {
namespace {

// The 64 rows' sums of a tile (or of one of its halves), in natural order.
struct Rows {
  __m512i v[kRowVectors];
};

struct Floats {
  __m512 v[kRowVectors];
};

}  // namespace
}  // namespace flwr_edge

#ifdef __AVX512VBMI__
#include "avx512_wide.h"
#endif

namespace flwr_edge {
namespace {

// Words of even and odd bytes, low parts and high parts -> int32 rows low + 64 high.
FLWR_INLINE Rows join(__m512i low_even, __m512i low_odd, __m512i high_even, __m512i high_odd,
                      __m512i start) {
  const __m512i weights = _mm512_set1_epi32(64 << 16 | 1);
  const __m512i pairs[kRowVectors] = {
      _mm512_unpacklo_epi16(low_even, high_even), _mm512_unpackhi_epi16(low_even, high_even),
      _mm512_unpacklo_epi16(low_odd, high_odd), _mm512_unpackhi_epi16(low_odd, high_odd)};
  Rows rows;
  FLWR_UNROLL
  for (int r = 0; r < kRowVectors; ++r) {
    rows.v[r] = _mm512_add_epi32(_mm512_madd_epi16(pairs[r], weights), start);
  }
  return rows;
}

// Looks up `kLines` lines of each plane, exactly.
template <int kBits, int kLines>
FLWR_INLINE Rows look_up(const uint8_t* lines, const uint8_t* ahead, const uint8_t* table,
                         int factor, __m512i start) {
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512i even = _mm512_setzero_si512(), odd = even, high_even = even, high_odd = even;
  FLWR_UNROLL
  for (int p = 0; p < kBits; ++p) {
    const __m512i take_even = _mm512_set1_epi16(int16_t(factor << p));
    const __m512i take_odd = _mm512_slli_epi16(take_even, 8);
    __m512i highs = _mm512_setzero_si512();
    FLWR_UNROLL
    for (int j = 0; j < kLines; j += 2) {
      __m512i lows = _mm512_setzero_si512();  // four of at most 63
      FLWR_UNROLL
      for (int i = j; i < j + 2; ++i) {
        prefetch(ahead + (8 * p + i) * kLine);
        const __m512i line = pin(load(lines + (8 * p + i) * kLine));
        const __m512i a = _mm512_and_si512(line, nibble);
        const __m512i b = _mm512_and_si512(_mm512_srli_epi16(line, 4), nibble);
        const __m512i la = _mm512_shuffle_epi8(load(table + 4 * i * kLine), a);
        const __m512i lb = _mm512_shuffle_epi8(load(table + (4 * i + 2) * kLine), b);
        const __m512i ha = _mm512_shuffle_epi8(load(table + (4 * i + 1) * kLine), a);
        const __m512i hb = _mm512_shuffle_epi8(load(table + (4 * i + 3) * kLine), b);
        lows = pin(_mm512_add_epi8(pin(_mm512_add_epi8(lows, la)), lb));
        highs = pin(_mm512_add_epi8(pin(_mm512_add_epi8(highs, ha)), hb));
      }
      even = pin(_mm512_add_epi16(even, _mm512_maddubs_epi16(lows, take_even)));
      odd = pin(_mm512_add_epi16(odd, _mm512_maddubs_epi16(lows, take_odd)));
    }
    high_even = _mm512_add_epi16(high_even, _mm512_maddubs_epi16(take_even, highs));
    high_odd = _mm512_add_epi16(high_odd, _mm512_maddubs_epi16(take_odd, highs));
  }
  return join(even, odd, high_even, high_odd, start);
}

// The same with 7-bit tables: two entries fit a byte.
template <int kBits, int kLines>
FLWR_INLINE Rows look_up_fast(const uint8_t* lines, const uint8_t* ahead, const uint8_t* table) {
  const __m512i nibble = _mm512_set1_epi8(15), zero = _mm512_setzero_si512();
  __m512i even = zero, odd = zero;
  FLWR_UNROLL
  for (int p = 0; p < kBits; ++p) {
    const __m512i take_even = _mm512_set1_epi16(int16_t(1 << p));
    const __m512i take_odd = _mm512_slli_epi16(take_even, 8);
    FLWR_UNROLL
    for (int i = 0; i < kLines; ++i) {
      prefetch(ahead + (8 * p + i) * kLine);
      const __m512i line = pin(load(lines + (8 * p + i) * kLine));
      const __m512i a = _mm512_and_si512(line, nibble);
      const __m512i b = _mm512_and_si512(_mm512_srli_epi16(line, 4), nibble);
      const __m512i sum =
          _mm512_add_epi8(_mm512_shuffle_epi8(load(table + 2 * i * kLine), a),
                          _mm512_shuffle_epi8(load(table + (2 * i + 1) * kLine), b));
      even = pin(_mm512_add_epi16(even, _mm512_maddubs_epi16(take_even, sum)));
      odd = pin(_mm512_add_epi16(odd, _mm512_maddubs_epi16(take_odd, sum)));
    }
  }
  return join(even, odd, zero, zero, zero);
}

// 4 bits: kOctets times eight inputs, each four lines of 16 rows.
template <int kOctets>
FLWR_INLINE Rows dot(const uint8_t* lines, const uint8_t* ahead, const int8_t* q, __m512i start) {
  const __m512i nibble = _mm512_set1_epi8(15);
  Rows low, high;
  FLWR_UNROLL
  for (int r = 0; r < kRowVectors; ++r) {
    low.v[r] = kVnni ? start : _mm512_setzero_si512();
    high.v[r] = _mm512_setzero_si512();
  }
  // A loop: unrolled, GCC puts all prefetches before the first product.
  _Pragma("GCC unroll 1")
  for (int j = 0; j < kOctets; ++j) {
    const __m512i first = broadcast(q + 8 * j), last = broadcast(q + 8 * j + 4);
    FLWR_UNROLL
    for (int r = 0; r < kRowVectors; ++r) {
      prefetch(ahead + (4 * j + r) * kLine);
      const __m512i line = pin(load(lines + (4 * j + r) * kLine));
      const __m512i a = _mm512_and_si512(line, nibble);
#ifdef __AVX512VNNI__
      const __m512i b = _mm512_andnot_si512(nibble, line);  // 16 times the code
      low.v[r] = _mm512_dpbusd_epi32(low.v[r], a, first);
      high.v[r] = _mm512_dpbusd_epi32(high.v[r], b, last);
#else
      const __m512i b = _mm512_and_si512(_mm512_srli_epi16(line, 4), nibble);
      low.v[r] = _mm512_add_epi16(low.v[r], _mm512_maddubs_epi16(a, first));
      high.v[r] = _mm512_add_epi16(high.v[r], _mm512_maddubs_epi16(b, last));
#endif
    }
  }
  Rows rows;
  FLWR_UNROLL
  for (int r = 0; r < kRowVectors; ++r) {
#ifdef __AVX512VNNI__
    rows.v[r] = _mm512_add_epi32(low.v[r], _mm512_srai_epi32(high.v[r], 4));
#else
    const __m512i ones = _mm512_set1_epi16(1);
    rows.v[r] = _mm512_add_epi32(_mm512_madd_epi16(low.v[r], ones),
                                 _mm512_madd_epi16(high.v[r], ones));
    rows.v[r] = _mm512_add_epi32(rows.v[r], start);
#endif
  }
  return rows;
}

// Sums of a tile or a half, and their scales: of the activations, and of the rows (64 fp16).
struct Held {
  Floats u;
  float sa;
  const uint8_t* scales;
};

// acc of isa.h, one scale further.
template <bool kRowScales>
FLWR_INLINE void add_scaled(Floats& acc, const Held& held) {
  const __m512 factor = _mm512_set1_ps(held.sa);
  FLWR_UNROLL
  for (int r = 0; r < kRowVectors; ++r) {
    if (kRowScales) {
      acc.v[r] = _mm512_fmadd_ps(held.u.v[r], factor, acc.v[r]);
    } else {
      acc.v[r] = _mm512_fmadd_ps(_mm512_mul_ps(held.u.v[r], factor),
                                 load_halves(held.scales + 32 * r), acc.v[r]);
    }
  }
}

// zeros: 64 fp16; for group 0 float.
template <bool kRowScales>
FLWR_INLINE void subtract_zeros(Floats& u, int32_t s, const uint8_t* zeros) {
  const __m512 sum = _mm512_set1_ps(float(s));
  FLWR_UNROLL
  for (int r = 0; r < kRowVectors; ++r) {
    const __m512 z =
        kRowScales ? _mm512_loadu_ps(zeros + 64 * r) : load_halves(zeros + 32 * r);
    u.v[r] = _mm512_fnmadd_ps(z, sum, u.v[r]);
  }
}

FLWR_INLINE Floats to_floats(const Rows& rows) {
  Floats u;
  FLWR_UNROLL
  for (int r = 0; r < kRowVectors; ++r) u.v[r] = _mm512_cvtepi32_ps(rows.v[r]);
  return u;
}

enum class Mode { kDot, kNibbles, kFast, kWide };

// Bytes of a tile's tables, once widened to vectors.
constexpr int table_bytes(Mode mode) {
  return mode == Mode::kWide ? 24 * kLine : mode == Mode::kNibbles ? 32 * kLine : 16 * kLine;
}

// Input tiles whose tables stay in the first cache while all rows pass.
constexpr int64_t kBlock = 8;

// Each group's 16 entries four times, low parts before high ones: on some CPUs a broadcast from
// memory costs as much as a lookup, and here it is done once for all rows.
FLWR_INLINE void widen_tables(uint8_t* to, const uint8_t* low, const int8_t* high, int64_t tiles) {
  for (int64_t i = 0; i < tiles * 16; ++i) {
    _mm512_store_si512(to + 2 * i * kLine, load_lanes(low + 16 * i));
    _mm512_store_si512(to + (2 * i + 1) * kLine, load_lanes(high + 16 * i));
  }
}

FLWR_INLINE void widen_fast_tables(uint8_t* to, const int8_t* fast, int64_t tiles) {
  for (int64_t i = 0; i < tiles * 16; ++i) {
    _mm512_store_si512(to + i * kLine, load_lanes(fast + 16 * i));
  }
}

template <Mode kMode>
FLWR_INLINE void fill_tables(uint8_t* to, const Activation& x, int64_t from, int64_t tiles) {
  if constexpr (kMode == Mode::kFast) {
    widen_fast_tables(to, x.fast + from * 256, tiles);
  } else if constexpr (kMode == Mode::kNibbles) {
    widen_tables(to, x.low + from * 256, x.high + from * 256, tiles);
  }
}

// What the tiles of one block share.
struct Block {
  int64_t from, to;     // input tiles
  const uint8_t* table; // from tile `from` on
  size_t row_bytes;     // of a row of tiles
  int zero;             // of symmetric and ternary codes
  size_t ahead;         // bytes to what a dot product prefetches
};

// u of isa.h, as far as the code's own zero goes, of half h (or the whole) of a tile.
template <int kBits, int kGroup, bool kZeros, Mode kMode>
FLWR_INLINE Floats corrected(const Activation& x, const Block& block, const uint8_t* tile,
                             const uint8_t* ahead, int64_t t, int h, int32_t s) {
  constexpr int kLines = kGroup == 32 ? 4 : 8;
  constexpr int kFactor = kBits == 1 && !kZeros ? 2 : 1;
  constexpr int kHalf = (kMode == Mode::kDot ? 16 : 4) * kLine;
  const uint8_t* lines = tile + h * kHalf;
  ahead += h * kHalf;
  const int32_t lost = block.zero * s;
  constexpr int kTable = table_bytes(kMode);
  const uint8_t* table = block.table + (t - block.from) * kTable + h * (kTable / 2);
  if constexpr (kMode == Mode::kDot) {
    return to_floats(dot<kLines>(lines, ahead, x.q + t * kTile + 32 * h, _mm512_set1_epi32(-lost)));
  } else if constexpr (kMode == Mode::kFast) {
    Floats u = to_floats(look_up_fast<kBits, kLines>(lines, ahead, table));
    // Halves of S that the sums lack, see isa.h.
    const int halves = kZeros ? (1 << kBits) - 1 : kBits == 2 && block.zero == 1 ? 1 : -1;
    const __m512 step = _mm512_set1_ps(x.step[t]);
    const __m512 lack = _mm512_set1_ps(0.5f * float(halves * s));
    FLWR_UNROLL
    for (__m512& v : u.v) {
      v = _mm512_mul_ps(v, step);
      v = _mm512_add_ps(v, kFactor == 2 ? v : lack);
    }
    return u;
#ifdef __AVX512VBMI__
  } else if constexpr (kMode == Mode::kWide) {
    return to_floats(look_up_wide<kBits, kLines / 4>(lines, ahead, table, kFactor, -lost));
#endif
  } else {
    return to_floats(look_up<kBits, kLines>(lines, ahead, table, kFactor,
                                            _mm512_set1_epi32(-lost)));
  }
}

// One row of tiles over a block; acc stands in job.acc between blocks.
template <int kBits, int kGroup, bool kZeros, Mode kMode>
FLWR_INLINE void gemv_row(const Gemv& job, const Block& block, int64_t r) {
  const Weights& w = *job.weights;
  const Activation& x = *job.x;
  const Strides strides(w);
  constexpr int kHalves = kGroup == 32 ? 2 : 1;
  constexpr int kScales = kHalves * kTile * 2;
  // Lookups prefetch an even number of tiles ahead (of which one in two may lack scales): about 2 KB,
  // past the block's end in the next row of tiles.
  constexpr int64_t kTilesAhead = kBits == 1 ? 4 : 2;
  const size_t ahead = kMode == Mode::kDot ? block.ahead : strides.offset(kTilesAhead);
  const size_t jump = block.row_bytes - (strides.offset(block.to) - strides.offset(block.from));
  const uint8_t* tile = w.tiles + size_t(r) * block.row_bytes + strides.offset(block.from);
  const uint8_t* zeros = reinterpret_cast<const uint8_t*>(w.row_zeros) + r * kTile * 4;
  const uint8_t* scales = nullptr;
  float* to = job.acc + (r - job.begin) * kTile;
  Floats acc;
  FLWR_UNROLL
  for (int i = 0; i < kRowVectors; ++i) {
    acc.v[i] = block.from == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(to + 16 * i);
  }
  // Where it pays, sums are scaled after the next lookups have begun, which need not wait then.
  constexpr bool kLate = kMode == Mode::kWide && kBits < 3;
  Held held;
  for (int64_t t = block.from; t < block.to; ++t) {
    const uint8_t* next = tile + ahead + (t + kTilesAhead < block.to ? 0 : jump);
    const bool carries = kGroup == 32 || (kGroup == 64 && strides.carries(t));
    if (carries) {
      scales = tile + strides.code;
      if (kZeros) zeros = scales + kScales;
      FLWR_UNROLL
      for (int at = 0; at < kScales * (kZeros ? 2 : 1); at += kLine) {
        prefetch(next + strides.code + at);
      }
    }
    const int32_t* sums = x.sums + 2 * t;
    FLWR_UNROLL
    for (int h = 0; h < kHalves; ++h) {
      const int32_t s = kHalves == 2 ? sums[h] : sums[0] + sums[1];
      Floats u = corrected<kBits, kGroup, kZeros, kMode>(x, block, tile, next, t, h, s);
      if (kZeros) subtract_zeros<kGroup == 0>(u, s, zeros + 128 * h);
      const Held now{u, x.scale[t], scales + 128 * h};
      if (!kLate) {
        add_scaled<kGroup == 0>(acc, now);
      } else if (h > 0 || t > block.from) {
        add_scaled<kGroup == 0>(acc, held);
      }
      held = now;
    }
    tile += strides.code + (carries ? strides.scale : 0);
  }
  if (kLate) add_scaled<kGroup == 0>(acc, held);
  FLWR_UNROLL
  for (int i = 0; i < kRowVectors; ++i) _mm512_storeu_ps(to + 16 * i, acc.v[i]);
}

template <int kBits, int kGroup, bool kZeros, Mode kMode>
void gemv_blocks(const Gemv& job) {
  const Weights& w = *job.weights;
  constexpr bool kFilled = kMode == Mode::kNibbles || kMode == Mode::kFast;
  const int64_t step = kMode == Mode::kDot ? w.input_tiles : kBlock;
  alignas(kLine) uint8_t table[kFilled ? kBlock * table_bytes(kMode) : 1];
  Block block{0, 0, table, Strides(w).offset(w.input_tiles), fixed_zero(w),
              prefetch_distance()};
  for (; block.from < w.input_tiles; block.from = block.to) {
    block.to = block.from + step < w.input_tiles ? block.from + step : w.input_tiles;
    fill_tables<kMode>(table, *job.x, block.from, block.to - block.from);
    if (kMode == Mode::kWide) block.table = job.x->own + block.from * table_bytes(kMode);
    for (int64_t r = job.begin; r < job.end; ++r) {
      gemv_row<kBits, kGroup, kZeros, kMode>(job, block, r);
    }
  }
}

#ifdef __AVX512VBMI__
constexpr Mode kExact = Mode::kWide;
#else
constexpr Mode kExact = Mode::kNibbles;
#endif

template <int kBits, int kGroup, bool kZeros>
void gemv_mode(const Gemv& job) {
  if constexpr (kBits == 4) {
    gemv_blocks<kBits, kGroup, kZeros, Mode::kDot>(job);
  } else if (job.x->fast) {
    gemv_blocks<kBits, kGroup, kZeros, Mode::kFast>(job);
  } else {
    gemv_blocks<kBits, kGroup, kZeros, kExact>(job);
  }
}

template <int kBits, int kGroup>
void gemv_values(const Gemv& job) {
  if (job.weights->values == Values::kZeroPoints) return gemv_mode<kBits, kGroup, true>(job);
  gemv_mode<kBits, kGroup, false>(job);
}

template <int kBits>
void gemv_group(const Gemv& job) {
  if (job.weights->group == 0) return gemv_values<kBits, 0>(job);
  if (job.weights->group == 32) return gemv_values<kBits, 32>(job);
  gemv_values<kBits, 64>(job);  // and 128
}

void gemv(const Gemv& job) {
  switch (job.weights->bits) {
    case 1: return gemv_group<1>(job);
    case 2: return gemv_group<2>(job);
    case 3: return gemv_group<3>(job);
    default: return gemv_group<4>(job);
  }
}

}  // namespace
}  // namespace flwr_edge
