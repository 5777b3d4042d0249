// ARMv8.2 with the dot product: four products a lane in one instruction.
#include "neon_common.h"

namespace flwr_edge {
namespace {

struct DotProduct {
  // Sixteen activations from q, of two octets, against lines of the octets.
  template <int kLane>
  static void add_octet(const uint8_t* lines, int8x16_t q, Rows* sums) {
    for (int quad = 0; quad < kQuads; ++quad) {
      const uint8x16_t codes = vld1q_u8(lines + 16 * quad);
      const int8x16_t even = vreinterpretq_s8_u8(vandq_u8(codes, vdupq_n_u8(15)));
      const int8x16_t odd = vreinterpretq_s8_u8(vshrq_n_u8(codes, 4));
      sums->quads[quad] = vdotq_laneq_s32(sums->quads[quad], even, q, kLane);
      sums->quads[quad] = vdotq_laneq_s32(sums->quads[quad], odd, q, kLane + 1);
    }
  }

  static void dwords(const uint8_t* lines, const int8_t* q, int octets, Rows* out) {
    Rows sums;
    for (int32x4_t& quad : sums.quads) quad = vdupq_n_s32(0);
    for (int j = 0; j < octets; j += 2) {
      const int8x16_t sixteen = vld1q_s8(q + 8 * j);
      add_octet<0>(lines + 4 * j * kLine, sixteen, &sums);
      add_octet<2>(lines + 4 * (j + 1) * kLine, sixteen, &sums);
    }
    *out = sums;
  }

  template <int kLane, int kCount>
  static void step(const int8_t* values, const int8x16_t* a, int32x4_t (*sums)[4]) {
    for (int v = 0; v < 4; ++v) {
      const int8x16_t four_rows = vld1q_s8(values + 16 * v);
      for (int i = 0; i < kCount; ++i) {
        sums[i][v] = vdotq_laneq_s32(sums[i][v], four_rows, a[i], kLane);
      }
    }
  }

  template <int kCount>
  static void products(const int8_t* values, const uint8_t* a, int64_t stride, int sixteens,
                       int32x4_t (*out)[4]) {
    const uint8x16_t sign = vdupq_n_u8(0x80);
    int32x4_t sums[kCount][4];
    for (auto& row : sums) {
      for (int32x4_t& sum : row) sum = vdupq_n_s32(0);
    }
    for (int s = 0; s < sixteens; ++s) {
      int8x16_t sixteen[kCount];
      for (int i = 0; i < kCount; ++i) {
        sixteen[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(a + i * stride + 16 * s), sign));
      }
      const int8_t* from = values + s * 16 * kTile;
      step<0, kCount>(from, sixteen, sums);
      step<1, kCount>(from + 4 * kTile, sixteen, sums);
      step<2, kCount>(from + 8 * kTile, sixteen, sums);
      step<3, kCount>(from + 12 * kTile, sixteen, sums);
    }
    std::memcpy(out, sums, sizeof sums);
  }
};

}  // namespace

const Isa* neon_dot_isa() {
  static const Isa isa{"neon_dot",   quantize,          tables,
                       fast_tables,  gemv<DotProduct>,  unpack,
                       gemm<DotProduct>};
  return &isa;
}

}  // namespace flwr_edge
