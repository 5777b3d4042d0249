// NEON: the float stage of isa.h.
#pragma once

#include <arm_neon.h>

#include "neon_lookup.h"

namespace flwr_edge {
namespace {

// 3 bits: I itself may not fit int16; I - 4 S does. Other widths: I does.
int32_t lookup_centre(int bits) { return bits == 3 ? 4 : 0; }

// value = q - zero; not for 1 bit, whose value is 2q - 1.
int32_t fixed_zero(const Weights& w) {
  return w.values == Values::kTernary ? 1 : 1 << (w.bits - 1);
}

float32x4_t load_halves(const uint8_t* at) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at)));
}

// Scales and zero points of a tile of rows at one tile of inputs (or half of it).
struct Scales {
  const uint8_t* scales;     // fp16; null for group 0
  const uint8_t* zeros;      // fp16; null without zero points or for group 0
  const uint8_t* row_zeros;  // float32; null but for group 0 with zero points

  Scales(const Weights& w, int64_t row_tile, int64_t tile, int half)
      : scales(nullptr), zeros(nullptr), row_zeros(nullptr) {
    if (w.group == 0) {
      if (w.has_zeros()) {
        row_zeros = reinterpret_cast<const uint8_t*>(w.row_zeros) + row_tile * kTile * 4;
      }
      return;
    }
    const int64_t carrier = w.group == 128 ? tile & ~int64_t(1) : tile;
    scales = w.row_of_tiles(row_tile) + w.tile_offset(carrier) + w.code_bytes() +
             half * kTile * 2;
    if (w.has_zeros()) zeros = scales + w.halves() * kTile * 2;
  }
  float32x4_t zero(int quad) const {
    if (zeros) return load_halves(zeros + quad * 8);
    return vreinterpretq_f32_u8(vld1q_u8(row_zeros + quad * 16));
  }
};

// acc += u sa scale for four rows; `scale` is not read for group 0.
float32x4_t add_scaled(bool has_scale, float32x4_t acc, float32x4_t u, float32x4_t sa,
                       float32x4_t scale) {
  return has_scale ? vfmaq_f32(acc, vmulq_f32(u, sa), scale) : vfmaq_f32(acc, u, sa);
}

// acc [64] += u(quad) sa scale.
template <typename U>
void accumulate(const Scales& at, float sa, float* acc, const U& u) {
  const float32x4_t activation_scale = vdupq_n_f32(sa);
  const uint8_t* const scales = at.scales;  // a local: stores to acc might change `at`
  for (int quad = 0; quad < kQuads; ++quad) {
    const float32x4_t scale = scales ? load_halves(scales + quad * 8) : vdupq_n_f32(0);
    const float32x4_t before = vld1q_f32(acc + quad * 4);
    vst1q_f32(acc + quad * 4, add_scaled(scales, before, u(quad), activation_scale, scale));
  }
}

// sums: I - centre S.
void accumulate_exact(const Weights& w, const Scales& at, const Rows& sums, int32_t centre,
                      int32_t s, float sa, float* acc) {
  if (w.has_zeros()) {
    const float32x4_t sum = vdupq_n_f32(float(s));
    const int32x4_t restored = vdupq_n_s32(centre * s);
    accumulate(at, sa, acc, [&](int quad) {
      return vfmsq_f32(vcvtq_f32_s32(vaddq_s32(sums.quads[quad], restored)), at.zero(quad), sum);
    });
    return;
  }
  const bool one_bit = w.bits == 1;
  const int32x4_t shift = vdupq_n_s32(one_bit);
  const int32x4_t offset = vdupq_n_s32(one_bit ? -s : (centre - fixed_zero(w)) * s);
  accumulate(at, sa, acc, [&](int quad) {
    return vcvtq_f32_s32(vaddq_s32(vshlq_s32(sums.quads[quad], shift), offset));
  });
}

// sums: of fast entries.
void accumulate_fast(const Weights& w, const Scales& at, const Rows& sums, float step, int32_t s,
                     float sa, float* acc) {
  const float32x4_t steps = vdupq_n_f32(step), sum = vdupq_n_f32(float(s));
  const auto entries = [&](int quad) {
    return vmulq_f32(vcvtq_f32_s32(sums.quads[quad]), steps);
  };
  // Halves of S that the sums lack, see isa.h.
  const int halves = w.has_zeros() ? (1 << w.bits) - 1 : w.values == Values::kTernary ? 1 : -1;
  const float32x4_t lack = vdupq_n_f32(0.5f * float(halves * s));
  const auto centred = [&](int quad) { return vaddq_f32(entries(quad), lack); };
  if (w.has_zeros()) {
    accumulate(at, sa, acc,
               [&](int quad) { return vfmsq_f32(centred(quad), at.zero(quad), sum); });
  } else if (w.bits == 1) {
    accumulate(at, sa, acc, [&](int quad) {
      const float32x4_t f = entries(quad);
      return vaddq_f32(f, f);
    });
  } else {
    accumulate(at, sa, acc, centred);
  }
}

}  // namespace
}  // namespace flwr_edge
