// A position of an LSTM or a GRU. Each instruction set's file compiles these loops for itself, as
// those of int_rows.h.
#pragma once

#include "int_rows.h"

namespace flwr_edge::integer {
namespace {

constexpr int64_t kMostGate = (1 << 30) - 1, kMostCell = 1 << 30;

inline int32_t clamped(int64_t x, int64_t most) {
  return int32_t(x < -most ? -most : x > most ? most : x);
}

inline int32_t sigmoid(int32_t g, const int32_t* table) {
  const int32_t size = g < 0 ? -g : g, u = size < 65535 ? size : 65535;
  const int32_t i = u >> 8, f = u & 255;
  const int32_t v = table[i] + (((table[i + 1] - table[i]) * f + 128) >> 8);
  return g >= 0 ? v : kOne - v;
}

inline int32_t tangent(int32_t g, const int32_t* table) { return 2 * sigmoid(2 * g, table) - kOne; }

// Gates begin to end, of what is read, of the state, or of both.
template <bool kRead, bool kState>
void gate_rows(const Cell& cell, int64_t begin, int64_t end, int32_t* gates) {
  const int64_t half = int64_t(1) << (cell.shift - 1);
  const auto m_x = int32_t(cell.m_x);
  const int shift = cell.shift;
  by_type(cell.x.wide, [&](auto* x_type) {
    const auto* x = numbers(cell.x, x_type);
    const int32_t zero = cell.x.zero;
    const int32_t *sums = cell.sums, *m = cell.m;
    for (int64_t i = begin; i < end; ++i) {
      int64_t sum = kRead ? int64_t(int32_t(x[i]) - zero) * m_x : 0;
      if (kState) sum += int64_t(sums[i]) * m[i];
      gates[i] = clamped(shifted(sum + half, shift), kMostGate);
    }
  });
}

void lstm_cell(const Cell& cell) {
  const int64_t n = cell.width;
  int32_t* gates = cell.gates;
  gate_rows<true, true>(cell, 0, 4 * n, gates);
  const int32_t* table = cell.logistic;
  for (int64_t i = 0; i < 3 * n; ++i) gates[i] = sigmoid(gates[i], table);
  for (int64_t i = 3 * n; i < 4 * n; ++i) gates[i] = tangent(gates[i], table);
  const int32_t *in = gates, *out = gates + n, *forget = gates + 2 * n, *fresh = gates + 3 * n;
  int32_t* states = cell.states;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t moved = int64_t(forget[i]) * states[i] + in[i] * fresh[i];
    states[i] = clamped(shifted(moved + kOne / 2, kStateBits), kMostCell);
  }
  const Rounding by = rounding(cell.scale.shift, Target{nullptr, false, cell.zero, 0});
  const auto m = int32_t(cell.scale.m);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t made = out[i] * (2 * sigmoid((states[i] + 2) >> 2, table) - kOne);
    cell.y[i] = by.template to<uint8_t>(int64_t(made) * m);
  }
}

void gru_cell(const Cell& cell) {
  const int64_t n = cell.width;
  int32_t *gates = cell.gates, *states = cell.states;
  gate_rows<true, true>(cell, 0, 2 * n, gates);
  gate_rows<true, false>(cell, 2 * n, 3 * n, gates);
  gate_rows<false, true>(cell, 2 * n, 3 * n, gates + n);
  const int32_t* table = cell.logistic;
  const int32_t *kept = gates, *reset = gates + n, *read = gates + 2 * n, *held = gates + 3 * n;
  for (int64_t i = 0; i < 2 * n; ++i) gates[i] = sigmoid(gates[i], table);
  const Rounding by = rounding(cell.scale.shift, Target{nullptr, false, cell.zero, 0});
  const auto m = int32_t(cell.scale.m);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t of_state = shifted(int64_t(reset[i]) * held[i] + kOne / 2, kStateBits);
    const int32_t fresh = tangent(clamped(read[i] + of_state, kMostGate), table);
    const int64_t moved = int64_t(kept[i]) * states[i] + int64_t(kOne - kept[i]) * fresh;
    states[i] = clamped(shifted(moved + kOne / 2, kStateBits), kMostCell);
    cell.y[i] = by.template to<uint8_t>(int64_t(states[i]) * m);
  }
}

}  // namespace
}  // namespace flwr_edge::integer
