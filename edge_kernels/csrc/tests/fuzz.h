// What the fuzzers of programs share: a seeded source, and a list of numbers altered somewhere.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

using Ints = std::vector<int64_t>;

inline std::mt19937_64 random_bits(1);

inline int64_t below(int64_t n) { return int64_t(random_bits() % uint64_t(n)); }

inline void mutate(Ints* ints) {
  static const int64_t kOdd[] = {-1, 0, 1, 2, 3, 64, 1 << 26, int64_t(1) << 31,
                                 int64_t(1) << 62, INT64_MIN, INT64_MAX};
  if (ints->empty()) return;
  const auto at = size_t(below(int64_t(ints->size())));
  switch (below(8)) {
    case 0: ints->erase(ints->begin() + int64_t(at)); break;
    case 1: ints->insert(ints->begin() + int64_t(at), below(12)); break;
    case 2: (*ints)[at] = kOdd[below(11)]; break;
    case 3: (*ints)[at] = int64_t(uint64_t((*ints)[at]) + uint64_t(below(3) - 1)); break;
    default: (*ints)[at] = below(40) - 1; break;
  }
}
