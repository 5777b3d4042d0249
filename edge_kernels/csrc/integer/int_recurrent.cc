#include "int_recurrent.h"

#include <algorithm>
#include <cstring>

#include "int_steps.h"

namespace flwr_edge::integer {
namespace {

constexpr int64_t kEntries = 257;

size_t lines(int64_t bytes) { return (size_t(bytes) + kMargin + 63) / 64 * 64; }

}  // namespace

std::string Recurrence::prepare(const Kernels& kernels, const Instruction& i,
                                const int32_t* logistic, const std::vector<WayConstants>& ways) {
  kernels_ = &kernels;
  instruction_ = i;
  for (int64_t at = 0; at < kEntries; ++at) {
    if (logistic[at] < (at ? logistic[at - 1] : 0) || logistic[at] > kOne) {
      return "entry " + std::to_string(at) + " of its table is " + std::to_string(logistic[at]) +
             "; 0 to 32768 are possible, and none below the one before";
    }
    if (at) logistic_.push_back(uint32_t((logistic[at] - logistic[at - 1]) << 16 | logistic[at - 1]));
  }
  for (size_t number = 0; number < ways.size(); ++number) {
    const WayConstants& way = ways[number];
    for (int64_t row = 0; row < rows(); ++row) {
      if (way.m[row] < 0 || way.m[row] > kMostScale) {
        return "row " + std::to_string(row) + " has multiplier " + std::to_string(way.m[row]) +
               "; 0 to 2^30 are possible";
      }
    }
    Instruction linear{};
    linear.op = Op::kLinear;
    linear.rows = rows();
    Way made{Product{}, way.m, i.ways == 2 || number == 1};
    std::string wrong =
        made.product.prepare(kernels, linear, hidden(), {way.weights, way.bias, nullptr, nullptr});
    if (!wrong.empty()) return wrong;
    ways_.push_back(std::move(made));
  }
  return "";
}

Value Recurrence::hidden() const {
  Value value;
  value.flat = true;
  value.d1 = instruction_.rows;
  value.zero = instruction_.zero;
  return value;
}

Value Recurrence::sums() const {
  Value value;
  value.flat = true;
  value.d1 = rows();
  value.accumulators = true;
  return value;
}

// The first state, sums, gates and states, and the product's own.
size_t Recurrence::scratch() const {
  const int64_t width = instruction_.rows;
  return lines(width) + lines(rows() * 4) + lines((rows() + width) * 4) + lines(width * 4) +
         ways_[0].product.scratch(hidden(), sums());
}

void Recurrence::run(const Value& x_value, const uint8_t* x, uint8_t* room, uint8_t* y) const {
  for (size_t number = 0; number < ways_.size(); ++number) {
    run_way(number, x_value, x, room, y);
  }
}

void Recurrence::run_way(size_t number, const Value& x_value, const uint8_t* x, uint8_t* room,
                         uint8_t* y) const {
  const Instruction& i = instruction_;
  const Way& way = ways_[number];
  const int64_t width = i.rows, stride = width * int64_t(ways_.size()), count = x_value.d0;
  const auto take = [&room](size_t bytes) {
    uint8_t* taken = room;
    room += bytes;
    return taken;
  };
  uint8_t* first = take(lines(width));
  std::memset(first, int(i.zero), lines(width));
  auto* sums_of = reinterpret_cast<int32_t*>(take(lines(rows() * 4)));
  auto* gates = reinterpret_cast<int32_t*>(take(lines((rows() + width) * 4)));
  auto* states = reinterpret_cast<int32_t*>(take(lines(width * 4)));
  std::fill_n(states, width, 0);
  const Value h = hidden(), sums = this->sums();
  const size_t row = size_t(x_value.d1) * x_value.element();
  const size_t own = number * size_t(rows()) * x_value.element();
  const uint8_t* last = first;
  for (int64_t p = 0; p < count; ++p) {
    const int64_t t = way.reverse ? count - 1 - p : p;
    way.product.run(h, last, true, sums, room, sums_of);
    Source at = source(x_value, x + size_t(t) * row + own);
    uint8_t* to = y + size_t(t * stride) + number * size_t(width);
    const Cell cell{at,  sums_of, way.m, i.m_x, int(i.shift), logistic_.data(), {i.m_y, int(i.shift_y)},
                    width, gates, states, int32_t(i.zero), to};
    (i.op == Op::kGru ? kernels_->gru : kernels_->lstm)(cell);
    last = to;
  }
}

}  // namespace flwr_edge::integer
