#include "int_product.h"

#include <algorithm>
#include <cstring>

#include "int_steps.h"

namespace flwr_edge::integer {
namespace {

size_t lines(int64_t bytes) { return (size_t(bytes) + kMargin + 63) / 64 * 64; }

}  // namespace

std::string Product::prepare(const Kernels& kernels, const Instruction& i, const Value& x,
                             const ProductConstants& constants) {
  kernels_ = &kernels;
  instruction_ = i;
  zero_ = x.zero;
  channels_ = conv() ? x.d0 : x.d1;
  inputs_ = channels_ * i.kernel;
  a_stride_ = conv() && i.dilation == 1 ? i.stride * channels_ : inputs_;
  if (std::string error = check_sums(constants); !error.empty()) return error;
  pack(constants);
  if (!constants.m) return "";
  for (int64_t r = 0; r < i.rows; ++r) {
    const bool in_range = constants.m[r] >= 0 && constants.shift[r] >= 1 &&
                          constants.shift[r] <= kMostShift;
    if (!in_range) {
      return "row " + std::to_string(r) + " has multiplier " + std::to_string(constants.m[r]) +
             " and shift " + std::to_string(constants.shift[r]) +
             "; 0 to 2^31 - 1 and 1 to 62 are possible";
    }
  }
  pack_scales(constants);
  return "";
}

size_t Product::padded_bytes(const Value& x) const {
  const int64_t length = x.d1 + instruction_.pad_begin + instruction_.pad_end;
  return lines(conv() ? length * channels_ : x.size());
}

size_t Product::field_bytes(const Value& x, int64_t positions) const {
  const bool dilated = instruction_.dilation > 1;
  return padded_bytes(x) + (dilated ? lines(positions * inputs_) : 0);
}

size_t Product::scratch(const Value& x, const Value& y) const {
  const int64_t positions = conv() ? y.d1 : y.d0;
  return field_bytes(x, positions) + sums_bytes(positions) +
         (kernels_->words ? product_room(a_stride_, positions, layer_.steps) : 0);
}

size_t Product::sums_bytes(int64_t positions) const {
  return slow_ ? lines(positions * layer_.rows * 4) : 0;
}

// Whatever the input, a row's sum fits int32; then it may be made modulo 2^32.
std::string Product::check_sums(const ProductConstants& constants) {
  most_.clear();
  for (int64_t r = 0; r < instruction_.rows; ++r) {
    int64_t up = 0, down = 0;
    for (int64_t k = 0; k < inputs_; ++k) {
      const int64_t w = constants.weights[r * inputs_ + k];
      (w > 0 ? up : down) += w > 0 ? w : -w;
    }
    const int64_t above = 255 - zero_, bias = constants.bias[r];
    const int64_t high = up * above + down * zero_ + bias;
    const int64_t low = -(up * zero_ + down * above) + bias;
    if (high > kMostSum || low < -kMostSum) {
      return "the sums of row " + std::to_string(r) + " may not fit 32 bits";
    }
    most_.push_back(std::max(high, -low));
  }
  return "";
}

void Product::pack(const ProductConstants& constants) {
  const int64_t rows = instruction_.rows;
  const int64_t blocks = (rows + kBlock - 1) / kBlock, steps = (inputs_ + kStep - 1) / kStep;
  values_.assign(size_t(blocks * steps * kBlock * kStep), 0);
  start_.assign(size_t(blocks * kBlock), 0);
  start_signed_ = start_;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t sum = 0;
    int8_t* block = values_.data() + (r / kBlock * steps * kBlock + r % kBlock) * kStep;
    for (int64_t k = 0; k < inputs_; ++k) {
      const int8_t w = constants.weights[r * inputs_ + k];
      block[k / kStep * kBlock * kStep + k % kStep] = w;
      sum += w;
    }
    const int64_t start = constants.bias[r] - zero_ * sum;
    start_[size_t(r)] = int32_t(uint32_t(uint64_t(start)));
    start_signed_[size_t(r)] = int32_t(uint32_t(uint64_t(start + 128 * sum)));
  }
  layer_ = {rows, blocks, steps, values_.data(), start_.data(), start_signed_.data(),
            nullptr, nullptr, nullptr, nullptr, nullptr};
  if (!kernels_->words) return;
  words_.assign(values_.begin(), values_.end());
  values_ = {};
  layer_.words = words_.data();
}

void Product::pack_scales(const ProductConstants& constants) {
  const size_t padded = size_t(layer_.blocks * kBlock);
  m_.assign(padded, 0);
  shift_.assign(padded, 32);
  half_.assign(padded, int64_t(1) << 31);
  left_.assign(padded, 0);
  for (int64_t r = 0; r < layer_.rows; ++r) {
    int32_t shift = constants.shift[r], left = 0;
    for (; shift < 32 && (most_[size_t(r)] << (left + 1)) <= kMostSum; ++shift) ++left;
    m_[size_t(r)] = constants.m[r];
    shift_[size_t(r)] = shift;
    left_[size_t(r)] = left;
    const int64_t lane = r % kBlock;
    half_[size_t(r - lane + lane % 2 * 8 + lane / 2)] = int64_t(1) << (shift - 1);
    slow_ = slow_ || shift < 32;
    if (left > 0) layer_.left = left_.data();
  }
  layer_.m = m_.data();
  layer_.shift = shift_.data();
  layer_.half = half_.data();
}

void Product::run(const Value& x_value, const uint8_t* x, bool readable, const Value& y_value,
                  uint8_t* room, void* y) const {
  const Instruction& i = instruction_;
  const int64_t positions = conv() ? y_value.d1 : y_value.d0;
  const bool in_place = x_value.swapped == conv() && i.dilation == 1 && i.pad_begin == 0 &&
                        i.pad_end == 0 && (readable || inputs_ % kStep == 0);
  const uint8_t* a = in_place ? x : field(x_value, x, positions, room);
  Job job{&layer_, a, a_stride_, positions, int32_t(i.zero), i.relu ? int32_t(i.zero) : 0,
          nullptr, nullptr, nullptr,
          room + field_bytes(x_value, positions) + sums_bytes(positions)};
  if (layer_.m && !slow_) {
    if (y_value.wide) job.q16 = static_cast<uint16_t*>(y);
    else job.q = static_cast<uint8_t*>(y);
    return kernels_->product(job);
  }
  void* sums = layer_.m ? room + field_bytes(x_value, positions) : y;
  job.acc = static_cast<int32_t*>(sums);
  kernels_->product(job);
  finish(y_value, positions, job.acc, y);
}

// Any shift; or only ReLU.
void Product::finish(const Value& y_value, int64_t positions, int32_t* acc, void* y) const {
  const int64_t rows = layer_.rows, zero = instruction_.zero, low = instruction_.relu ? zero : 0;
  for (int64_t e = 0; e < positions * rows; ++e) {
    const auto r = size_t(e % rows);
    if (layer_.m) {
      const int64_t numerator = int64_t(acc[e]) * (int64_t(1) << left_[r]) * m_[r];
      const int64_t q = rounded(numerator, shift_[r], zero, low, y_value.top());
      if (y_value.wide) static_cast<uint16_t*>(y)[e] = uint16_t(q);
      else static_cast<uint8_t*>(y)[e] = uint8_t(q);
    } else if (instruction_.relu) {
      acc[e] = std::max(acc[e], 0);
    }
  }
}

// The rows that the product reads, channels last, padded with x's zero, and readable behind.
const uint8_t* Product::field(const Value& from, const uint8_t* x, int64_t positions,
                              uint8_t* room) const {
  const Instruction& i = instruction_;
  Value to = from;
  to.swapped = conv();
  const int64_t before = i.pad_begin * channels_, after = i.pad_end * channels_;
  std::memset(room, int(zero_), size_t(before));
  copy(*kernels_, from, x, to, room + before);
  std::memset(room + before + from.size(), int(zero_), size_t(after) + kMargin);
  if (i.dilation == 1) return room;
  gather(room, positions, room + padded_bytes(from));
  return room + padded_bytes(from);
}

void Product::gather(const uint8_t* padded, int64_t positions, uint8_t* to) const {
  const Instruction& i = instruction_;
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t k = 0; k < i.kernel; ++k) {
      std::memcpy(to, padded + (p * i.stride + k * i.dilation) * channels_, size_t(channels_));
      to += channels_;
    }
  }
  std::memset(to, 0, kMargin);  // read, and multiplied by zeros
}

}  // namespace flwr_edge::integer
