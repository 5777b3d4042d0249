#include "sequential_layer.h"

#include <algorithm>
#include <cstring>

#include "dequantize.h"
#include "half.h"

namespace flwr_edge {
namespace {

constexpr int64_t kChunk = 64;  // fields whose sums are at hand at a time
// Weights from which on MatMul, reading them packed, is faster (measured: even at 256 by 256).
constexpr int64_t kLarge = int64_t(1) << 17;

size_t padded(size_t bytes) { return (bytes + (kLine - 1)) / kLine * kLine; }

float as_float(uint32_t bits) {
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

}  // namespace

SequentialLayer::SequentialLayer(const Isa& isa, const Weights& weights, const float* bias,
                                 bool relu)
    : isa_(isa), kernels_(sequential_kernels(isa.name)), weights_(weights) {
  if (bias) plain_bias_.assign(bias, bias + weights.rows);
  epilogue_ = {bias ? plain_bias_.data() : nullptr, relu};
  unpack();
}

size_t SequentialLayer::unpacked_bytes(const Weights& weights) {
  const int64_t segments = weights.input_tiles * weights.halves();
  const int64_t values = weights.inputs + segments * kStep;
  // Starts, scales and zeros of each segment; bias and scale of each row.
  return size_t(weights.rows + kBlock) * size_t(values + segments * 12 + 8);
}

void SequentialLayer::unpack() {
  dense_.rows = weights_.rows;
  dense_.blocks = (weights_.rows + kBlock - 1) / kBlock;
  dense_.halves = weights_.halves();
  dense_.multiplier = weights_.multiplier;
  const int segment = kTile / dense_.halves;
  for (int64_t from = 0; from < weights_.inputs; from += segment) {
    const int64_t count = std::min<int64_t>(segment, weights_.inputs - from);
    first_steps_.push_back(dense_.steps);
    segment_steps_.push_back(int32_t((count + kStep - 1) / kStep));
    dense_.steps += segment_steps_.back();
  }
  dense_.segments = int64_t(segment_steps_.size());
  const size_t places = size_t(dense_.blocks * dense_.segments) * kBlock;
  values_.resize(size_t(dense_.blocks * dense_.steps) * kBlock * kStep + kLine);
  const auto address = reinterpret_cast<uintptr_t>(values_.data());
  aligned_values_ = values_.data() + (kLine - address % kLine) % kLine;
  starts_.resize(places);
  scales_.resize(weights_.group ? places : 0);
  zeros_.resize(weights_.has_zeros() ? places : 0);
  for (int64_t r = 0; r < weights_.row_tiles; ++r) {
    for (int64_t t = 0; t < weights_.input_tiles; ++t) {
      unpack_tile(r, t);
      copy_scales(r, t);
    }
  }
  bias_.resize(size_t(dense_.blocks) * kBlock);
  std::copy(plain_bias_.begin(), plain_bias_.end(), bias_.begin());
  if (weights_.row_scales) copy_rows(weights_.row_scales, &row_scales_);
  dense_.segment_steps = segment_steps_.data();
  dense_.values = aligned_values_;
  dense_.starts = starts_.data();
  dense_.scales = scales_.empty() ? nullptr : scales_.data();
  dense_.zeros = zeros_.empty() ? nullptr : zeros_.data();
  dense_.row_scales = row_scales_.empty() ? nullptr : row_scales_.data();
  dense_.bias = bias_.data();
}

// unpack's [16 steps][64 rows][4] of a tile -> [blocks][steps][16 rows][4].
void SequentialLayer::unpack_tile(int64_t row_tile, int64_t tile) {
  alignas(kLine) int8_t values[kTile * kTile];
  alignas(kLine) int32_t sums[2 * kTile];
  isa_.unpack(weights_, row_tile, tile, values, sums);
  constexpr int kBytes = kBlock * kStep, kTileBlocks = kTile / kBlock;
  const int64_t first = row_tile * kTileBlocks;
  for (int64_t b = first; b < std::min(first + kTileBlocks, dense_.blocks); ++b) {
    for (int half = 0; half < dense_.halves; ++half) {
      const int64_t segment = tile * dense_.halves + half;
      if (segment >= dense_.segments) break;
      const int64_t place = half * kTile / 2 / kStep * kTile + (b - first) * kBlock;
      const int8_t* from = values + place * kStep;
      int8_t* to = aligned_values_ + (b * dense_.steps + first_steps_[segment]) * kBytes;
      for (int step = 0; step < segment_steps_[segment]; ++step) {
        std::memcpy(to + step * kBytes, from + step * kTile * kStep, kBytes);
      }
      int32_t* starts = starts_.data() + (b * dense_.segments + segment) * kBlock;
      for (int row = 0; row < kBlock; ++row) {
        starts[row] = -128 * sums[half * kTile + (b - first) * kBlock + row];
      }
    }
  }
}

void SequentialLayer::copy_scales(int64_t row_tile, int64_t tile) {
  const int64_t carrier = weights_.group == 128 ? tile & ~int64_t(1) : tile;
  const uint8_t* scales =
      weights_.row_of_tiles(row_tile) + weights_.tile_offset(carrier) + weights_.code_bytes();
  const uint8_t* zeros = scales + size_t(weights_.halves()) * kTile * 2;
  for (int half = 0; half < dense_.halves; ++half) {
    const int64_t segment = tile * dense_.halves + half;
    if (segment >= dense_.segments) break;
    for (int64_t row = 0; row < std::min<int64_t>(kTile, dense_.blocks * kBlock - row_tile * kTile);
         ++row) {
      const int64_t block = (row_tile * kTile + row) / kBlock;
      const size_t to = size_t(block * dense_.segments + segment) * kBlock + size_t(row % kBlock);
      const size_t from = (size_t(half) * kTile + size_t(row)) * 2;
      if (weights_.group) scales_[to] = load_half(scales + from);
      if (!weights_.has_zeros()) continue;
      if (weights_.group) {
        zeros_[to] = load_half(zeros + from);
      } else {
        std::memcpy(&zeros_[to], weights_.row_zeros + row_tile * kTile + row, 4);
      }
    }
  }
}

void SequentialLayer::copy_rows(const float* from, std::vector<float>* to) const {
  to->resize(size_t(dense_.blocks) * kBlock);
  std::memcpy(to->data(), from, to->size() * 4);  // the blob's rows are padded to whole tiles
}

DenseJob SequentialLayer::job() const {
  DenseJob job{};
  job.layer = &dense_;
  job.relu = epilogue_.relu;
  job.y_stride = dense_.rows;
  return job;
}

void SequentialLayer::sum_fields(const uint8_t* a, int64_t a_stride, int64_t m,
                                 int32_t* sums) const {
  const int64_t segment = kTile / dense_.halves;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t from = 0; from < weights_.inputs; from += segment) {
      const int64_t count = std::min(segment, weights_.inputs - from);
      int32_t sum = int32_t(-128 * count);
      for (int64_t k = 0; k < count; ++k) sum += a[i * a_stride + from + k];
      *sums++ = sum;
    }
  }
}

void SequentialLayer::float_fields(const float* fields, int64_t count, float* y) const {
  std::vector<int64_t> which(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) which[size_t(i)] = i;
  float_product(isa_, weights_, fields, weights_.inputs, which.data(), count, epilogue_, y,
                weights_.rows, Pool{});
}

SequentialLinear::SequentialLinear(const Isa& isa, const Weights& weights, const float* bias,
                                   bool relu, int64_t rows)
    : SequentialLayer(isa, weights, bias, relu), m_(rows) {
  if (weights.rows * weights.inputs >= kLarge) large_ = std::make_unique<MatMul>(isa, weights);
}

size_t SequentialLinear::scratch() const {
  const size_t tiles = size_t(weights_.input_tiles), segments = size_t(dense_.segments);
  const size_t m = size_t(std::min(m_, kChunk));
  return padded(m * tiles * kTile) + padded(m * tiles * 4) + padded(m * tiles * 8) +
         (dense_.zeros ? padded(m * segments * 4) : 0);
}

uint32_t SequentialLinear::run(const float* x, uint8_t* scratch, float* y) const {
  if (large_) {
    large_->run(x, m_, epilogue_, y, dense_.rows, Pool{});
    return kUnknown;
  }
  uint32_t largest = 0;
  for (int64_t i = 0; i < m_; i += kChunk) {
    const int64_t count = std::min(kChunk, m_ - i);
    largest = std::max(largest, run_some(x + i * weights_.inputs, count, scratch,
                                         y + i * dense_.rows));
  }
  return largest;
}

uint32_t SequentialLinear::run_some(const float* x, int64_t count, uint8_t* scratch,
                                    float* y) const {
  const int64_t tiles = weights_.input_tiles, width = tiles * kTile;
  uint8_t* a = scratch;
  auto* scale = reinterpret_cast<float*>(a + padded(size_t(count * width)));
  auto* tile_sums = reinterpret_cast<int32_t*>(scale) + padded(size_t(count * tiles) * 4) / 4;
  int32_t* sums = tile_sums + padded(size_t(count * tiles) * 8) / 4;
  bool finite = true;
  for (int64_t i = 0; i < count && finite; ++i) {
    finite = isa_.quantize(x + i * weights_.inputs, weights_.inputs,
                           reinterpret_cast<int8_t*>(a) + i * width, scale + i * tiles,
                           tile_sums + i * tiles * 2);
  }
  if (!finite) {
    // Row by row: those without NaN and infinity stay as they are.
    for (int64_t i = 0; i < count && count > 1; ++i) {
      run_some(x + i * weights_.inputs, 1, scratch, y + i * dense_.rows);
    }
    if (count == 1) float_fields(x, 1, y);
    return kUnknown;
  }
  for (int64_t k = 0; k < count * width; ++k) a[k] ^= 0x80;  // q + 128
  if (dense_.zeros) sum_fields(a, width, count, sums);
  DenseJob run = job();
  run.a = a;
  run.a_stride = width;
  run.m = count;
  run.scale = scale;
  run.scale_stride = tiles;
  run.scale_step = 1;
  run.sums = sums;
  run.y = y;
  return kernels_.dense(run);
}

SequentialConv::SequentialConv(const Isa& isa, const Weights& weights, const float* bias,
                               bool relu, const ConvShape& shape, int64_t length,
                               int64_t positions)
    : SequentialLayer(isa, weights, bias, relu),
      shape_(shape),
      length_(length),
      positions_(positions) {}

size_t SequentialConv::row_bytes() const {
  const int64_t taps = shape_.pad_begin + length_ + shape_.pad_end;
  return padded(size_t(taps * shape_.channels) + kLine);  // steps and vectors read beyond the end
}

size_t SequentialConv::field_bytes() const {
  return shape_.dilation == 1 ? 0 : padded(size_t(positions_ * dense_.steps * kStep));
}

size_t SequentialConv::scratch() const {
  return row_bytes() + field_bytes() + (dense_.zeros ? padded(kChunk * dense_.segments * 4) : 0);
}

// Dilated fields, one after the other.
void SequentialConv::gather(const uint8_t* row, uint8_t* fields) const {
  const int64_t channels = shape_.channels, width = dense_.steps * kStep;
  for (int64_t p = 0; p < positions_; ++p) {
    for (int64_t tap = 0; tap < shape_.kernel; ++tap) {
      std::memcpy(fields + p * width + tap * channels,
                  row + (p * shape_.stride + tap * shape_.dilation) * channels, size_t(channels));
    }
    for (int64_t k = shape_.kernel * channels; k < width; ++k) fields[p * width + k] = 128;
  }
}

uint32_t SequentialConv::run(const float* x, bool channels_first, uint32_t largest,
                             uint8_t* scratch, float* y) const {
  const int64_t channels = shape_.channels, inputs = length_ * channels;
  if (largest == kUnknown) largest = kernels_.largest(x, inputs);
  if (largest >= kNotFinite) return run_not_finite(x, channels_first, y);
  const float most = as_float(largest);
  const bool zero = most < 0x1p-100f;
  const float inverse = zero ? 0.0f : 127.0f / most, scale = zero ? 0.0f : most / 127.0f;

  uint8_t* body = scratch + shape_.pad_begin * channels;
  std::memset(scratch, 128, size_t(shape_.pad_begin * channels));
  std::memset(body + inputs, 128, size_t(scratch + row_bytes() - body - inputs));
  if (channels_first) {
    kernels_.quantize_transposed(x, channels, length_, inverse, body);
  } else {
    kernels_.quantize(x, inputs, inverse, body);
  }
  DenseJob run = job();
  run.a = scratch;
  run.a_stride = shape_.stride * channels;
  if (shape_.dilation > 1) {
    gather(scratch, scratch + row_bytes());
    run.a = scratch + row_bytes();
    run.a_stride = dense_.steps * kStep;
  }
  auto* sums = reinterpret_cast<int32_t*>(scratch + row_bytes() + field_bytes());
  run.scale = &scale;
  run.sums = sums;
  run.y = y;
  const int64_t chunk = dense_.zeros ? kChunk : positions_;
  uint32_t result = 0;
  for (int64_t p = 0; p < positions_; p += chunk) {
    run.m = std::min(chunk, positions_ - p);
    if (dense_.zeros) sum_fields(run.a, run.a_stride, run.m, sums);
    result = std::max(result, kernels_.dense(run));
    run.a += run.m * run.a_stride;
    run.y += run.m * run.y_stride;
  }
  return result;
}

// In float, field by field: NaN and infinity reach the positions that see them, and no others.
uint32_t SequentialConv::run_not_finite(const float* x, bool channels_first, float* y) const {
  const int64_t channels = shape_.channels;
  const int64_t step = channels_first ? 1 : channels, across = channels_first ? length_ : 1;
  std::vector<float> field(size_t(weights_.inputs));
  for (int64_t p = 0; p < positions_; ++p) {
    for (int64_t tap = 0; tap < shape_.kernel; ++tap) {
      const int64_t at = p * shape_.stride + tap * shape_.dilation - shape_.pad_begin;
      for (int64_t c = 0; c < channels; ++c) {
        field[size_t(tap * channels + c)] =
            at >= 0 && at < length_ ? x[at * step + c * across] : 0.0f;
      }
    }
    float_fields(field.data(), 1, y + p * dense_.rows);
  }
  return kUnknown;
}

}  // namespace flwr_edge
