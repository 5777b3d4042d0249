// What the ARM paths share: everything but sums of products, which each brings as a `Product`.
// Each path includes this under its own flags, so nothing here may be shared between them: all of
// it, and of the files included, is in an anonymous namespace.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "neon_activation.h"
#include "neon_lookup.h"
#include "neon_scale.h"
#include "neon_unpack.h"

namespace flwr_edge {
namespace {

// One tile of weights (half of it for group 32) times one row of activations.
struct Piece {
  const Weights& w;
  const Activation& x;
  const uint8_t* tile;
  int64_t t;
  int first, inputs;  // of the tile
  int32_t s;
};

void add_exact(const Piece& p, const Scales& at, float* acc) {
  const int64_t entry = p.t * 256 + p.first * 4;
  const int32_t centre = lookup_centre(p.w.bits), planes = (1 << p.w.bits) - 1;
  Parity parity;
  parity.clear();
  for (int bit = p.w.bits - 1; bit >= 0; --bit) {
    parity.twice();
    add_plane(p.tile + (8 * bit + p.first / 8) * kLine, p.inputs / 8, p.x.low + entry,
              p.x.high + entry, &parity);
  }
  Rows sums;
  parity.widen(64 * kHighBias * planes + centre * p.s, &sums);
  accumulate_exact(p.w, at, sums, centre, p.s, p.x.scale[p.t], acc);
}

void add_fast(const Piece& p, const Scales& at, float* acc) {
  const int32_t planes = (1 << p.w.bits) - 1;
  Parity parity;
  parity.clear();
  for (int bit = p.w.bits - 1; bit >= 0; --bit) {
    parity.twice();
    add_plane_fast(p.tile + (8 * bit + p.first / 8) * kLine, p.inputs / 8,
                   p.x.fast + p.t * 256 + p.first * 4, &parity);
  }
  Rows sums;
  parity.widen(kFastBias * (p.inputs / 4) * planes, &sums);
  accumulate_fast(p.w, at, sums, p.x.step[p.t], p.s, p.x.scale[p.t], acc);
}

template <typename Product>
void add_dwords(const Piece& p, const Scales& at, float* acc) {
  Rows sums;
  Product::dwords(p.tile + p.first / 2 * kLine, p.x.q + p.t * kTile + p.first, p.inputs / 8,
                  &sums);
  accumulate_exact(p.w, at, sums, 0, p.s, p.x.scale[p.t], acc);
}

template <typename Product>
void gemv(const Gemv& job) {
  const Weights& w = *job.weights;
  const Activation& x = *job.x;
  const int inputs = kTile / w.halves();
  for (int64_t r = job.begin; r < job.end; ++r) {
    float* acc = job.acc + (r - job.begin) * kTile;
    std::memset(acc, 0, kTile * sizeof(float));
    for (int64_t t = 0; t < w.input_tiles; ++t) {
      const uint8_t* tile = w.row_of_tiles(r) + w.tile_offset(t);
      for (int half = 0; half < w.halves(); ++half) {
        const int32_t* halves = x.sums + 2 * t;
        const int32_t s = w.group == 32 ? halves[half] : halves[0] + halves[1];
        const Piece piece{w, x, tile, t, half * inputs, inputs, s};
        const Scales at(w, r, t, half);
        if (w.bits == 4) {
          add_dwords<Product>(piece, at, acc);
        } else if (x.fast) {
          add_fast(piece, at, acc);
        } else {
          add_exact(piece, at, acc);
        }
      }
    }
  }
}

// kCount rows of activations, from row i, times 16 rows of weights, from quad `quad`.
template <typename Product, int kCount>
void gemm_block(const Gemm& job, int64_t t, int half, int quad, const Scales& at, int64_t i) {
  const Weights& w = *job.weights;
  const bool has_scales = at.scales, has_zeros = w.has_zeros();
  const int inputs = kTile / w.halves();
  const int8_t* values = job.values + (t - job.begin) * kTile * kTile + half * inputs * kTile;
  const uint8_t* a = job.a + i * job.a_stride + t * kTile + half * inputs;
  int32x4_t dots[kCount][4];
  Product::template products<kCount>(values + quad * 16, a, job.a_stride, inputs / 16, dots);
  float32x4_t scales[4];
  for (int v = 0; v < 4; ++v) {
    scales[v] = has_scales ? load_halves(at.scales + (quad + v) * 8) : vdupq_n_f32(0);
  }
  for (int row = 0; row < kCount; ++row) {
    float* acc = job.acc + (i + row) * kTile + quad * 4;
    const float32x4_t sa =
        vdupq_n_f32(job.scale[(i + row) * job.scale_stride + t * job.scale_step]);
    float32x4_t sum = vdupq_n_f32(0);
    if (has_zeros) {
      const int32_t* halves = job.sums + ((i + row) * w.input_tiles + t) * 2;
      sum = vdupq_n_f32(float(w.group == 32 ? halves[half] : halves[0] + halves[1]));
    }
    for (int v = 0; v < 4; ++v) {
      float32x4_t u = vcvtq_f32_s32(dots[row][v]);
      if (has_zeros) u = vfmsq_f32(u, at.zero(quad + v), sum);
      vst1q_f32(acc + v * 4, add_scaled(has_scales, vld1q_f32(acc + v * 4), u, sa, scales[v]));
    }
  }
}

// value_sums is not read: with the offset of 128 taken off first, the products are signed.
template <typename Product>
void gemm(const Gemm& job) {
  const Weights& w = *job.weights;
  for (int64_t t = job.begin; t < job.end; ++t) {
    for (int half = 0; half < w.halves(); ++half) {
      const Scales at(w, job.row_tile, t, half);
      for (int quad = 0; quad < kQuads; quad += 4) {
        int64_t i = 0;
        for (; i + 4 <= job.m; i += 4) gemm_block<Product, 4>(job, t, half, quad, at, i);
        for (; i < job.m; ++i) gemm_block<Product, 1>(job, t, half, quad, at, i);
      }
    }
  }
}

}  // namespace
}  // namespace flwr_edge
