// The kernels of avx2.cc and avxvnni.cc. A tile of 64 rows is two halves of 32 bytes a line; widened by
// byte parity and then by unpack-low and unpack-high, half h holds the rows 0, 16, 32 and
// 48 + 8 h + (0..7).
#pragma once

#include "avx2_activation.h"
#include "avx2_lookup.h"
#include "avx2_unpacked.h"

namespace flwr_edge {
namespace {

template <int bits, Values values, int group, bool fast>
INLINE void tile_segment(const uint8_t* codes, const Activation& x, int64_t t, int half,
                         const Segment& s, float* acc) {
  constexpr int lines = group == 32 ? 4 : 8;
  if (bits == 4) {
    dot_segment<values, group>(s, codes + half * 16 * kLine, x.q + t * kTile + 32 * half, acc);
    return;
  }
  Sums sums[2];
  const int64_t entry = t * 256 + half * 128;
  if (fast) {
    look_up_planes<bits & 3, lines>(codes + half * 4 * kLine, FastTables{x.fast}.at(entry), sums);
    accumulate_fast<bits, values, group>(s, sums, acc);
  } else {
    look_up_planes<bits & 3, lines>(codes + half * 4 * kLine, ExactTables{x.low, x.high}.at(entry),
                                    sums);
    accumulate_exact<bits, values, group>(s, sums, acc);
  }
}

template <int bits, Values values, int group, bool fast>
INLINE void row_of_tiles(const Weights& w, const Activation& x, int64_t row_tile, float* out) {
  constexpr int halves = group == 32 ? 2 : 1;
  alignas(32) float acc[kTile] = {};
  const uint8_t* tile = w.row_of_tiles(row_tile);
  const size_t code_bytes = size_t(bits) * 8 * kLine;
  Segment s{};
  s.ahead = prefetch_distance();
  if (group == 0 && values == Values::kZeroPoints) {
    s.zeros = reinterpret_cast<const uint8_t*>(w.row_zeros + row_tile * kTile);
  }
  for (int64_t t = 0; t < w.input_tiles; ++t) {
    const uint8_t* codes = tile;
    const size_t bytes = w.tile_bytes(t);
    if (bytes > code_bytes) s.scales = codes + code_bytes;  // else the previous tile's (group 128)
    s.sa = x.scale[t];
    if (fast) s.step = x.step[t];
    for (size_t at = code_bytes; at < bytes; at += kLine) {
      prefetch(codes + at, bits == 4 ? s.ahead : kAhead);
    }
    for (int half = 0; half < halves; ++half) {
      if (group == 32 && half) s.scales += 2 * kTile;
      if (group != 0) s.zeros = s.scales + halves * 2 * kTile;
      s.s = group == 32 ? x.sums[2 * t + half] : x.sums[2 * t] + x.sums[2 * t + 1];
      tile_segment<bits, values, group, fast>(codes, x, t, half, s, acc);
    }
    tile += bytes;
  }
  std::memcpy(out, acc, sizeof acc);
}

template <int bits, Values values, int group, bool fast>
void gemv_of(const Gemv& job) {
  for (int64_t r = job.begin; r < job.end; ++r) {
    row_of_tiles<bits, values, group, fast>(*job.weights, *job.x, r,
                                            job.acc + (r - job.begin) * kTile);
  }
}

template <int bits, Values values, int group>
void gemv_by_mode(const Gemv& job) {
  if (bits < 4 && job.x->fast) return gemv_of<bits, values, group, bits < 4>(job);
  gemv_of<bits, values, group, false>(job);
}

template <int bits, Values values>
void gemv_by_group(const Gemv& job) {
  switch (job.weights->group) {
    case 0: return gemv_by_mode<bits, values, 0>(job);
    case 32: return gemv_by_mode<bits, values, 32>(job);
    default: return gemv_by_mode<bits, values, 64>(job);  // and 128
  }
}

template <int bits>
void gemv_by_values(const Gemv& job) {
  if (job.weights->has_zeros()) return gemv_by_group<bits, Values::kZeroPoints>(job);
  if (bits == 2 && job.weights->values == Values::kTernary) {
    return gemv_by_group<2, Values::kTernary>(job);
  }
  gemv_by_group<bits, Values::kSymmetric>(job);
}

void gemv(const Gemv& job) {
  switch (job.weights->bits) {
    case 1: return gemv_by_values<1>(job);
    case 2: return gemv_by_values<2>(job);
    case 3: return gemv_by_values<3>(job);
    default: return gemv_by_values<4>(job);
  }
}

}  // namespace
}  // namespace flwr_edge
