#include "int_product.h"

#include <algorithm>
#include <cstring>

#include "int_steps.h"

namespace flwr_edge::integer {
namespace {

size_t lines(int64_t bytes) { return (size_t(bytes) + kMargin + 63) / 64 * 64; }

}  // namespace

std::string Product::prepare(const Kernels& kernels, const Instruction& i, const Value& x,
                             const Value& y, const ProductConstants& constants) {
  kernels_ = &kernels;
  instruction_ = i;
  x_ = x;
  y_ = y;
  const bool conv = i.op == Op::kConv;
  channels_ = conv ? x.d0 : x.d1;
  inputs_ = channels_ * i.kernel;
  positions_ = conv ? y.d1 : y.d0;
  if (std::string error = check_sums(constants); !error.empty()) return error;
  pack(constants);
  if (constants.m) {
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
  }
  const bool dilated = i.dilation > 1;
  padded_bytes_ = lines(conv ? (x.d1 + i.pad_begin + i.pad_end) * channels_ : x.size());
  field_bytes_ = padded_bytes_ + (dilated ? lines(positions_ * inputs_) : 0);
  slow_bytes_ = slow_ ? lines(positions_ * i.rows * 4) : 0;
  a_stride_ = conv && !dilated ? i.stride * channels_ : inputs_;
  return "";
}

// Whatever the input, a row's sum fits int32; then it may be made modulo 2^32.
std::string Product::check_sums(const ProductConstants& constants) const {
  for (int64_t r = 0; r < instruction_.rows; ++r) {
    int64_t up = 0, down = 0;
    for (int64_t k = 0; k < inputs_; ++k) {
      const int64_t w = constants.weights[r * inputs_ + k];
      (w > 0 ? up : down) += w > 0 ? w : -w;
    }
    const int64_t above = 255 - x_.zero, bias = constants.bias[r];
    const int64_t high = up * above + down * x_.zero + bias;
    const int64_t low = -(up * x_.zero + down * above) + bias;
    if (high > kMostSum || low < -kMostSum) {
      return "the sums of row " + std::to_string(r) + " may not fit 32 bits";
    }
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
    const int64_t start = constants.bias[r] - x_.zero * sum;
    start_[size_t(r)] = int32_t(uint32_t(uint64_t(start)));
    start_signed_[size_t(r)] = int32_t(uint32_t(uint64_t(start + 128 * sum)));
  }
  layer_ = {rows, blocks, steps, values_.data(), start_.data(), start_signed_.data(),
            nullptr, nullptr, nullptr};
}

void Product::pack_scales(const ProductConstants& constants) {
  const size_t padded = size_t(layer_.blocks * kBlock);
  m_.assign(padded, 0);
  shift_.assign(padded, 32);
  half_.assign(padded, int64_t(1) << 31);
  for (int64_t r = 0; r < layer_.rows; ++r) {
    m_[size_t(r)] = constants.m[r];
    shift_[size_t(r)] = constants.shift[r];
    const int64_t lane = r % kBlock;
    half_[size_t(r - lane + lane % 2 * 8 + lane / 2)] = int64_t(1) << (constants.shift[r] - 1);
    slow_ = slow_ || constants.shift[r] < 32;
  }
  layer_.m = m_.data();
  layer_.shift = shift_.data();
  layer_.half = half_.data();
}

void Product::run(const uint8_t* x, uint8_t* room, void* y) const {
  const Instruction& i = instruction_;
  Job job{&layer_, field(x, room), a_stride_, positions_, int32_t(i.zero),
          i.relu ? int32_t(i.zero) : 0, nullptr, nullptr};
  if (layer_.m && !slow_) {
    job.q = static_cast<uint8_t*>(y);
    return kernels_->product(job);
  }
  job.acc = static_cast<int32_t*>(layer_.m ? static_cast<void*>(room + field_bytes_) : y);
  kernels_->product(job);
  const int64_t rows = layer_.rows;
  for (int64_t p = 0; p < positions_; ++p) {
    int32_t* acc = job.acc + p * rows;
    for (int64_t r = 0; r < rows; ++r) {
      if (layer_.m) {
        static_cast<uint8_t*>(y)[p * rows + r] =
            rounded(int64_t(acc[r]) * m_[size_t(r)], shift_[size_t(r)], job.zero, job.low);
      } else if (i.relu) {
        acc[r] = std::max(acc[r], 0);
      }
    }
  }
}

// The rows that the product reads, channels last, padded with x's zero, and readable behind.
const uint8_t* Product::field(const uint8_t* x, uint8_t* room) const {
  const Instruction& i = instruction_;
  Value to = x_;
  to.swapped = i.op == Op::kConv;
  const int64_t before = i.pad_begin * channels_, after = i.pad_end * channels_;
  std::memset(room, int(x_.zero), size_t(before));
  copy(*kernels_, x_, x, to, room + before);
  std::memset(room + before + x_.size(), int(x_.zero), size_t(after) + kMargin);
  if (i.dilation == 1) return room;
  gather(room, room + padded_bytes_);
  return room + padded_bytes_;
}

void Product::gather(const uint8_t* padded, uint8_t* to) const {
  const Instruction& i = instruction_;
  for (int64_t p = 0; p < positions_; ++p) {
    for (int64_t k = 0; k < i.kernel; ++k) {
      std::memcpy(to, padded + (p * i.stride + k * i.dilation) * channels_, size_t(channels_));
      to += channels_;
    }
  }
  std::memset(to, 0, kMargin);  // read, and multiplied by zeros
}

}  // namespace flwr_edge::integer
