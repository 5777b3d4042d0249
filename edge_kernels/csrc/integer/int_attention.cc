#include "int_attention.h"

#include <algorithm>
#include <cstring>

#include "int_steps.h"

namespace flwr_edge::integer {
namespace {

constexpr int64_t kRows = 32;  // of queries at a time
constexpr int32_t kVanished = 17 << 16;
constexpr int kSumBits = 23;  // of a row's weights, for its sums to fit 32 bits

int64_t groups(int64_t count, int64_t size) { return (count + size - 1) / size; }
size_t lines(int64_t bytes) { return (size_t(bytes) + kMargin + 63) / 64 * 64; }

// A product whose weights are values less 128.
struct Packed {
  Layer layer;
  int8_t* values;
  int32_t *start, *start_signed;
  int16_t* words;

  static size_t bytes(int64_t rows, int64_t inputs) {
    const int64_t blocks = groups(rows, kBlock), count = blocks * groups(inputs, kStep) * 64;
    return lines(count) + 2 * lines(blocks * kBlock * 4) + lines(count * 2);
  }

  Packed(int64_t rows, int64_t inputs, uint8_t* room) {
    const int64_t blocks = groups(rows, kBlock), steps = groups(inputs, kStep);
    values = reinterpret_cast<int8_t*>(room);
    room += lines(blocks * steps * kBlock * kStep);
    start = reinterpret_cast<int32_t*>(room);
    start_signed = reinterpret_cast<int32_t*>(room + lines(blocks * kBlock * 4));
    words = reinterpret_cast<int16_t*>(room + 2 * lines(blocks * kBlock * 4));
    layer = {rows,    blocks,  steps,   values,  start, start_signed,
             nullptr, nullptr, nullptr, nullptr, words};
    std::memset(values, 0, size_t(blocks * steps * kBlock * kStep));
    std::fill_n(start, blocks * kBlock, 0);
    std::fill_n(start_signed, blocks * kBlock, 0);
  }

  void widen() {
    std::copy_n(values, layer.blocks * layer.steps * kBlock * kStep, words);
  }
};

constexpr uint32_t kLess128 = 0x80808080u;

// Keys: row j of the product is row j of k. A query's own part of the sums is left out: it is the
// same for all of its scores.
void pack_keys(const uint8_t* k, int64_t stride, int64_t width, int32_t zero_x, int32_t zero_k,
               const Packed& to) {
  const int64_t whole = width / kStep;
  for (int64_t j = 0; j < to.layer.rows; ++j) {
    const uint8_t* from = k + j * stride;
    int8_t* row = to.values + (j / kBlock * to.layer.steps * kBlock + j % kBlock) * kStep;
    int32_t sum = 0;
    for (int64_t d = 0; d < width; ++d) sum += from[d];
    for (int64_t step = 0; step < whole; ++step) {
      uint32_t four;
      std::memcpy(&four, from + step * kStep, kStep);
      four ^= kLess128;
      std::memcpy(row + step * kBlock * kStep, &four, kStep);
    }
    for (int64_t d = whole * kStep; d < width; ++d) {
      row[whole * kBlock * kStep + d % kStep] = int8_t(from[d] - 128);
    }
    to.start[j] = -zero_x * (sum - int32_t(width) * zero_k);
    to.start_signed[j] = to.start[j] + 128 * (sum - 128 * int32_t(width));
  }
}

// Values: row d of the product is column d of v.
void pack_values(const uint8_t* v, int64_t stride, int64_t count, const Packed& to) {
  const int64_t steps = to.layer.steps, width = to.layer.rows;
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t inside = std::min<int64_t>(kStep, count - step * kStep);
    const uint8_t* from[kStep];
    for (int64_t j = 0; j < kStep; ++j) {
      from[j] = v + (step * kStep + std::min(j, inside - 1)) * stride;
    }
    const uint32_t mask = inside == kStep ? ~0u : (1u << (8 * inside)) - 1;
    for (int64_t block = 0; block < to.layer.blocks; ++block) {
      const int64_t left = std::min<int64_t>(kBlock, width - block * kBlock);
      uint32_t fours[kBlock] = {};
      for (int64_t d = 0; d < left; ++d) {
        const int64_t at = block * kBlock + d;
        fours[d] = (uint32_t(from[0][at]) | uint32_t(from[1][at]) << 8 |
                    uint32_t(from[2][at]) << 16 | uint32_t(from[3][at]) << 24) ^ kLess128;
        fours[d] &= mask;
      }
      std::memcpy(to.values + (block * steps + step) * kBlock * kStep, fours, sizeof fours);
      for (int64_t d = 0; d < left; ++d) {
        int32_t sum = 0;
        for (int64_t j = 0; j < inside; ++j) sum += from[j][block * kBlock + d] - 128;
        to.start_signed[block * kBlock + d] += 128 * sum;
      }
    }
  }
}

// From here on a weight is nothing.
int32_t limit_of(const Scale& scale) {
  if (scale.m == 0) return INT32_MAX;
  __extension__ using Wide = unsigned __int128;
  const Wide least = ((Wide(kVanished) << scale.shift) + Wide(scale.m) - 1) / Wide(scale.m);
  return least < Wide(INT32_MAX) ? int32_t(least) : INT32_MAX;
}

struct Room {
  int64_t seen, width, value_width;
  size_t keys() const { return Packed::bytes(seen, width); }
  size_t values() const { return Packed::bytes(value_width, seen); }
  size_t query() const { return lines(kRows * groups(width, kStep) * kStep); }
  size_t scores() const { return lines(kRows * seen * 4); }
  int64_t padded() const { return groups(seen, kStep) * kStep; }
  size_t weights() const { return lines(2 * kRows * padded()); }
  size_t sums() const { return lines(2 * kRows * value_width * 4); }
  size_t words() const {
    return std::max(product_room(groups(width, kStep) * kStep, kRows, groups(width, kStep)),
                    product_room(padded(), 2 * kRows, groups(seen, kStep)));
  }
  size_t all() const {
    return keys() + values() + query() + scores() + weights() + sums() + words();
  }
};

Room room_of(const Instruction& i, const Value& x, const Value& k, const Value& v) {
  return {k.d0, x.d1 / i.heads, v.d1 / i.heads};
}

class Head {
 public:
  Head(const Kernels& kernels, const Instruction& i, const Heads& heads, const Room& sizes,
       int64_t head, uint8_t* room)
      : kernels_(kernels), i_(i), heads_(heads), sizes_(sizes), head_(head),
        keys_(sizes.seen, sizes.width, room),
        values_(sizes.value_width, sizes.seen, room + sizes.keys()),
        query_(room + sizes.keys() + sizes.values()),
        scores_(reinterpret_cast<int32_t*>(query_ + sizes.query())),
        weights_(query_ + sizes.query() + sizes.scores()),
        sums_(reinterpret_cast<int32_t*>(weights_ + sizes.weights())),
        room_(weights_ + sizes.weights() + sizes.sums()) {
    pack_keys(heads.k_data + head * sizes.width, heads.k.d1, sizes.width, int32_t(heads.x.zero),
              int32_t(heads.k.zero), keys_);
    pack_values(heads.v_data + head * sizes.value_width, heads.v.d1, sizes.seen, values_);
    std::memset(weights_, 0, sizes.weights());
    if (!kernels.words) return;
    keys_.widen();
    values_.widen();
  }

  // Queries first .. first + count - 1.
  void run(int64_t first, int64_t count, int32_t limit, uint8_t* y) const {
    const int64_t stride = groups(sizes_.width, kStep) * kStep;
    for (int64_t row = 0; row < count; ++row) {
      const uint8_t* from = heads_.x_data + (first + row) * heads_.x.d1 + head_ * sizes_.width;
      std::memcpy(query_ + row * stride, from, size_t(sizes_.width));
      std::memset(query_ + row * stride + sizes_.width, 0, size_t(stride - sizes_.width));
    }
    kernels_.product({&keys_.layer, query_, stride, count, 0, 0, nullptr, nullptr, scores_, room_});
    int64_t totals[kRows];
    const int64_t padded = sizes_.padded();
    for (int64_t row = 0; row < count; ++row) {
      totals[row] = kernels_.exponentials(scores_ + row * sizes_.seen, sizes_.seen,
                                          {i_.m_x, int(i_.shift)}, limit, weights_ + row * padded,
                                          weights_ + (count + row) * padded);
    }
    kernels_.product({&values_.layer, weights_, padded, 2 * count, 0, 0, nullptr, nullptr, sums_,
                      room_});
    for (int64_t row = 0; row < count; ++row) finish(first + row, row, count, totals[row], y);
  }

 private:
  void finish(int64_t at, int64_t row, int64_t count, int64_t total, uint8_t* y) const {
    const int bits = 64 - __builtin_clzll(uint64_t(total)), less = std::max(bits - kSumBits, 0);
    const int64_t width = sizes_.value_width, m = (i_.m_y << (bits - 1)) / total;
    const Weighted sums{sums_ + row * width, sums_ + (count + row) * width,
                        (128 - heads_.v.zero) * total, less,
                        {m, int(i_.shift_y) + bits - 1 - less}};
    const int64_t to = at * heads_.v.d1 + head_ * width;
    kernels_.weighted(sums, width, target(i_, y + to * (i_.wide ? 2 : 1)));
  }

  const Kernels& kernels_;
  const Instruction& i_;
  const Heads& heads_;
  const Room& sizes_;
  int64_t head_;
  Packed keys_, values_;
  uint8_t* query_;
  int32_t* scores_;
  uint8_t* weights_;
  int32_t* sums_;
  uint8_t* room_;
};

}  // namespace

size_t attention_scratch(const Instruction& i, const Value& x, const Value& k, const Value& v) {
  return room_of(i, x, k, v).all();
}

void attention(const Kernels& kernels, const Instruction& i, const Heads& heads, uint8_t* room,
               uint8_t* y) {
  const Room sizes = room_of(i, heads.x, heads.k, heads.v);
  const int32_t limit = limit_of({i.m_x, int(i.shift)});
  for (int64_t head = 0; head < i.heads; ++head) {
    const Head one(kernels, i, heads, sizes, head, room);
    for (int64_t first = 0; first < heads.x.d0; first += kRows) {
      one.run(first, std::min(kRows, heads.x.d0 - first), limit, y);
    }
  }
}

}  // namespace flwr_edge::integer
