// The oracle: the plainest code that does what isa.h says. Also what runs where nothing else does.
#include <cmath>
#include <cstring>

#include "half.h"
#include "isa.h"

namespace flwr_edge {
namespace {

// Code of a tile's row and input.
int code_at(const Weights& w, const uint8_t* tile, int row, int input) {
  if (w.bits == 4) {
    const int octet = input / 8, place = input % 8;
    const int line = 4 * octet + row / 16, byte = 4 * (row % 16) + place % 4;
    return tile[line * kLine + byte] >> (place < 4 ? 0 : 4) & 15;
  }
  int byte = 0;
  while (plane_row(byte) != row) ++byte;
  int code = 0;
  for (int p = 0; p < w.bits; ++p) {
    code |= (tile[(8 * p + input / 8) * kLine + byte] >> (input % 8) & 1) << p;
  }
  return code;
}

// What a symmetric or ternary code has to lose: value = code - zero (1 bit: 2 code - 1).
int fixed_zero(const Weights& w) {
  return w.values == Values::kTernary ? 1 : 1 << (w.bits - 1);
}

struct Scale {
  float scale, zero;
};

Scale scale_at(const Weights& w, int64_t row_tile, int64_t t, int half, int row) {
  if (w.group == 0) {
    Scale result{1.0f, 0.0f};
    if (w.has_zeros()) std::memcpy(&result.zero, w.row_zeros + row_tile * kTile + row, 4);
    return result;
  }
  const int64_t carrier = w.group == 128 ? t & ~int64_t(1) : t;
  const uint8_t* scales = w.row_of_tiles(row_tile) + w.tile_offset(carrier) + w.code_bytes();
  const size_t zeros = size_t(w.halves()) * kTile * 2, at = (size_t(half) * kTile + row) * 2;
  return {load_half(scales + at), w.has_zeros() ? load_half(scales + zeros + at) : 0.0f};
}

// The code's integer sum and its correction, as a float: u of isa.h.
float corrected(const Weights& w, int32_t i, int32_t s, float zero) {
  if (w.has_zeros()) return std::fmaf(-zero, float(s), float(i));
  if (w.bits == 1) return float(2 * i - s);
  return float(i - fixed_zero(w) * s);
}

float corrected_fast(const Weights& w, float f, int32_t s, float zero) {
  const float half = 0.5f * float(s);
  if (w.has_zeros()) return std::fmaf(-zero, float(s), f + float((1 << w.bits) - 1) * half);
  if (w.bits == 1) return f + f;
  return w.values == Values::kTernary ? f + half : f - half;
}

float add_scaled(const Weights& w, float acc, float u, float sa, float scale) {
  return w.group == 0 ? std::fmaf(u, sa, acc) : std::fmaf(u * sa, scale, acc);
}

bool quantize(const float* x, int64_t inputs, int8_t* q, float* scale, int32_t* sums) {
  for (int64_t t = 0; t * kTile < inputs; ++t) {
    const float* from = x + t * kTile;
    const int count = int(inputs - t * kTile < kTile ? inputs - t * kTile : kTile);
    float largest = 0;
    for (int i = 0; i < count; ++i) {
      if (!std::isfinite(from[i])) return false;
      largest = std::fmax(largest, std::fabs(from[i]));
    }
    const bool zero = largest < 0x1p-100f;
    const float inverse = zero ? 0.0f : 127.0f / largest;
    scale[t] = zero ? 0.0f : largest / 127.0f;
    sums[2 * t] = sums[2 * t + 1] = 0;
    for (int i = 0; i < kTile; ++i) {
      const int value = i < count ? int(std::nearbyint(from[i] * inverse)) : 0;
      q[t * kTile + i] = int8_t(value);
      sums[2 * t + i / 32] += value;
    }
  }
  return true;
}

int entry_of(const int8_t* four, int n) {
  int sum = 0;
  for (int i = 0; i < 4; ++i) sum += n >> i & 1 ? four[i] : 0;
  return sum;
}

void tables(const int8_t* q, int64_t tiles, uint8_t* low, int8_t* high) {
  for (int64_t at = 0; at < tiles * 256; ++at) {
    const int sum = entry_of(q + at / 16 * 4, int(at % 16));
    low[at] = uint8_t(sum & 63);
    high[at] = int8_t((sum - (sum & 63)) / 64);
  }
}

int signed_entry_of(const int8_t* four, int n) {
  return 2 * entry_of(four, n) - entry_of(four, 15);
}

void fast_tables(const int8_t* q, int64_t tiles, int8_t* fast, float* step) {
  for (int64_t t = 0; t < tiles; ++t) {
    int largest = 0;
    for (int at = 0; at < 256; ++at) {
      const int sum = signed_entry_of(q + t * kTile + at / 16 * 4, at % 16);
      largest = std::abs(sum) > largest ? std::abs(sum) : largest;
    }
    const float inverse = largest ? 63.0f / float(largest) : 0.0f;
    step[t] = float(largest) / 126.0f;
    for (int at = 0; at < 256; ++at) {
      const int sum = signed_entry_of(q + t * kTile + at / 16 * 4, at % 16);
      fast[t * 256 + at] = int8_t(std::nearbyint(float(sum) * inverse));
    }
  }
}

void gemv(const Gemv& job) {
  const Weights& w = *job.weights;
  const Activation& x = *job.x;
  const bool fast = x.fast && w.bits < 4;
  const int segment = w.group == 32 ? 32 : 64;
  for (int64_t r = job.begin; r < job.end; ++r) {
    for (int row = 0; row < kTile; ++row) {
      float acc = 0;
      for (int64_t t = 0; t < w.input_tiles; ++t) {
        const uint8_t* tile = w.row_of_tiles(r) + w.tile_offset(t);
        for (int first = 0; first < kTile; first += segment) {
          int32_t sum = 0, entries = 0;
          for (int i = first; i < first + segment; ++i) {
            sum += code_at(w, tile, row, i) * x.q[t * kTile + i];
          }
          for (int i = first; fast && i < first + segment; i += 4) {
            for (int p = 0; p < w.bits; ++p) {
              int n = 0;
              for (int k = 0; k < 4; ++k) n |= (code_at(w, tile, row, i + k) >> p & 1) << k;
              entries += x.fast[t * 256 + i / 4 * 16 + n] * (1 << p);
            }
          }
          const int32_t* halves = x.sums + 2 * t;
          const int32_t s = w.group == 32 ? halves[first / 32] : halves[0] + halves[1];
          const Scale scale = scale_at(w, r, t, first / 32, row);
          const float u = fast ? corrected_fast(w, float(entries) * x.step[t], s, scale.zero)
                               : corrected(w, sum, s, scale.zero);
          acc = add_scaled(w, acc, u, x.scale[t], scale.scale);
        }
      }
      job.acc[(r - job.begin) * kTile + row] = acc;
    }
  }
}

void unpack(const Weights& w, int64_t row_tile, int64_t t, int8_t* values, int32_t* value_sums) {
  const uint8_t* tile = w.row_of_tiles(row_tile) + w.tile_offset(t);
  for (int row = 0; row < kTile; ++row) {
    int32_t sums[2] = {0, 0};
    for (int i = 0; i < kTile; ++i) {
      int value = 0;
      if (t * kTile + i < w.inputs) {
        const int code = code_at(w, tile, row, i);
        value = w.has_zeros() ? code : w.bits == 1 ? 2 * code - 1 : code - fixed_zero(w);
      }
      values[(i / 4 * kTile + row) * 4 + i % 4] = int8_t(value);
      sums[w.group == 32 ? i / 32 : 0] += value;
    }
    value_sums[row] = sums[0];
    value_sums[kTile + row] = sums[1];
  }
}

void gemm(const Gemm& job) {
  const Weights& w = *job.weights;
  const int segment = w.group == 32 ? 32 : 64;
  for (int64_t i = 0; i < job.m; ++i) {
    const uint8_t* a = job.a + i * job.a_stride;
    for (int row = 0; row < kTile; ++row) {
      float acc = job.acc[i * kTile + row];
      for (int64_t t = job.begin; t < job.end; ++t) {
        const int8_t* values = job.values + (t - job.begin) * kTile * kTile;
        const int32_t* value_sums = job.value_sums + (t - job.begin) * 2 * kTile;
        for (int first = 0; first < kTile; first += segment) {
          int32_t dot = -128 * value_sums[(first / 32) * kTile + row];
          for (int k = first; k < first + segment; ++k) {
            dot += values[(k / 4 * kTile + row) * 4 + k % 4] * a[t * kTile + k];
          }
          const Scale scale = scale_at(w, job.row_tile, t, first / 32, row);
          float u = float(dot);
          if (w.has_zeros()) {
            const int32_t* halves = job.sums + (i * w.input_tiles + t) * 2;
            const int32_t s = w.group == 32 ? halves[first / 32] : halves[0] + halves[1];
            u = std::fmaf(-scale.zero, float(s), float(dot));
          }
          acc = add_scaled(w, acc, u, job.scale[i * job.scale_stride + t * job.scale_step],
                           scale.scale);
        }
      }
      job.acc[i * kTile + row] = acc;
    }
  }
}

}  // namespace

const Isa* scalar_isa() {
  static const Isa isa{"scalar", quantize, tables, fast_tables, gemv, unpack, gemm};
  return &isa;
}

}  // namespace flwr_edge
