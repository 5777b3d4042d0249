// NEON: a tile's codes to int8 values.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "neon_scale.h"

namespace flwr_edge {
namespace {

// Values of four inputs (one vector of a plane's line, bits `first`..) to the rows' dwords.
void spread(const uint8x16_t* planes, int bits, int first, int8x16_t zero, bool doubled,
            int8_t* step, int v) {
  uint8x16_t inputs[4];
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t bit = vdupq_n_u8(uint8_t(1 << (first + i)));
    uint8x16_t codes = vdupq_n_u8(0);
    for (int p = 0; p < bits; ++p) {
      const uint8x16_t worth = vdupq_n_u8(uint8_t(1 << (p + doubled)));
      codes = vorrq_u8(codes, vandq_u8(vtstq_u8(planes[p], bit), worth));
    }
    inputs[i] = vreinterpretq_u8_s8(vsubq_s8(vreinterpretq_s8_u8(codes), zero));
  }
  const uint8x16x2_t pairs01 = vtrnq_u8(inputs[0], inputs[1]);  // even rows, odd rows
  const uint8x16x2_t pairs23 = vtrnq_u8(inputs[2], inputs[3]);
  for (int odd = 0; odd < 2; ++odd) {
    const uint16x8x2_t dwords = vzipq_u16(vreinterpretq_u16_u8(pairs01.val[odd]),
                                          vreinterpretq_u16_u8(pairs23.val[odd]));
    vst1q_s8(step + (8 * odd + v) * 16, vreinterpretq_s8_u16(dwords.val[0]));
    vst1q_s8(step + (8 * odd + 4 + v) * 16, vreinterpretq_s8_u16(dwords.val[1]));
  }
}

void unpack_planes(const uint8_t* tile, int bits, int8x16_t zero, bool doubled, int8_t* values) {
  for (int j = 0; j < 8; ++j) {
    for (int v = 0; v < 4; ++v) {
      uint8x16_t planes[3];
      for (int p = 0; p < bits; ++p) planes[p] = vld1q_u8(tile + (8 * p + j) * kLine + 16 * v);
      spread(planes, bits, 0, zero, doubled, values + 2 * j * 4 * kTile, v);
      spread(planes, bits, 4, zero, doubled, values + (2 * j + 1) * 4 * kTile, v);
    }
  }
}

void unpack_dwords(const uint8_t* tile, int8x16_t zero, int8_t* values) {
  for (int j = 0; j < 8; ++j) {
    for (int quad = 0; quad < kQuads; ++quad) {
      const uint8x16_t codes = vld1q_u8(tile + 4 * j * kLine + 16 * quad);
      const int8x16_t first = vreinterpretq_s8_u8(vandq_u8(codes, vdupq_n_u8(15)));
      const int8x16_t second = vreinterpretq_s8_u8(vshrq_n_u8(codes, 4));
      vst1q_s8(values + 2 * j * 4 * kTile + 16 * quad, vsubq_s8(first, zero));
      vst1q_s8(values + (2 * j + 1) * 4 * kTile + 16 * quad, vsubq_s8(second, zero));
    }
  }
}

void clear_padding(int64_t from, int8_t* values) {
  for (int64_t i = from; i < kTile; ++i) {
    for (int row = 0; row < kTile; ++row) values[(i / 4 * kTile + row) * 4 + i % 4] = 0;
  }
}

void sum_values(const int8_t* values, int steps, int32_t* sums) {
  for (int quad = 0; quad < kQuads; ++quad) {
    int16x8_t pairs = vdupq_n_s16(0);
    for (int step = 0; step < steps; ++step) {
      pairs = vpadalq_s8(pairs, vld1q_s8(values + (step * kQuads + quad) * 16));
    }
    vst1q_s32(sums + quad * 4, vpaddlq_s16(pairs));
  }
}

void unpack(const Weights& w, int64_t row_tile, int64_t t, int8_t* values, int32_t* value_sums) {
  const uint8_t* tile = w.row_of_tiles(row_tile) + w.tile_offset(t);
  const bool doubled = w.bits == 1 && !w.has_zeros();
  const int8x16_t zero = vdupq_n_s8(int8_t(w.has_zeros() ? 0 : fixed_zero(w)));
  if (w.bits == 4) {
    unpack_dwords(tile, zero, values);
  } else {
    unpack_planes(tile, w.bits, zero, doubled, values);
  }
  if (w.inputs - t * kTile < kTile) clear_padding(w.inputs - t * kTile, values);
  const int steps = 16 / w.halves();
  std::memset(value_sums + kTile, 0, kTile * sizeof(int32_t));
  for (int half = 0; half < w.halves(); ++half) {
    sum_values(values + half * steps * 4 * kTile, steps, value_sums + half * kTile);
  }
}

}  // namespace
}  // namespace flwr_edge
