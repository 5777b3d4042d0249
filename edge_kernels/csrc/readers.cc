#include "readers.h"

namespace flwr_edge {
namespace {

constexpr size_t kAhead = 2048;  // of the prefetch, as in the kernels

// As many sums as vectors in a block, at most eight, keep loads in flight and stay in registers:
// vectors wider than the CPU's would not. A macro, for a shared body would be split into narrow
// vectors before it is inlined into a function with a wider target.
#define FLWR_EDGE_READER(NAME, TARGET, WIDTH, AHEAD)                              \
  TARGET uint64_t NAME(const uint8_t* from, size_t bytes) {                       \
    typedef uint64_t Vec __attribute__((vector_size(WIDTH), may_alias));          \
    constexpr int sums = kReadBlock / WIDTH > 8 ? 8 : kReadBlock / WIDTH;         \
    Vec sum[sums] = {};                                                           \
    for (const uint8_t* end = from + bytes; from != end; from += kReadBlock) {    \
      if (AHEAD) {                                                                \
        for (size_t i = 0; i < kReadBlock; i += 64) __builtin_prefetch(from + AHEAD + i); \
      }                                                                           \
      _Pragma("GCC unroll 16")                                                    \
      for (size_t i = 0; i < kReadBlock / WIDTH; ++i) {                           \
        sum[i % sums] ^= *reinterpret_cast<const Vec*>(from + i * WIDTH);         \
      }                                                                           \
    }                                                                             \
    for (int i = 1; i < sums; ++i) sum[0] ^= sum[i];                              \
    uint64_t all = 0;                                                             \
    for (int i = 0; i < int(WIDTH / 8); ++i) all ^= sum[0][i];                    \
    return all;                                                                   \
  }

#if defined(__x86_64__)
FLWR_EDGE_READER(read_avx512, __attribute__((target("avx512f"))), 64, 0)
FLWR_EDGE_READER(read_avx512_ahead, __attribute__((target("avx512f"))), 64, kAhead)
FLWR_EDGE_READER(read_avx2, __attribute__((target("avx2"))), 32, 0)
FLWR_EDGE_READER(read_avx2_ahead, __attribute__((target("avx2"))), 32, kAhead)
#endif
FLWR_EDGE_READER(read_plain, , 16, 0)
FLWR_EDGE_READER(read_plain_ahead, , 16, kAhead)

}  // namespace

const Reader* readers() {
#if defined(__x86_64__)
  static const Reader avx512[kReaders] = {read_avx512_ahead, read_avx512};
  static const Reader avx2[kReaders] = {read_avx2_ahead, read_avx2};
  if (__builtin_cpu_supports("avx512f")) return avx512;
  if (__builtin_cpu_supports("avx2")) return avx2;
#endif
  static const Reader plain[kReaders] = {read_plain_ahead, read_plain};
  return plain;
}

}  // namespace flwr_edge
