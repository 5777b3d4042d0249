#include "conv1d.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "dequantize.h"
#include "spread.h"

// No lookup here: measured on Zen 4 (32 channels x 5 taps -> 64 channels, 25 positions), a gemv for
// each position takes 2.0, 2.3, 2.9 and 1.3 times as long as this int8 product at 1, 2, 3 and 4
// bits (avx512vnni), and 1.2 to 1.9 times (avx2), without what gathering the fields would add. At
// one position lookup is ahead by 0.1 us, which a call of a session hides.
namespace flwr_edge {
namespace {

// Positions against which one tile of rows is multiplied: their sums take 16 KB.
constexpr int64_t kPositions = 64;

// About 10 us of one thread's work: tiles of weights times positions.
#if defined(__x86_64__)
constexpr int64_t kGrain = 768;
#else
constexpr int64_t kGrain = 64;
#endif

// Where an element of a sample or of the output stands.
struct Strides {
  int64_t position, channel;
};

struct Call {
  const Isa& isa;
  const Weights& w;
  const ConvShape& shape;
  const float* x;
  Strides x_strides;
  int64_t length;     // of x
  int64_t positions;  // of y
  const Epilogue& epilogue;
  float* y;
  Strides y_strides;
  const Pool& pool;

  int64_t padded() const { return shape.pad_begin + length + shape.pad_end; }
};

// The sample, padded, channels last, as q + 128: position p's field starts at a + p * stride.
// After the fields whole tiles are readable.
struct Sample {
  const uint8_t* a;
  int64_t a_stride;
  float scale;
  const int32_t* sums;  // [positions][input tiles][2], with zero points
};

// Largest |x|; NaN or infinity if there is one.
float largest_of(const float* x, int64_t count) {
  // Non-finite bits are the largest as integers, and integers compare in vectors.
  int32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  float result;
  std::memcpy(&result, &largest, 4);
  return result;
}

// x -> round-half-even(x * inverse) + 128. Adding 1.5 * 2^23 rounds to an integer, in the low bits.
void quantize(const float* x, int64_t count, float inverse, uint8_t* a) {
  for (int64_t i = 0; i < count; ++i) {
    const float shifted = x[i] * inverse + (0x1.8p23f + 128.0f);
    uint32_t bits;
    std::memcpy(&bits, &shifted, 4);
    a[i] = uint8_t(bits);
  }
}

// Fills `a` [padded length][channels].
void quantize_sample(const Call& call, float inverse, uint8_t* a) {
  constexpr int64_t kStrip = 256;
  const int64_t channels = call.shape.channels, length = call.length;
  std::memset(a, 128, size_t(call.shape.pad_begin * channels));
  std::memset(a + (call.shape.pad_begin + length) * channels, 128,
              size_t(call.shape.pad_end * channels));
  a += call.shape.pad_begin * channels;
  if (call.x_strides.channel == 1) return quantize(call.x, length * channels, inverse, a);
  uint8_t strip[kStrip];
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t from = 0; from < length; from += kStrip) {
      const int64_t count = std::min(kStrip, length - from);
      quantize(call.x + c * length + from, count, inverse, strip);
      uint8_t* to = a + from * channels + c;
      for (int64_t i = 0; i < count; ++i) to[i * channels] = strip[i];
    }
  }
}

// Dilated fields, one after the other: fields [positions][width].
void gather(const Call& call, const uint8_t* a, int64_t width, uint8_t* fields) {
  const ConvShape& s = call.shape;
  for (int64_t p = 0; p < call.positions; ++p) {
    uint8_t* field = fields + p * width;
    for (int64_t tap = 0; tap < s.kernel; ++tap) {
      std::memcpy(field + tap * s.channels, a + (p * s.stride + tap * s.dilation) * s.channels,
                  size_t(s.channels));
    }
    std::memset(field + call.w.inputs, 128, size_t(width - call.w.inputs));
  }
}

// Sum of q over each half tile of each field; what lies behind a field does not count.
void sum_fields(const Call& call, const Sample& sample, int32_t* sums) {
  constexpr int kHalf = kTile / 2;
  for (int64_t p = 0; p < call.positions; ++p) {
    const uint8_t* field = sample.a + p * sample.a_stride;
    for (int64_t half = 0; half < call.w.input_tiles * 2; ++half) {
      const int count = int(std::clamp<int64_t>(call.w.inputs - half * kHalf, 0, kHalf));
      int32_t sum = -128 * count;
      for (int i = 0; i < count; ++i) sum += field[half * kHalf + i];
      *sums++ = sum;
    }
  }
}

// acc [count][64] -> y, from position `first` on.
void store(const Call& call, int64_t row_tile, int64_t first, int64_t count, const float* acc) {
  const int64_t row = row_tile * kTile, rows = std::min<int64_t>(kTile, call.w.rows - row);
  float* y = call.y + first * call.y_strides.position + row * call.y_strides.channel;
  if (call.y_strides.channel == 1) {
    for (int64_t p = 0; p < count; ++p) {
      finish(call.w, row_tile, acc + p * kTile, call.epilogue, y + p * call.y_strides.position);
    }
    return;
  }
  alignas(kLine) float done[kPositions * kTile];
  for (int64_t p = 0; p < count; ++p) {
    finish(call.w, row_tile, acc + p * kTile, call.epilogue, done + p * kTile);
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* to = y + r * call.y_strides.channel;
    for (int64_t p = 0; p < count; ++p) to[p] = done[p * kTile + r];
  }
}

void multiply(const Call& call, const Sample& sample, const int8_t* values,
              const int32_t* value_sums) {
  const Weights& w = call.w;
  const int64_t tiles = w.input_tiles;
  const int64_t blocks = (call.positions + kPositions - 1) / kPositions;
  const int64_t most = std::min(call.positions, kPositions);
  const int64_t grain = (kGrain + tiles * most - 1) / (tiles * most);
  spread(call.pool, w.row_tiles * blocks, grain, [&](int64_t begin, int64_t end) {
    alignas(kLine) float acc[kPositions * kTile];
    for (int64_t at = begin; at < end; ++at) {
      const int64_t row_tile = at / blocks, first = at % blocks * kPositions;
      const int64_t count = std::min(kPositions, call.positions - first);
      std::fill_n(acc, count * kTile, 0.0f);
      Gemm job{};
      job.weights = &w;
      job.row_tile = row_tile;
      job.end = tiles;
      job.values = values + row_tile * tiles * kTile * kTile;
      job.value_sums = value_sums + row_tile * tiles * 2 * kTile;
      job.a = sample.a + first * sample.a_stride;
      job.a_stride = sample.a_stride;
      job.m = count;
      job.scale = &sample.scale;
      job.sums = sample.sums ? sample.sums + first * tiles * 2 : nullptr;
      job.acc = acc;
      call.isa.gemm(job);
      store(call, row_tile, first, count, acc);
    }
  });
}

void run_finite(const Call& call, float largest, const int8_t* values, const int32_t* value_sums) {
  const Weights& w = call.w;
  const ConvShape& s = call.shape;
  const size_t positions = size_t(call.positions), width = size_t(w.input_tiles) * kTile;
  const bool dilated = s.dilation > 1;
  // The last field is read to a whole tile.
  const size_t row = size_t(call.padded() * s.channels) + width;
  const size_t fields = dilated ? positions * width : 0;
  const size_t sums = w.has_zeros() ? positions * size_t(w.input_tiles) * 8 : 0;
  Scratch scratch(Scratch::padded(row) + fields + Scratch::padded(sums));

  const bool zero = largest < 0x1p-100f;
  auto* a = scratch.take<uint8_t>(row);
  quantize_sample(call, zero ? 0.0f : 127.0f / largest, a);
  std::memset(a + (row - width), 128, width);
  Sample sample{a, s.stride * s.channels, zero ? 0.0f : largest / 127.0f, nullptr};
  if (dilated) {
    auto* gathered = scratch.take<uint8_t>(fields);
    gather(call, a, int64_t(width), gathered);
    sample.a = gathered;
    sample.a_stride = int64_t(width);
  }
  if (sums) {
    auto* field_sums = scratch.take<int32_t>(sums / 4);
    sum_fields(call, sample, field_sums);
    sample.sums = field_sums;
  }
  multiply(call, sample, values, value_sums);
}

// In float, field by field: NaN and infinity reach the positions that see them, and no others.
void run_non_finite(const Call& call) {
  const ConvShape& s = call.shape;
  const int64_t inputs = call.w.inputs, rows = call.w.rows;
  std::vector<float> fields(size_t(kPositions * inputs)), products(size_t(kPositions * rows));
  std::vector<int64_t> which(kPositions);
  for (int64_t i = 0; i < kPositions; ++i) which[i] = i;
  for (int64_t first = 0; first < call.positions; first += kPositions) {
    const int64_t count = std::min(kPositions, call.positions - first);
    float* field = fields.data();
    for (int64_t p = first; p < first + count; ++p) {
      for (int64_t tap = 0; tap < s.kernel; ++tap) {
        const int64_t at = p * s.stride + tap * s.dilation - s.pad_begin;
        const bool inside = at >= 0 && at < call.length;
        for (int64_t c = 0; c < s.channels; ++c) {
          *field++ = inside ? call.x[at * call.x_strides.position + c * call.x_strides.channel]
                            : 0.0f;
        }
      }
    }
    float_product(call.isa, call.w, fields.data(), inputs, which.data(), count, call.epilogue,
                  products.data(), rows, call.pool);
    for (int64_t p = 0; p < count; ++p) {
      for (int64_t r = 0; r < rows; ++r) {
        call.y[(first + p) * call.y_strides.position + r * call.y_strides.channel] =
            products[p * rows + r];
      }
    }
  }
}

void run_call(const Call& call, const int8_t* values, const int32_t* value_sums) {
  if (call.positions <= 0) return;
  const float largest = largest_of(call.x, call.length * call.shape.channels);
  if (!std::isfinite(largest)) return run_non_finite(call);
  run_finite(call, largest, values, value_sums);
}

}  // namespace

Conv1d::Conv1d(const Isa& isa, const Weights& weights, const ConvShape& shape)
    : isa_(isa), weights_(weights), shape_(shape) {
  const size_t tiles = size_t(weights.row_tiles) * size_t(weights.input_tiles);
  constexpr size_t kValues = kTile * kTile, kSums = 2 * kTile;
  memory_ = std::make_unique<Scratch>(tiles * (kValues + kSums * 4));
  values_ = memory_->take<int8_t>(tiles * kValues);
  value_sums_ = memory_->take<int32_t>(tiles * kSums);
  for (int64_t r = 0; r < weights.row_tiles; ++r) {
    for (int64_t t = 0; t < weights.input_tiles; ++t) {
      const size_t at = size_t(r * weights.input_tiles + t);
      isa.unpack(weights, r, t, values_ + at * kValues, value_sums_ + at * kSums);
    }
  }
}

void Conv1d::run(const float* x, int64_t length, const Epilogue& epilogue, float* y,
                 const Pool& pool) const {
  const int64_t positions = output_length(length);
  run_call(Call{isa_, weights_, shape_, x, {1, length}, length, positions, epilogue, y,
                {1, positions}, pool},
           values_, value_sums_);
}

void Conv1d::run_channels_last(const float* x, int64_t length, const Epilogue& epilogue, float* y,
                               const Pool& pool) const {
  run_call(Call{isa_, weights_, shape_, x, {shape_.channels, 1}, length, output_length(length),
                epilogue, y, {weights_.rows, 1}, pool},
           values_, value_sums_);
}

}  // namespace flwr_edge
