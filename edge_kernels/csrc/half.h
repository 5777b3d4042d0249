// fp16 -> float, exactly.
#pragma once

#include <cstdint>
#include <cstring>

namespace flwr_edge {

inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  uint32_t bits;
  if (magnitude >= 0x7c00) {
    bits = 0x7f800000 | (magnitude & 0x3ff) << 13;  // infinity, NaN
  } else {
    // As a float with the exponent too small by 112: the product is exact, subnormals included.
    const uint32_t shifted = magnitude << 13;
    float value;
    std::memcpy(&value, &shifted, 4);
    value *= 0x1p112f;
    std::memcpy(&bits, &value, 4);
  }
  bits |= sign;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

inline float load_half(const uint8_t* address) {
  uint16_t half;
  std::memcpy(&half, address, 2);
  return half_to_float(half);
}

}  // namespace flwr_edge
