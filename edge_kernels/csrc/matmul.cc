#include "matmul.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "dequantize.h"
#include "scratch.h"
#include "spread.h"
#include "tables.h"

namespace flwr_edge {
namespace {

// Most bytes that a thread's lookup tables take, but for those of a single row.
constexpr int64_t kTableBytes = int64_t(8) << 20;
// Tiles of rows that one call of gemv gets at most: their sums take 64 KB.
constexpr int64_t kGemvTiles = 256;
// Bytes of weights that several rows of activations share.
constexpr int64_t kGemvShared = 512 << 10;
// Rows of activations that gemm runs against one unpacked tile: their sums take 32 KB.
constexpr int64_t kGemmRows = 128;
// Input tiles that are unpacked at a time: 16 KB, which stay in the first-level cache.
constexpr int64_t kGemmTiles = kUnpackedAhead;
// Bytes of quantized activations at a time.
constexpr int64_t kMostQuantized = int64_t(64) << 20;

// 10 to 20 us of one thread's work, below which another thread is not worth waking.
#if defined(__x86_64__)
constexpr int64_t kGemvGrain = 512 << 10;  // bytes of weights
constexpr int64_t kGemmGrain = 768;        // tiles of weights times rows of activations
constexpr int64_t kQuantizeGrain = 32 << 10;  // activations
#else
constexpr int64_t kGemvGrain = 32 << 10;
constexpr int64_t kGemmGrain = 64;
constexpr int64_t kQuantizeGrain = 8 << 10;
#endif

struct Call {
  const Isa& isa;
  const Weights& w;
  bool fast;
  const float* x;
  int64_t m;
  const Epilogue& epilogue;
  float* y;
  int64_t y_stride;
  const Pool& pool;

  float* at(int64_t row, int64_t row_tile) const { return y + row * y_stride + row_tile * kTile; }
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void run_non_finite(const Call& call, const uint8_t* finite) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < call.m; ++i) {
    if (!finite[i]) rows.push_back(i);
  }
  if (rows.empty()) return;
  float_product(call.isa, call.w, call.x, call.w.inputs, rows.data(), int64_t(rows.size()),
                call.epilogue, call.y, call.y_stride, call.pool);
}

// One row, quantized. False: not finite.
bool prepare(const Call& call, int64_t row, Scratch& scratch, Activation* out) {
  const int64_t tiles = call.w.input_tiles;
  auto* q = scratch.take<int8_t>(tiles * kTile);
  auto* scale = scratch.take<float>(tiles);
  auto* sums = scratch.take<int32_t>(tiles * 2);
  *out = Activation{q, scale, sums, nullptr, nullptr, nullptr, nullptr, nullptr};
  return call.isa.quantize(call.x + row * call.w.inputs, call.w.inputs, q, scale, sums);
}

size_t prepared_bytes(const Weights& w) {
  const size_t tiles = size_t(w.input_tiles);
  return tiles * kTile + Scratch::padded(tiles * 4) + Scratch::padded(tiles * 8);
}

void run_gemv(const Call& call) {
  const Weights& w = call.w;
  Scratch scratch(size_t(call.m) * prepared_bytes(w));
  Activation rows[kTableRows];
  uint8_t finite[kTableRows];
  bool all = true;
  for (int64_t i = 0; i < call.m; ++i) all &= (finite[i] = prepare(call, i, scratch, &rows[i]));

  Tables tables(call.isa, w, call.fast, rows, finite, call.m);
  const int64_t bytes = int64_t(w.tile_offset(w.input_tiles));
  // Several rows share the weights while they are in the second-level cache; but a call of gemv has
  // a cost of its own (tables that go to the first-level cache), so it gets many tiles of rows.
  const int64_t most =
      call.m == 1 ? kGemvTiles : std::clamp(kGemvShared / bytes, int64_t(4), kGemvTiles);
  spread(call.pool, w.row_tiles, ceil_div(kGemvGrain, bytes * call.m),
         [&](int64_t begin, int64_t end) {
           const Activation* ready = tables.of_this_thread();
           const int64_t step = std::min(most, end - begin);
           Scratch own(size_t(step) * kTile * 4);
           auto* acc = own.take<float>(size_t(step) * kTile);
           for (int64_t from = begin; from < end; from += step) {
             const int64_t to = std::min(from + step, end);
             for (int64_t i = 0; i < call.m; ++i) {
               if (!finite[i]) continue;
               call.isa.gemv(Gemv{&w, &ready[i], acc, from, to});
               for (int64_t r = from; r < to; ++r) {
                 finish(w, r, acc + (r - from) * kTile, call.epilogue, call.at(i, r));
               }
             }
           }
         });
  if (!all) run_non_finite(call, finite);
}

// Bytes from a row of activations to the next: an odd number of lines, for rows 4 KB apart would
// lie in the same few sets of the first-level cache.
int64_t row_bytes(int64_t tiles) { return (tiles | 1) * kTile; }

// All rows of activations as gemm reads them.
struct Quantized {
  uint8_t* a;           // row i at i * row_bytes
  float* scale;
  int32_t* sums;
  uint8_t* finite;
};

// q -> q + 128, eight at a time: `bytes` is a whole number of tiles.
void flip_signs(uint8_t* a, int64_t bytes) {
  for (int64_t k = 0; k < bytes; k += 8) {
    uint64_t eight;
    std::memcpy(&eight, a + k, 8);
    eight ^= 0x8080808080808080;
    std::memcpy(a + k, &eight, 8);
  }
}

void quantize_rows(const Call& call, const Quantized& out) {
  const int64_t tiles = call.w.input_tiles, width = tiles * kTile;
  spread(call.pool, call.m, ceil_div(kQuantizeGrain, width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      uint8_t* a = out.a + i * row_bytes(tiles);
      auto* q = reinterpret_cast<int8_t*>(a);
      out.finite[i] = call.isa.quantize(call.x + i * call.w.inputs, call.w.inputs, q,
                                        out.scale + i * tiles, out.sums + i * tiles * 2);
      if (!out.finite[i]) {  // computed apart; until then, anything that is defined
        std::memset(a, 0, size_t(width));
        std::fill_n(out.scale + i * tiles, tiles, 0.0f);
        std::fill_n(out.sums + i * tiles * 2, tiles * 2, 0);
      }
      flip_signs(a, width);
    }
  });
}

// A job's rows but the first `rows`.
Gemm without(Gemm job, int64_t rows) {
  job.a += rows * job.a_stride;
  job.m -= rows;
  job.scale += rows * job.scale_stride;
  if (job.sums) job.sums += rows * job.weights->input_tiles * 2;
  job.acc += rows * kTile;
  return job;
}

// Rows [first, last) of activations times one tile of rows. values and value_sums: room for
// kGemmTiles tiles; acc: for kGemmRows rows.
void run_tile(const Call& call, const Quantized& from, int64_t row_tile, int64_t first,
              int64_t last, int8_t* values, int32_t* value_sums, float* acc) {
  const Weights& w = call.w;
  const int64_t tiles = w.input_tiles;
  std::fill_n(acc, (last - first) * kTile, 0.0f);
  Gemm job{};
  job.weights = &w;
  job.row_tile = row_tile;
  job.values = values;
  job.value_sums = value_sums;
  job.a = from.a + first * row_bytes(tiles);
  job.a_stride = row_bytes(tiles);
  job.m = last - first;
  job.scale = from.scale + first * tiles;
  job.scale_stride = tiles;
  job.scale_step = 1;
  job.sums = w.has_zeros() ? from.sums + first * tiles * 2 : nullptr;
  job.acc = acc;
  const bool fused = call.isa.unpack_and_multiply && job.m >= call.isa.fused_rows;
  for (job.begin = 0; job.begin < tiles; job.begin = job.end) {
    job.end = std::min(job.begin + kGemmTiles, tiles);
    for (int64_t t = job.begin; t < job.end; ++t) {
      int8_t* to = values + (t - job.begin) * kTile * kTile;
      int32_t* sums = value_sums + (t - job.begin) * 2 * kTile;
      fused ? call.isa.unpack_and_multiply(job, t, to, sums)
            : call.isa.unpack(w, row_tile, t, to, sums);
    }
    call.isa.gemm(fused ? without(job, call.isa.fused_rows) : job);
  }
  for (int64_t i = first; i < last; ++i) {
    finish(w, row_tile, acc + (i - first) * kTile, call.epilogue, call.at(i, row_tile));
  }
}

void run_gemm(const Call& call) {
  const Weights& w = call.w;
  const size_t m = size_t(call.m), tiles = size_t(w.input_tiles);
  const size_t row = size_t(row_bytes(w.input_tiles));
  Scratch scratch(m * row + Scratch::padded(m * tiles * 4) +
                  Scratch::padded(m * tiles * 8) + Scratch::padded(m));
  Quantized rows{};
  rows.a = scratch.take<uint8_t>(m * row);
  rows.scale = scratch.take<float>(m * tiles);
  rows.sums = scratch.take<int32_t>(m * tiles * 2);
  rows.finite = scratch.take<uint8_t>(m);
  quantize_rows(call, rows);

  const int64_t blocks = ceil_div(call.m, kGemmRows), most = std::min(call.m, kGemmRows);
  // Tiles of one block of rows lie together: a piece is mostly one block against many tiles.
  spread(call.pool, blocks * w.row_tiles, ceil_div(kGemmGrain, w.input_tiles * most),
         [&](int64_t begin, int64_t end) {
           constexpr size_t kValues = kGemmTiles * kTile * kTile, kSums = kGemmTiles * kTile * 2;
           Scratch own(kValues + kSums * 4 + size_t(most) * kTile * 4);
           auto* values = own.take<int8_t>(kValues);
           auto* sums = own.take<int32_t>(kSums);
           auto* acc = own.take<float>(most * kTile);
           for (int64_t at = begin; at < end; ++at) {
             const int64_t first = at / w.row_tiles * kGemmRows;
             run_tile(call, rows, at % w.row_tiles, first, std::min(first + kGemmRows, call.m),
                      values, sums, acc);
           }
         });
  run_non_finite(call, rows.finite);
}

struct Finish {
  const float* scales;  // of rows, or null; maybe unaligned
  const float* bias;    // or null
  float multiplier;
};

// One pass without branches inside, which every compiler vectorizes.
template <bool kScales, bool kBias, bool kRelu>
void finish_tile(const Finish& by, const float* __restrict acc, float* __restrict y) {
  for (int i = 0; i < kTile; ++i) {
    float v = acc[i];
    if (kScales) {
      float scale;
      std::memcpy(&scale, by.scales + i, sizeof scale);
      v = scale * v;
    }
    v *= by.multiplier;
    if (kBias) v += by.bias[i];
    y[i] = kRelu && v < 0.0f ? 0.0f : v;
  }
}

template <bool kScales, bool kBias>
void finish_tile(const Finish& by, bool relu, const float* acc, float* y) {
  relu ? finish_tile<kScales, kBias, true>(by, acc, y)
       : finish_tile<kScales, kBias, false>(by, acc, y);
}

template <bool kScales>
void finish_tile(const Finish& by, bool relu, const float* acc, float* y) {
  by.bias ? finish_tile<kScales, true>(by, relu, acc, y)
          : finish_tile<kScales, false>(by, relu, acc, y);
}

void finish_tile(const Finish& by, bool relu, const float* acc, float* y) {
  by.scales ? finish_tile<true>(by, relu, acc, y) : finish_tile<false>(by, relu, acc, y);
}

}  // namespace

MatMul::MatMul(const Isa& isa, const Weights& weights, bool fast)
    : isa_(isa), weights_(weights), fast_(fast) {}

void MatMul::run(const float* x, int64_t m, const Epilogue& epilogue, float* y, int64_t y_stride,
                 const Pool& pool) const {
  Call call{isa_, weights_, fast_, x, m, epilogue, y, y_stride, pool};
  if (m <= 0) return;
  const bool by_tables = fast_ && weights_.bits < 4;
  const bool by_row = m <= (by_tables ? kGemvRows : gemv_rows(isa_))[weights_.bits];
  const int64_t width = row_bytes(weights_.input_tiles) + weights_.input_tiles * 12;
  const auto each = int64_t(Tables::bytes(isa_, weights_, fast_));
  const int64_t tabled =
      std::clamp<int64_t>(kTableBytes / std::max<int64_t>(each, 1), 1, kTableRows);
  const int64_t most = by_row ? tabled : std::max(kMostQuantized / width, kGemmRows);
  for (int64_t first = 0; first < m; first += most) {
    call.x = x + first * weights_.inputs;
    call.y = y + first * y_stride;
    call.m = std::min(most, m - first);
    by_row ? run_gemv(call) : run_gemm(call);
  }
}

void finish(const Weights& w, int64_t row_tile, const float* acc, const Epilogue& epilogue,
            float* y) {
  const int64_t first = row_tile * kTile, count = std::min<int64_t>(kTile, w.rows - first);
  Finish by{w.row_scales ? w.row_scales + first : nullptr,
            epilogue.bias ? epilogue.bias + first : nullptr, w.multiplier};
  if (count == kTile) return finish_tile(by, epilogue.relu, acc, y);
  float padded_bias[kTile] = {}, padded_y[kTile];
  if (by.bias) {
    std::memcpy(padded_bias, by.bias, size_t(count) * 4);
    by.bias = padded_bias;
  }
  finish_tile(by, epilogue.relu, acc, padded_y);
  std::memcpy(y, padded_y, size_t(count) * 4);
}

}  // namespace flwr_edge
