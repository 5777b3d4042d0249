#include "sequential_pointwise.h"

#include <algorithm>
#include <cstring>

namespace flwr_edge {
namespace {

float relu(float x) { return x < 0 ? 0 : x; }  // NaN stays

// The larger; NaN if there is one.
float larger(float most, float x) { return x > most || x != x ? x : most; }

// The largest or the sum of one place.
float reduce_one(bool largest, const float* x, int64_t length, int64_t step) {
  float result = x[0];
  for (int64_t k = 1; k < length; ++k) {
    result = largest ? larger(result, x[k * step]) : result + x[k * step];
  }
  return result;
}

bool same_order(const Value& a, const Value& b) {
  return a.stride0() == b.stride0() && a.stride1() == b.stride1();
}

}  // namespace

void sequential_relu(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = relu(x[i]);
}

void sequential_add(const Value& xv, const float* x, const Value& yv, const float* y, float* sum) {
  if (same_order(xv, yv)) {
    for (int64_t i = 0; i < xv.size(); ++i) sum[i] = x[i] + y[i];
    return;
  }
  for (int64_t i = 0; i < xv.d0; ++i) {
    for (int64_t j = 0; j < xv.d1; ++j) {
      const int64_t at = i * xv.stride0() + j * xv.stride1();
      sum[at] = x[at] + y[i * yv.stride0() + j * yv.stride1()];
    }
  }
}

void sequential_affine(const Instruction& i, const Value& v, const float* x, const float* scale,
                       const float* shift, float* y) {
  const int64_t inner = v.swapped ? v.d0 : v.d1, outer = v.size() / inner;
  const bool along_inner = (i.axis == 0) == v.swapped;
  for (int64_t o = 0; o < outer; ++o, x += inner, y += inner) {
    if (along_inner) {
      for (int64_t k = 0; k < inner; ++k) {
        const float scaled = scale ? x[k] * scale[k] : x[k];
        y[k] = shift ? scaled + shift[k] : scaled;
      }
    } else {
      for (int64_t k = 0; k < inner; ++k) {
        const float scaled = scale ? x[k] * scale[o] : x[k];
        y[k] = shift ? scaled + shift[o] : scaled;
      }
    }
    if (i.relu) sequential_relu(y, inner, y);
  }
}

void sequential_pool(const Instruction& i, const Value& from, const float* x, const Value& to,
                     float* y) {
  const int64_t channels = from.d0, c_step = from.stride0(), x_step = from.stride1();
  for (int64_t p = 0; p < to.d1; ++p) {
    float* out = y + p * to.stride1();
    const int64_t origin = p * i.stride - i.pad_begin;
    int64_t count = 0;
    for (int64_t tap = 0; tap < i.kernel; ++tap) {
      const int64_t at = origin + tap * i.dilation;
      if (at < 0 || at >= from.d1) continue;
      const float* in = x + at * x_step;
      for (int64_t c = 0; c < channels; ++c) {
        float& to_c = out[c * to.stride0()];
        const float value = in[c * c_step];
        to_c = count == 0 ? value : i.kind == 0 ? larger(to_c, value) : to_c + value;
      }
      ++count;
    }
    if (i.kind == 0) continue;
    // A window never runs beyond the end pad: counting the padding, it is the whole kernel.
    const float divisor = float(i.kind == 1 ? count : i.kernel);
    for (int64_t c = 0; c < channels; ++c) out[c * to.stride0()] /= divisor;
  }
}

void sequential_reduce(const SequentialKernels& kernels, const Instruction& i, const Value& from,
                       const float* x, float* y) {
  const int64_t length = i.axis == 0 ? from.d0 : from.d1, left = from.size() / length;
  const int64_t step = i.axis == 0 ? from.stride0() : from.stride1();
  const int64_t across = i.axis == 0 ? from.stride1() : from.stride0();
  const bool largest = i.kind == 0;
  if (across == 1) {
    kernels.reduce(largest, x, length, step, left, y);
  } else {
    for (int64_t c = 0; c < left; ++c) y[c] = reduce_one(largest, x + c * across, length, step);
  }
  if (i.kind == 0) return;
  for (int64_t c = 0; c < left; ++c) y[c] /= float(length);
}

void sequential_copy(const Value& from, const float* x, const Value& to, float* y) {
  const int64_t inner = to.swapped ? from.d0 : from.d1, outer = from.size() / inner;
  const int64_t to_outer = to.swapped ? to.stride1() : to.stride0();
  const int64_t in_step = to.swapped ? from.stride0() : from.stride1();
  const int64_t out_step = to.swapped ? from.stride1() : from.stride0();
  for (int64_t o = 0; o < outer; ++o) {
    const float* line = x + o * out_step;
    if (in_step == 1) {
      std::memcpy(y + o * to_outer, line, size_t(inner) * 4);
    } else {
      for (int64_t k = 0; k < inner; ++k) y[o * to_outer + k] = line[k * in_step];
    }
  }
}

}  // namespace flwr_edge
