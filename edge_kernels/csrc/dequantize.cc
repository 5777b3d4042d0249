#include "dequantize.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "half.h"
#include "scratch.h"
#include "spread.h"

namespace flwr_edge {
namespace {

struct Scales {
  float scale[kTile], zero[kTile];
};

// Of half `half` of a tile, with the multiplier; row scales are left to finish().
Scales scales_of(const Weights& w, int64_t row_tile, int64_t tile, int half) {
  Scales result;
  if (w.group == 0) {
    std::fill_n(result.scale, kTile, 1.0f);
    std::fill_n(result.zero, kTile, 0.0f);
    if (w.has_zeros()) std::memcpy(result.zero, w.row_zeros + row_tile * kTile, sizeof result.zero);
    return result;
  }
  const int64_t carrier = w.group == 128 ? tile & ~int64_t(1) : tile;
  const uint8_t* at = w.row_of_tiles(row_tile) + w.tile_offset(carrier) + w.code_bytes();
  const size_t zeros = size_t(w.halves()) * kTile * 2;
  for (int row = 0; row < kTile; ++row) {
    const uint8_t* scale = at + (size_t(half) * kTile + row) * 2;
    result.scale[row] = load_half(scale) * w.multiplier;
    result.zero[row] = w.has_zeros() ? load_half(scale + zeros) : 0.0f;
  }
  return result;
}

// floats [64 rows][64 inputs].
void dequantize(const Isa& isa, const Weights& w, int64_t row_tile, int64_t tile, float* floats) {
  alignas(kLine) int8_t values[kTile * kTile];
  alignas(kLine) int32_t sums[2 * kTile];
  isa.unpack(w, row_tile, tile, values, sums);
  Scales scales[2];
  for (int half = 0; half < w.halves(); ++half) scales[half] = scales_of(w, row_tile, tile, half);
  for (int row = 0; row < kTile; ++row) {
    for (int i = 0; i < kTile; ++i) {
      const Scales& s = scales[w.group == 32 ? i / 32 : 0];
      const float value = values[(i / 4 * kTile + row) * 4 + i % 4];
      floats[row * kTile + i] = (value - s.zero[row]) * s.scale[row];
    }
  }
}

}  // namespace

void float_product(const Isa& isa, const Weights& w, const float* x, int64_t x_stride,
                   const int64_t* which, int64_t count, const Epilogue& epilogue, float* y,
                   int64_t y_stride, const Pool& pool) {
  Weights rest = w;  // what is left to finish()
  if (w.group != 0) rest.multiplier = 1.0f;
  spread(pool, w.row_tiles, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> floats(kTile * kTile), acc(size_t(count) * kTile);
    for (int64_t r = begin; r < end; ++r) {
      std::fill(acc.begin(), acc.end(), 0.0f);
      for (int64_t t = 0; t < w.input_tiles; ++t) {
        dequantize(isa, w, r, t, floats.data());
        const int inputs = int(std::min<int64_t>(kTile, w.inputs - t * kTile));
        for (int64_t i = 0; i < count; ++i) {
          const float* from = x + which[i] * x_stride + t * kTile;
          for (int row = 0; row < kTile; ++row) {
            float sum = acc[i * kTile + row];
            for (int k = 0; k < inputs; ++k) sum += from[k] * floats[row * kTile + k];
            acc[i * kTile + row] = sum;
          }
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        finish(rest, r, &acc[i * kTile], epilogue, y + which[i] * y_stride + r * kTile);
      }
    }
  });
}

}  // namespace flwr_edge
