// ARMv8.0: no dot product. Products of a byte and a code of at most 15 in magnitude, sixteen of
// them, fit int16: a tile of 64 inputs is summed before it is widened.
#include "neon_common.h"

namespace flwr_edge {
namespace {

// Each pair of words stands for half a row: [rows 0, 0, 0, 0, 1, 1, 1, 1] and rows 2, 3.
int32x4_t rows_of(int16x8_t first, int16x8_t second) {
  return vpaddq_s32(vpaddlq_s16(first), vpaddlq_s16(second));
}

template <int kCount>
struct Words {
  int16x8_t first[kCount], second[kCount];

  void clear() {
    for (int i = 0; i < kCount; ++i) first[i] = second[i] = vdupq_n_s16(0);
  }
  // Four rows by four inputs, times the same four activations (twice in `four`).
  void add(int i, int8x16_t values, int8x16_t four) {
    first[i] = vmlal_s8(first[i], vget_low_s8(values), vget_low_s8(four));
    second[i] = vmlal_high_s8(second[i], values, four);
  }
  int32x4_t rows(int i) const { return rows_of(first[i], second[i]); }
};

int8x16_t broadcast(const int8_t* four) {
  int32_t word;
  std::memcpy(&word, four, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

struct LongProduct {
  // One line of 16 rows for every four of the octet: line 4j + r.
  static void dwords(const uint8_t* lines, const int8_t* q, int octets, Rows* sums) {
    for (int r = 0; r < 4; ++r) {
      Words<4> words;
      words.clear();
      for (int j = 0; j < octets; ++j) {
        const int8x16_t even = broadcast(q + 8 * j), odd = broadcast(q + 8 * j + 4);
        for (int v = 0; v < 4; ++v) {
          const uint8x16_t codes = vld1q_u8(lines + (4 * j + r) * kLine + 16 * v);
          words.add(v, vreinterpretq_s8_u8(vandq_u8(codes, vdupq_n_u8(15))), even);
          words.add(v, vreinterpretq_s8_u8(vshrq_n_u8(codes, 4)), odd);
        }
      }
      for (int v = 0; v < 4; ++v) sums->quads[4 * r + v] = words.rows(v);
    }
  }

  template <int kCount>
  struct Pair {  // eight rows of weights: two vectors
    Words<kCount> vectors[2];
    int8x16_t a[kCount];

    template <int kLane>
    void step(const int8_t* values) {
      const int8x16_t one = vld1q_s8(values), two = vld1q_s8(values + 16);
      for (int i = 0; i < kCount; ++i) {
        const int8x16_t four =
            vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(a[i]), kLane));
        vectors[0].add(i, one, four);
        vectors[1].add(i, two, four);
      }
    }
  };

  template <int kCount>
  static void products(const int8_t* values, const uint8_t* a, int64_t stride, int sixteens,
                       int32x4_t (*sums)[4]) {
    const uint8x16_t sign = vdupq_n_u8(0x80);
    for (int v = 0; v < 4; v += 2) {
      Pair<kCount> pair;
      for (Words<kCount>& words : pair.vectors) words.clear();
      for (int s = 0; s < sixteens; ++s) {
        for (int i = 0; i < kCount; ++i) {
          pair.a[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(a + i * stride + 16 * s), sign));
        }
        const int8_t* from = values + s * 16 * kTile + v * 16;
        pair.template step<0>(from);
        pair.template step<1>(from + 4 * kTile);
        pair.template step<2>(from + 8 * kTile);
        pair.template step<3>(from + 12 * kTile);
      }
      for (int i = 0; i < kCount; ++i) {
        sums[i][v] = pair.vectors[0].rows(i);
        sums[i][v + 1] = pair.vectors[1].rows(i);
      }
    }
  }
};

}  // namespace

const Isa* neon_isa() {
  static const Isa isa{"neon",        quantize,           tables,
                       fast_tables,   gemv<LongProduct>,  unpack,
                       gemm<LongProduct>};
  return &isa;
}

}  // namespace flwr_edge
