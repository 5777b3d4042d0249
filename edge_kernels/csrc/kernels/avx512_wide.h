// One row of activations by lookup in tables of six inputs, with VBMI and VNNI. Part of
// avx512_kernels.h.
//
// vpermb looks up 64 entries, so a line of eight inputs need not be cut into nibbles. Of two lines
// A and B, sixteen inputs, bits 0..5 of A, bits 2..7 of B, and the four bits left over are an index
// each: three lookups for what takes four by nibbles. An entry is 32 high + low + 16 with low in
// -16..15, high in -24..23 (-16..15 in the table of four): over half a tile, six lookups, the sums
// of either fit int8, whatever the activations. The products with 1 and 32 that join the two also
// widen, weigh the plane and add up the planes.
#pragma once

namespace flwr_edge {
namespace {

constexpr int kWideTable = 2 * kLine;           // low parts, high parts
constexpr int kWideHalf = 6 * kWideTable;       // two pairs of lines, three tables each
constexpr int kWideTile = 2 * kWideHalf;       // 24 lines
static_assert(kWideTile % kLine == 0, "own_bytes is a number of lines");
constexpr int kLeftOver = 6 * 16;               // what the low parts of half a tile lack

// Position 16 l + 8 z + w of a table: word w of lane l of vector z before packing.
struct Selectors {
  __m512i word01 = _mm512_set4_epi32(0x01010100, 0x00010000, 0x01010100, 0x00010000);
  __m512i word2 = _mm512_set4_epi32(0x00010001, 0x00010001, 0, 0);
  __m512i word2z = _mm512_or_si512(word2, _mm512_set1_epi16(0x0100));
  __m512i lane = _mm512_inserti64x4(
      _mm512_castsi256_si512(_mm256_inserti128_si256(_mm256_setzero_si256(),
                                                     _mm_set1_epi16(0x0001), 1)),
      _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_set1_epi16(0x0100)),
                              _mm_set1_epi16(0x0101), 1), 1);
};

// Inputs i and i + 1 of the sixteen, in each word.
FLWR_INLINE __m512i pair_of(__m512i sixteen, int i) {
  return _mm512_shuffle_epi8(sixteen, _mm512_set1_epi16(int16_t((i + 1) << 8 | i)));
}

FLWR_INLINE void store_table(uint8_t* to, __m512i first, __m512i last) {
  const __m512i five = _mm512_set1_epi16(31);
  const __m512i low =
      _mm512_packus_epi16(_mm512_and_si512(first, five), _mm512_and_si512(last, five));
  _mm512_storeu_si512(to, _mm512_sub_epi8(low, _mm512_set1_epi8(16)));
  _mm512_storeu_si512(to + kLine,
                     _mm512_packs_epi16(_mm512_srai_epi16(first, 5), _mm512_srai_epi16(last, 5)));
}

// The table of inputs i..i + 5: input i + b for bit b of the index.
FLWR_INLINE void build_six(uint8_t* to, __m512i sixteen, int i, const Selectors& select) {
  const __m512i third = pair_of(sixteen, i + 2);
  const __m512i base = _mm512_add_epi16(_mm512_maddubs_epi16(select.word01, pair_of(sixteen, i)),
                                        _mm512_maddubs_epi16(select.lane, pair_of(sixteen, i + 4)));
  store_table(to, _mm512_add_epi16(base, _mm512_maddubs_epi16(select.word2, third)),
              _mm512_add_epi16(base, _mm512_maddubs_epi16(select.word2z, third)));
}

// The tables of a tile's 64 activations.
FLWR_INLINE void build_tile(uint8_t* to, const int8_t* q, const Selectors& select) {
  for (int pair = 0; pair < 4; ++pair, to += 3 * kWideTable) {
    const __m512i sixteen = load_lanes(q + 16 * pair);
    build_six(to, sixteen, 0, select);
    build_six(to + kWideTable, sixteen, 10, select);
    // Bits 0 and 1: inputs 8 and 9; bits 4 and 5: inputs 6 and 7; bits 2 and 3 are not looked at.
    const __m512i four =
        _mm512_add_epi16(_mm512_maddubs_epi16(select.word01, pair_of(sixteen, 8)),
                         _mm512_maddubs_epi16(select.lane, pair_of(sixteen, 6)));
    store_table(to + 2 * kWideTable, four, four);
  }
}

void build_wide(const int8_t* q, int64_t tiles, uint8_t* to) {
  const Selectors select;
  for (int64_t t = 0; t < tiles; ++t) build_tile(to + t * kWideTile, q + t * kTile, select);
}

// Half a tile, all planes: adds its weighted sums to rows.
template <int kBits>
FLWR_INLINE void look_up_half(const uint8_t* lines, const uint8_t* ahead, const uint8_t* table,
                              int factor, Rows& rows) {
  const __m512i top_of_a = _mm512_set1_epi8(0x30);
  __m512i low[kBits], high[kBits];
  FLWR_UNROLL
  for (int pair = 0; pair < 2; ++pair) {
    const uint8_t* at = table + pair * 3 * kWideTable;
    __m512i index[3][kBits];
    FLWR_UNROLL
    for (int p = 0; p < kBits; ++p) {
      const int first = (8 * p + 2 * pair) * kLine;
      prefetch(ahead + first);
      prefetch(ahead + first + kLine);
      const __m512i a = pin(load(lines + first)), b = pin(load(lines + first + kLine));
      index[0][p] = a;
      index[1][p] = _mm512_srli_epi16(b, 2);
      index[2][p] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(a, 2), b, top_of_a, 0xe4);
    }
    FLWR_UNROLL
    for (int i = 0; i < 3; ++i, at += kWideTable) {
      const __m512i low_table = load(at), high_table = load(at + kLine);
      FLWR_UNROLL
      for (int p = 0; p < kBits; ++p) {
        const __m512i l = _mm512_permutexvar_epi8(index[i][p], low_table);
        const __m512i h = _mm512_permutexvar_epi8(index[i][p], high_table);
        const bool start = pair == 0 && i == 0;
        low[p] = start ? l : pin(_mm512_add_epi8(low[p], l));
        high[p] = start ? h : pin(_mm512_add_epi8(high[p], h));
      }
    }
  }
  FLWR_UNROLL
  for (int p = 0; p < kBits; ++p) {
    const __m512i even = _mm512_set1_epi32((32 << 16 | 1) * (factor << p));
    const __m512i odd = _mm512_slli_epi32(even, 8);
    const __m512i first = _mm512_unpacklo_epi16(low[p], high[p]);
    const __m512i last = _mm512_unpackhi_epi16(low[p], high[p]);
    rows.v[0] = _mm512_dpbusd_epi32(rows.v[0], even, first);
    rows.v[1] = _mm512_dpbusd_epi32(rows.v[1], even, last);
    rows.v[2] = _mm512_dpbusd_epi32(rows.v[2], odd, first);
    rows.v[3] = _mm512_dpbusd_epi32(rows.v[3], odd, last);
  }
}

// kHalves halves of a tile; start is added to each row.
template <int kBits, int kHalves>
FLWR_INLINE Rows look_up_wide(const uint8_t* lines, const uint8_t* ahead, const uint8_t* table,
                              int factor, int32_t start) {
  Rows rows;
  const int left = kLeftOver * kHalves * factor * ((1 << kBits) - 1);
  FLWR_UNROLL
  for (__m512i& v : rows.v) v = _mm512_set1_epi32(start + left);
  FLWR_UNROLL
  for (int h = 0; h < kHalves; ++h) {
    look_up_half<kBits>(lines + 4 * h * kLine, ahead + 4 * h * kLine, table + h * kWideHalf, factor,
                        rows);
  }
  return rows;
}

}  // namespace
}  // namespace flwr_edge
