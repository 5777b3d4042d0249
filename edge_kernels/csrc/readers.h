// Readers of bytes that do nothing with them: what the benchmarks hold the kernels against.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flwr_edge {

constexpr size_t kReadBlock = 256;  // bytes of one turn of the loop; a size is a multiple of it

// Reads from an address that is a multiple of 64; returns a sum, or the reading would be left out.
using Reader = uint64_t (*)(const uint8_t* from, size_t bytes);

// For this CPU's widest vectors: [0] prefetches as the kernels do, [1] leaves it to the hardware.
// Which is faster depends on the CPU and on where the bytes lie.
constexpr int kReaders = 2;
const Reader* readers();

}  // namespace flwr_edge
