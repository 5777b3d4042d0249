// IntSequential's kernels for ARM. Both sides are signed: an activation less 128 fits int8, and the
// sums begin at 128 times the weights' sum more. kDot: with ARMv8.2's dot product.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "int_cells.h"

namespace flwr_edge::integer {
namespace {

constexpr int kParts = 4;  // of a block: four rows of four inputs are a vector
constexpr int64_t kBlockBytes = kBlock * kStep;

// Four activations less 128, four times.
inline int8x16_t broadcast_step(const uint8_t* a) {
  uint32_t four;
  std::memcpy(&four, a, 4);
  return vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u));
}

// The products of four rows. Without the dot product: sums of two, of two rows a vector.
template <bool kDot>
struct Sums;

#ifdef __ARM_FEATURE_DOTPROD
template <>
struct Sums<true> {
  int32x4_t rows = vdupq_n_s32(0);
  void add(int8x16_t w, int8x16_t x) { rows = vdotq_s32(rows, w, x); }
  int32x4_t whole() const { return rows; }
};
#endif

template <>
struct Sums<false> {
  int32x4_t low = vdupq_n_s32(0), high = vdupq_n_s32(0);
  void add(int8x16_t w, int8x16_t x) {
    low = vpadalq_s16(low, vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    high = vpadalq_s16(high, vmull_s8(vget_high_s8(w), vget_high_s8(x)));
  }
  int32x4_t whole() const { return vpaddq_s32(low, high); }
};

// Four rows. vrshl rounds as asked: adds half a unit, without overflow, and shifts down.
inline int32x4_t requantized(int32x4_t acc, const Layer& layer, int64_t row, const Job& job) {
  if (layer.left) acc = vshlq_s32(acc, vld1q_s32(layer.left + row));
  const int32x4_t m = vld1q_s32(layer.m + row), shift = vnegq_s32(vld1q_s32(layer.shift + row));
  const int64x2_t low = vrshlq_s64(vmull_s32(vget_low_s32(acc), vget_low_s32(m)),
                                   vmovl_s32(vget_low_s32(shift)));
  const int64x2_t high = vrshlq_s64(vmull_high_s32(acc, m), vmovl_high_s32(shift));
  const int32x4_t q = vaddq_s32(vcombine_s32(vmovn_s64(low), vmovn_s64(high)),
                                vdupq_n_s32(job.zero));
  return vminq_s32(vmaxq_s32(q, vdupq_n_s32(job.low)), vdupq_n_s32(job.top()));
}

template <typename T>
void store(T* to, const T* block, int64_t count) {
  std::memcpy(to, block, size_t(count < kBlock ? count : kBlock) * sizeof(T));
}

// A block of rows by P rows of activations from `first` on.
template <bool kDot, int P>
void tile(const Job& job, int64_t block, int64_t first) {
  const Layer& layer = *job.layer;
  const uint8_t* a = job.a + first * job.a_stride;
  const int8_t* values = layer.values + block * layer.steps * kBlockBytes;
  Sums<kDot> dot[kParts][P];
  for (int64_t step = layer.steps; step > 0; --step) {
    int8x16_t x[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) x[p] = broadcast_step(a + p * job.a_stride);
#pragma GCC unroll 4
    for (int r = 0; r < kParts; ++r) {
      const int8x16_t w = vld1q_s8(values + r * 16);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) dot[r][p].add(w, x[p]);
    }
    values += kBlockBytes;
    a += kStep;
  }
  const int64_t left = layer.rows - block * kBlock;
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    const int64_t at = (first + p) * layer.rows + block * kBlock;
    int32x4_t out[kParts];
#pragma GCC unroll 4
    for (int r = 0; r < kParts; ++r) {
      const int64_t row = block * kBlock + 4 * r;
      out[r] = vaddq_s32(dot[r][p].whole(), vld1q_s32(layer.start_signed + row));
      if (job.q || job.q16) out[r] = requantized(out[r], layer, row, job);
    }
    if (!job.q && !job.q16) {
      int32_t sums[kBlock];
      for (int r = 0; r < kParts; ++r) vst1q_s32(sums + 4 * r, out[r]);
      store(job.acc + at, sums, left);
      continue;
    }
    const uint16x8_t low = vcombine_u16(vqmovun_s32(out[0]), vqmovun_s32(out[1]));
    const uint16x8_t high = vcombine_u16(vqmovun_s32(out[2]), vqmovun_s32(out[3]));
    if (job.q16) {
      uint16_t words[kBlock];
      vst1q_u16(words, low);
      vst1q_u16(words + 8, high);
      store(job.q16 + at, words, left);
      continue;
    }
    uint8_t bytes[kBlock];
    vst1q_u8(bytes, vcombine_u8(vqmovn_u16(low), vqmovn_u16(high)));
    store(job.q + at, bytes, left);
  }
}

template <bool kDot, int P>
void product(const Job& job) {
  for (int64_t block = 0; block < job.layer->blocks; ++block) {
    int64_t i = 0;
    for (; i + P <= job.count; i += P) tile<kDot, P>(job, block, i);
    for (; i < job.count; ++i) tile<kDot, 1>(job, block, i);
  }
}

}  // namespace
}  // namespace flwr_edge::integer
