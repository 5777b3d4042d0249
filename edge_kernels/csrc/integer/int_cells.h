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

// Of each number in units of 2^-12, in place, in units of 2^-15.
[[maybe_unused]] void sigmoid_rows(int32_t* g, int64_t n, const uint32_t* table) {
  for (int64_t i = 0; i < n; ++i) {
    const int32_t size = g[i] < 0 ? -g[i] : g[i], u = size < 65535 ? size : 65535;
    const uint32_t both = table[u >> 8];
    const auto v = int32_t((both & 0xffff) + (((both >> 16) * uint32_t(u & 255) + 128) >> 8));
    g[i] = g[i] >= 0 ? v : kOne - v;
  }
}

using Sigmoids = void (*)(int32_t* g, int64_t n, const uint32_t* table);

template <Sigmoids sigmoids>
void tangents(int32_t* g, int64_t n, const uint32_t* table) {
  for (int64_t i = 0; i < n; ++i) g[i] *= 2;
  sigmoids(g, n, table);
  for (int64_t i = 0; i < n; ++i) g[i] = 2 * g[i] - kOne;
}

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

inline Rounding state_rounding(const Cell& cell) {
  return rounding(cell.scale.shift, Target{nullptr, false, cell.zero, 0});
}

template <Sigmoids sigmoids>
void lstm_cell(const Cell& cell) {
  const int64_t n = cell.width;
  int32_t* gates = cell.gates;
  gate_rows<true, true>(cell, 0, 4 * n, gates);
  sigmoids(gates, 3 * n, cell.logistic);
  tangents<sigmoids>(gates + 3 * n, n, cell.logistic);
  const int32_t *in = gates, *out = gates + n, *forget = gates + 2 * n;
  int32_t *fresh = gates + 3 * n, *states = cell.states;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t moved = int64_t(forget[i]) * states[i] + in[i] * fresh[i];
    states[i] = clamped(shifted(moved + kOne / 2, kStateBits), kMostCell);
    fresh[i] = (states[i] + 2) >> 2;  // twice it, in units of 2^-12
  }
  sigmoids(fresh, n, cell.logistic);
  const Rounding by = state_rounding(cell);
  const auto m = int32_t(cell.scale.m);
  for (int64_t i = 0; i < n; ++i) {
    cell.y[i] = by.template to<uint8_t>(int64_t(out[i] * (2 * fresh[i] - kOne)) * m);
  }
}

template <Sigmoids sigmoids>
void gru_cell(const Cell& cell) {
  const int64_t n = cell.width;
  int32_t *gates = cell.gates, *states = cell.states;
  gate_rows<true, true>(cell, 0, 2 * n, gates);
  gate_rows<true, false>(cell, 2 * n, 3 * n, gates);
  gate_rows<false, true>(cell, 2 * n, 3 * n, gates + n);
  sigmoids(gates, 2 * n, cell.logistic);
  const int32_t *kept = gates, *reset = gates + n, *held = gates + 3 * n;
  int32_t* fresh = gates + 2 * n;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t of_state = shifted(int64_t(reset[i]) * held[i] + kOne / 2, kStateBits);
    fresh[i] = clamped(fresh[i] + of_state, kMostGate);
  }
  tangents<sigmoids>(fresh, n, cell.logistic);
  const Rounding by = state_rounding(cell);
  const auto m = int32_t(cell.scale.m);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t moved = int64_t(kept[i]) * states[i] + int64_t(kOne - kept[i]) * fresh[i];
    states[i] = clamped(shifted(moved + kOne / 2, kStateBits), kMostCell);
    cell.y[i] = by.template to<uint8_t>(int64_t(states[i]) * m);
  }
}

}  // namespace
}  // namespace flwr_edge::integer
