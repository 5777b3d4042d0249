// NEON: activations to int8, and their lookup tables.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "isa.h"

namespace flwr_edge {
namespace {

constexpr float kLargestFloat = 0x1.fffffep127f;

bool quantize_tile(const float* x, int8_t* q, float* scale, int32_t* sums) {
  float32x4_t magnitudes = vabsq_f32(vld1q_f32(x));
  for (int i = 4; i < kTile; i += 4) {
    magnitudes = vmaxq_f32(magnitudes, vabsq_f32(vld1q_f32(x + i)));  // NaN stays
  }
  const float largest = vmaxvq_f32(magnitudes);
  if (!(largest <= kLargestFloat)) return false;
  const bool zero = largest < 0x1p-100f;
  const float32x4_t inverse = vdupq_n_f32(zero ? 0.0f : 127.0f / largest);
  *scale = zero ? 0.0f : largest / 127.0f;
  for (int half = 0; half < 2; ++half) {
    int16x8_t sum = vdupq_n_s16(0);
    for (int i = 32 * half; i < 32 * (half + 1); i += 8) {
      const int32x4_t first = vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + i), inverse));
      const int32x4_t second = vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + i + 4), inverse));
      const int16x8_t both = vcombine_s16(vmovn_s32(first), vmovn_s32(second));
      sum = vaddq_s16(sum, both);
      vst1_s8(q + i, vmovn_s16(both));
    }
    sums[half] = vaddlvq_s16(sum);
  }
  return true;
}

bool quantize(const float* x, int64_t inputs, int8_t* q, float* scale, int32_t* sums) {
  for (int64_t t = 0; t * kTile < inputs; ++t) {
    const float* from = x + t * kTile;
    float padded[kTile];
    const int64_t left = inputs - t * kTile;
    if (left < kTile) {
      std::memset(padded, 0, sizeof padded);
      std::memcpy(padded, from, size_t(left) * sizeof(float));
      from = padded;
    }
    if (!quantize_tile(from, q + t * kTile, scale + t, sums + 2 * t)) return false;
  }
  return true;
}

// The sixteen sums of four activations: entry n has those whose bit is set in n.
int16x8x2_t entries_of(const int8_t* four) {
  const int8x8_t bit0 = vcreate_s8(0x0100010001000100), bit1 = vcreate_s8(0x0101000001010000),
                 bit2 = vcreate_s8(0x0101010100000000);
  int16x8_t first = vmull_s8(vld1_dup_s8(four), bit0);
  first = vmlal_s8(first, vld1_dup_s8(four + 1), bit1);
  first = vmlal_s8(first, vld1_dup_s8(four + 2), bit2);
  return {{first, vaddw_s8(first, vld1_dup_s8(four + 3))}};
}

void tables(const int8_t* q, int64_t tiles, uint8_t* low, int8_t* high) {
  const uint8x16_t six_bits = vdupq_n_u8(63);
  for (int64_t at = 0; at < tiles * 256; at += 16) {
    const int16x8x2_t sums = entries_of(q + at / 4);
    const int8x16_t bytes = vcombine_s8(vmovn_s16(sums.val[0]), vmovn_s16(sums.val[1]));
    vst1q_u8(low + at, vandq_u8(vreinterpretq_u8_s8(bytes), six_bits));
    vst1q_s8(high + at, vcombine_s8(vshrn_n_s16(sums.val[0], 6), vshrn_n_s16(sums.val[1], 6)));
  }
}

int8x8_t rescaled(int16x8_t sums, float32x4_t inverse) {
  const float32x4_t first = vcvtq_f32_s32(vmovl_s16(vget_low_s16(sums)));
  const float32x4_t second = vcvtq_f32_s32(vmovl_high_s16(sums));
  const int16x4_t first_rounded = vmovn_s32(vcvtnq_s32_f32(vmulq_f32(first, inverse)));
  const int16x4_t second_rounded = vmovn_s32(vcvtnq_s32_f32(vmulq_f32(second, inverse)));
  return vmovn_s16(vcombine_s16(first_rounded, second_rounded));
}

void fast_tables(const int8_t* q, int64_t tiles, int8_t* fast, float* step) {
  for (int64_t t = 0; t < tiles; ++t) {
    int16x8x2_t sums[16];
    int16x8_t magnitudes = vdupq_n_s16(0);
    for (int group = 0; group < 16; ++group) {
      sums[group] = entries_of(q + t * kTile + 4 * group);
      const int16x8_t all = vdupq_laneq_s16(sums[group].val[1], 7);
      for (int16x8_t& half : sums[group].val) {
        half = vsubq_s16(vaddq_s16(half, half), all);  // minus where a bit is not set
        magnitudes = vmaxq_s16(magnitudes, vabsq_s16(half));
      }
    }
    const float largest = float(vmaxvq_s16(magnitudes));
    const float32x4_t inverse = vdupq_n_f32(largest > 0 ? 63.0f / largest : 0.0f);
    step[t] = largest / 126.0f;
    for (int group = 0; group < 16; ++group) {
      int8_t* to = fast + t * 256 + group * 16;
      vst1_s8(to, rescaled(sums[group].val[0], inverse));
      vst1_s8(to + 8, rescaled(sums[group].val[1], inverse));
    }
  }
}

}  // namespace
}  // namespace flwr_edge
