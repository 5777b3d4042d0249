// The packed weights: what is on disk is what the kernels read, on every CPU.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flwr_edge {

constexpr int kTile = 64;  // rows and inputs of a tile; also the group of activations that share a scale
constexpr int kLine = 64;  // bytes
constexpr uint32_t kLayoutVersion = 1;
constexpr char kMagic[8] = {'F', 'L', 'W', 'R', 'L', 'U', 'T', '\0'};

// What a code q stands for, before its scale.
enum class Values : uint8_t {
  kSymmetric = 0,   // 1 bit: 2q - 1; more bits: q - 2^(bits - 1)
  kTernary = 1,     // 2 bits, q in {0, 1, 2}: q - 1
  kZeroPoints = 2,  // q - z, z stored beside the scale
};

// The first 64 bytes of a blob, little-endian.
struct Header {
  char magic[8];
  uint32_t version;
  uint8_t bits;    // 1, 2, 3, 4
  uint8_t values;  // Values
  uint16_t group;  // inputs that share a scale: 32, 64, 128; 0: the whole row
  uint32_t rows;   // N
  uint32_t inputs; // K
  uint64_t payload;   // bytes after the header
  float multiplier;   // of all scales; a power of two that keeps them in fp16's range
  uint8_t zero[28];
};
static_assert(sizeof(Header) == 64, "the header is one line");

// Payload: for each 64 rows, for each 64 inputs, a tile (rows and inputs padded with code 0, rows
// also with scale 0); at its end, for group 0 only, float32 row scales [rows padded to 64], then
// with kZeroPoints float32 row zero points likewise.
//
// A tile is its codes, then its scales, then with kZeroPoints its zero points, as fp16.
//   1, 2, 3 bits, planes: for each bit p, low bit first, eight lines. Line j holds inputs 8j..8j+7,
//     byte b the row plane_row(b): low nibble inputs 8j..8j+3, high nibble 8j+4..8j+7, input 8j+i
//     (8j+4+i) in bit i of the nibble.
//   4 bits, dwords: line 4j+r holds rows 16r..16r+15, inputs 8j..8j+7: byte 4i+c row 16r+i, low
//     nibble input 8j+c, high nibble input 8j+4+c.
//   Scales: group 64 [64 rows]; group 32 [2 halves of the inputs][64 rows]; group 128 [64 rows] in
//     tiles of even index only; group 0 none. Rows in natural order. Zero points alike.
//
// Even bytes interleaved with odd ones, and within a 128-bit lane the words of rows 4l.. and
// 16 + 4l..: so widening by byte parity and then by unpack-low and unpack-high yields rows in
// natural order in vectors of any width.
constexpr int plane_row(int byte) {
  const int odd = byte & 1, word = byte >> 1, lane = word >> 3, w = word & 7;
  return 32 * odd + 16 * (w >> 2) + 4 * lane + (w & 3);
}

// A view of a checked blob; owns nothing. The blob need not be aligned.
struct Weights {
  const uint8_t* tiles;       // first tile
  const float* row_scales;    // group 0, else null; may be unaligned: read by memcpy or loadu
  const float* row_zeros;     // group 0 with zero points, else null
  int64_t rows, inputs;       // N, K
  int64_t row_tiles, input_tiles;
  int bits, group;
  Values values;
  float multiplier;

  // Always inlined: units are compiled for different instruction sets, and a linker that merged
  // their copies could keep one that this CPU lacks.
#define FLWR_EDGE_INLINE __attribute__((always_inline))
  FLWR_EDGE_INLINE bool has_zeros() const { return values == Values::kZeroPoints; }
  FLWR_EDGE_INLINE int halves() const { return group == 32 ? 2 : 1; }  // scales of a tile
  FLWR_EDGE_INLINE size_t code_bytes() const { return size_t(bits) * 8 * kLine; }
  FLWR_EDGE_INLINE size_t scale_bytes(int64_t tile) const {
    if (group == 0 || (group == 128 && tile % 2)) return 0;
    return size_t(halves()) * kTile * 2 * (has_zeros() ? 2 : 1);
  }
  FLWR_EDGE_INLINE size_t tile_bytes(int64_t tile) const { return code_bytes() + scale_bytes(tile); }
  // Byte offset of a tile from the start of its row of tiles; of input_tiles: a whole row of tiles.
  FLWR_EDGE_INLINE size_t tile_offset(int64_t tile) const {
    const size_t scales = scale_bytes(0);
    const int64_t carriers = group == 128 ? (tile + 1) / 2 : tile;
    return size_t(tile) * code_bytes() + size_t(carriers) * scales;
  }
  FLWR_EDGE_INLINE const uint8_t* row_of_tiles(int64_t row_tile) const {
    return tiles + size_t(row_tile) * tile_offset(input_tiles);
  }
};

// Checks a blob and fills the view. Returns null, or what is wrong in one line (static storage).
const char* open_weights(const uint8_t* blob, size_t bytes, Weights* out);

}  // namespace flwr_edge
