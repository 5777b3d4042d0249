// Mutated programs and constants of IntSequential: each is refused or runs, under sanitizers
// touches nothing else, and gives the same bits on every instruction set of this CPU.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fuzz.h"
#include "int_network.h"
#include "isa.h"

namespace {

using flwr_edge::integer::Code;
using flwr_edge::integer::Constant;
using flwr_edge::integer::Network;
using flwr_edge::integer::Program;
using flwr_edge::integer::Type;

struct Values {
  Type type;
  std::vector<int8_t> int8s;
  std::vector<int32_t> int32s;
  std::vector<int64_t> int64s;
  Constant constant() const {
    if (type == Type::kInt8) return {int8s.data(), int64_t(int8s.size()), type};
    if (type == Type::kInt32) return {int32s.data(), int64_t(int32s.size()), type};
    return {int64s.data(), int64_t(int64s.size()), type};
  }
};

Values int8s(size_t count) {
  Values v{Type::kInt8, std::vector<int8_t>(count), {}, {}};
  for (int8_t& each : v.int8s) each = int8_t(below(256) - 128);
  return v;
}

Values int32s(size_t count, int64_t low, int64_t high) {
  Values v{Type::kInt32, {}, std::vector<int32_t>(count), {}};
  for (int32_t& each : v.int32s) each = int32_t(low + below(high - low + 1));
  return v;
}

Values int64s(size_t count) {
  Values v{Type::kInt64, {}, {}, std::vector<int64_t>(count)};
  for (int64_t& each : v.int64s) each = below(int64_t(1) << 50) - (int64_t(1) << 49);
  return v;
}

constexpr int64_t kUnit = int64_t(1) << 30;

struct Case {
  Ints code, shape;
  int64_t result;
  int64_t longest = 0;  // more than 0: the first axis is free
  std::vector<Values> constants;
};

// Every instruction; a shift below 32 has a path of its own.
Case net(int least_shift, int dilation, int64_t result) {
  Case c;
  c.result = result;
  c.shape = {5, 19};
  const auto m = [](size_t n) { return int32s(n, kUnit, 2 * kUnit - 1); };
  c.constants = {int8s(33 * 3 * 5), int32s(33, -9999, 9999), m(33),
                 int32s(33, least_shift, 42),                       // 0 .. 3: conv
                 m(5), int32s(5, 32, 34),                           // 4, 5: pool, by position
                 int32s(33, -kUnit, kUnit), int64s(33),             // 6, 7: affine
                 m(1), int32s(1, 33, 36),                           // 8, 9: mean
                 int8s(7 * 71), int32s(7, -999, 999)};              // 10, 11: linear
  c.code = {1, 100,
            2, 0, 0, 1, 2, 3, 90, 1, 33, 3, 2, dilation, dilation, dilation,  // conv: (33, 10)
            4, 1, 1, 4, 5, 80, 2, 2, 1, 0,       // mean pool: (33, 5)
            8, 2, 6, 7, 31, 70, 1,               // affine
            7, 2, 3, kUnit, kUnit / 3, 31, 60, 0,  // add
            5, 4, 1, 8, 9, 100, 1, 0,            // mean: (33)
            5, 0, 0, -1, -1, 0, 1, 0,            // largest of the input: (5)
            4, 1, 0, -1, -1, 0, 3, 2, 1, 1,      // largest pool
            10, 4, 9, 8, 165, 0, 3, 9,           // transpose, reshape, relu
            9, 5, 33, 0,                         // reshape
            6, 0, 2, 5, 11,                      // concat: (66)
            9, 6, 1, 5, 9, 13, 5, 0,             // reshapes: (1, 5), (5)
            6, 0, 2, 12, 14,                     // concat: (71)
            1, 15, 10, 11, -1, -1, 0, 1, 7};     // linear: (7)
  return c;
}

// Every instruction of transformers, at a free length.
Case sequence(int64_t result) {
  constexpr int64_t kWide = 1 << 16;
  Case c;
  c.result = result;
  c.shape = {flwr_edge::integer::kFree, 10};
  c.longest = 40;
  const auto m = [](size_t n) { return int32s(n, kUnit, 2 * kUnit - 1); };
  c.constants = {int8s(18 * 10), int32s(18, -999, 999), m(18), int32s(18, 38, 40),  // 0 .. 3
                 int8s(10 * 18), int32s(10, -999, 999), int32s(10, 24, 36),         // 4 .. 6
                 int32s(10, -kUnit, kUnit), int64s(10),                             // 7, 8: norm
                 int32s(256, 0, 255), int32s(256, 0, 65535),                        // 9, 10: tables
                 m(1), int32s(1, 20, 40), m(10)};                                   // 11 .. 13
  c.code = {1, kWide + 30000,
            11, 0, kUnit, 38, 100,                        // rescale to 8 bits
            1, 1, 0, 1, 2, 3, 120, 0, 18,                 // linear: (L, 18)
            1, 1, 0, 1, 2, 3, 128, 0, 18,
            14, 2, 3, 2, 3, kUnit, 29, kUnit, 30, 110,    // attention: three heads of 6
            1, 4, 4, 5, 13, 6, kWide + 33000, 0, 10,      // linear to 16 bits: (L, 10)
            7, 0, 5, kUnit, kUnit / 3, 31, kWide + 30000, 0,
            13, 6, 7, 8, 42, 1000, 0, kWide + 32000,      // norm
            11, 7, kUnit, 37, 128,
            12, 8, 9, 90,                                 // tables
            12, 8, 10, kWide + 40000,
            13, 9, 7, 8, 40, 0, 1, 60,                    // by the root of squares, to 8 bits
            3, 10,                                        // relu of 16 bits
            6, 1, 2, 10, 12,                              // concat: (L, 20)
            5, 13, 1, 11, 12, kWide + 40000, 0, 0,        // mean over the free axis
            5, 12, 0, -1, -1, 0, 0, 0,
            5, 7, 1, 11, 12, kWide + 40000, 1, 1};        // mean a position
  return c;
}

// Gates, parts and constants, channels last and not.
Case gates(int64_t result) {
  Case c;
  c.result = result;
  c.shape = {6, 13};
  const auto m = [](size_t n) { return int32s(n, kUnit, 2 * kUnit - 1); };
  c.constants = {int8s(8 * 3 * 6), int32s(8, -999, 999), m(8), int32s(8, 33, 40),  // 0 .. 3: conv
                 int32s(8 * 14, 0, 255), int32s(8, 0, 65535),                      // 4, 5
                 m(1), int32s(1, 33, 36)};                                         // 6, 7: mean
  constexpr int64_t kWide = 1 << 16;
  c.code = {1, 100,
            2, 0, 0, 1, 2, 3, 90, 0, 8, 3, 1, 1, 1, 1,   // conv: (8, 13), channels last
            5, 1, 1, 6, 7, 100, 1, 1,                    // mean: (8, 1)
            15, 1, 2, kUnit / 2, 36, 100, 1,             // (C, L) by (C, 1)
            17, 4, 8, 14, 70,                            // constant: (8, 14)
            16, 4, 1, 1, 13,                             // (8, 13)
            15, 1, 5, kUnit, 38, kWide + 30000, 0,       // of two orders, to 16 bits
            5, 3, 1, 6, 7, 100, 0, 1,                    // mean: (1, 13)
            15, 7, 2, kUnit, 38, 90, 0,                  // (1, L) by (C, 1)
            16, 6, 0, 2, 5,                              // (5, 13), of 16 bits
            15, 9, 9, kUnit, 40, kWide + 9, 0,           // of 16 bits both
            17, 5, 8, 0, kWide + 7,                      // constant: (8)
            9, 11, 8, 1,                                 // reshape: (8, 1)
            15, 8, 12, kUnit, 45, kWide + 100, 0,
            16, 11, 0, 3, 2};                            // (2)
  return c;
}

// Those at a free length.
Case free_gates(int64_t result) {
  Case c;
  c.result = result;
  c.shape = {flwr_edge::integer::kFree, 10};
  c.longest = 40;
  c.constants = {int32s(10, 0, 255), int32s(1, kUnit, 2 * kUnit - 1), int32s(1, 20, 40)};
  c.code = {1, 90,
            16, 0, 0, 0, 1,                     // the first position: (1, 10)
            15, 0, 1, kUnit, 37, 70, 0,         // (L, 10)
            5, 2, 1, 1, 2, 50, 1, 1,            // mean: (L, 1)
            15, 3, 1, kUnit, 37, 99, 1,         // (L, 1) by (1, 10)
            17, 0, 1, 10, 128,
            15, 5, 4, kUnit, 36, 128, 0,
            16, 6, 1, 2, 7};                    // (L, 7)
  return c;
}

// LSTM and GRU, of 16 bits and of 8, of one way and of both, at a free length.
Case recurrent(int64_t result) {
  constexpr int64_t kWide = 1 << 16;
  Case c;
  c.result = result;
  c.shape = {flwr_edge::integer::kFree, 6};
  c.longest = 20;
  const auto m = [](size_t n) { return int32s(n, kUnit, 2 * kUnit - 1); };
  const auto rows = [](size_t n) { return int32s(n, 0, kUnit); };
  c.constants = {int8s(40 * 6), int32s(40, -999, 999), m(40), int32s(40, 24, 30),  // 0 .. 3
                 int32s(257, 0, 1 << 15),                                          // 4: table
                 int8s(20 * 5), int32s(20, -999, 999), rows(20),                   // 5 .. 7
                 int8s(20 * 5), int32s(20, -999, 999), rows(20),                   // 8 .. 10
                 int8s(21 * 10), int32s(21, -999, 999), m(21), int32s(21, 37, 39),  // 11 .. 14
                 int8s(21 * 7), int32s(21, -999, 999), rows(21)};                  // 15 .. 17
  std::sort(c.constants[4].int32s.begin(), c.constants[4].int32s.end());
  c.code = {1, 90,
            1, 0, 0, 1, 2, 3, kWide + 30000, 0, 40,                                // linear
            18, 1, 5, 3, 4, kUnit / 3, 30, kUnit, 53, 120, 5, 6, 7, 8, 9, 10,      // (L, 10)
            1, 2, 11, 12, 13, 14, 128, 0, 21,
            19, 3, 7, 2, 4, kUnit / 3, 27, kUnit, 38, 100, 15, 16, 17,             // (L, 7)
            19, 3, 7, 1, 4, kUnit / 3, 27, kUnit, 38, 100, 15, 16, 17};
  return c;
}

void mutate(Values* v) {
  const auto change = [](auto* list) {
    if (below(4) == 0) return list->resize(size_t(below(80)));
    if (list->empty()) return;
    auto& each = (*list)[size_t(below(int64_t(list->size())))];
    each = std::remove_reference_t<decltype(each)>(random_bits() >> below(64));
  };
  if (v->type == Type::kInt8) change(&v->int8s);
  else if (v->type == Type::kInt32) change(&v->int32s);
  else change(&v->int64s);
}

enum class End { kRefused, kRan, kDiffers };

// At any length that it allows.
End run(const Case& c, std::string* why) {
  const Code code{c.code, c.shape, c.result};
  const bool free = !c.shape.empty() && c.shape[0] == flwr_edge::integer::kFree;
  const int64_t longest = free ? c.longest : 1;
  Program program;
  *why = parse_program(code, longest, &program);
  if (!why->empty()) return End::kRefused;
  if (program.work > (1 << 24) || program.scratch > (1 << 22)) return End::kRefused;  // but slow
  const int64_t length = free ? 1 + below(longest) : 1;
  if (!parse_program(code, length, &program).empty()) return *why = "a length", End::kDiffers;
  std::vector<Constant> constants;
  for (const Values& each : c.constants) constants.push_back(each.constant());
  const int64_t batch = 2;
  std::vector<uint8_t> x(size_t(batch) * program.values[0].bytes()), first;
  for (uint8_t& each : x) each = uint8_t(below(256));
  for (const flwr_edge::Isa* isa : flwr_edge::isas()) {
    const auto network = Network::create(isa->name, code, longest, constants, why);
    if (!network) return End::kRefused;
    std::vector<uint8_t> y(size_t(batch) * program.values[size_t(program.result)].bytes());
    network->run(x.data(), batch, length, y.data(), flwr_edge::Pool{});
    if (first.empty()) first = y;
    if (first != y) return *why = isa->name, End::kDiffers;
  }
  return End::kRan;
}

}  // namespace

int main(int count, char** arguments) {
  const int64_t rounds = count > 1 ? std::atoll(arguments[1]) : 20000;
  std::vector<Case> all;
  for (int64_t result : {1, 4, 9, 16}) {
    all.push_back(net(33, 1, result));
    all.push_back(net(20, 2, result));
  }
  for (int64_t result : {8, 13, 14, 15, 16, 12}) all.push_back(sequence(result));
  for (int64_t result : {3, 6, 8, 10, 13, 14}) all.push_back(gates(result));
  for (int64_t result : {4, 6, 7}) all.push_back(free_gates(result));
  for (int64_t result : {2, 4, 5}) all.push_back(recurrent(result));
  std::string why;
  for (const Case& c : all) {
    if (run(c, &why) != End::kRan) return std::printf("a sound program: %s\n", why.c_str()), 1;
  }
  int64_t ran = 0;
  for (int64_t i = 0; i < rounds; ++i) {
    Case c = all[size_t(below(int64_t(all.size())))];
    for (int64_t k = below(3); k >= 0; --k) {
      const int64_t what = below(10);
      if (what < 6) mutate(&c.code);
      else if (what == 6 && below(2)) mutate(&c.shape);
      else if (what == 6) c.longest = below(4) ? below(100) : int64_t(random_bits());
      else if (what == 7) c.result = below(20) - 1;
      else mutate(&c.constants[size_t(below(int64_t(c.constants.size())))]);
    }
    const End end = run(c, &why);
    if (end == End::kDiffers) return std::printf("%s differs\n", why.c_str()), 1;
    ran += end == End::kRan;
  }
  std::printf("%lld mutated programs: %lld ran, the rest were refused\n", (long long)rounds,
              (long long)ran);
  return 0;
}
