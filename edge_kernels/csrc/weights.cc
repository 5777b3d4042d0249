#include <cmath>
#include <cstring>

#include "layout.h"

namespace flwr_edge {
namespace {

uint64_t payload_bytes(const Weights& w) {
  const uint64_t padded = uint64_t(w.row_tiles) * kTile;
  const uint64_t ends = w.group == 0 ? padded * 4 * (w.has_zeros() ? 2 : 1) : 0;
  return uint64_t(w.row_tiles) * w.tile_offset(w.input_tiles) + ends;
}

const char* check(const Header& h, size_t bytes) {
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0) return "weights are not in the packed layout (no FLWRLUT mark)";
  if (h.version != kLayoutVersion) return "weights are in another version of the packed layout; this library reads version 1";
  if (h.bits < 1 || h.bits > 4) return "bits must be 1, 2, 3 or 4";
  if (h.values > 2) return "values must be 0 (symmetric), 1 (ternary) or 2 (zero points)";
  if (h.values == 1 && h.bits != 2) return "ternary weights take 2 bits";
  if (h.group != 0 && h.group != 32 && h.group != 64 && h.group != 128) return "group must be 0 (a row), 32, 64 or 128";
  if (h.rows == 0 || h.inputs == 0) return "weights have no rows or no inputs";
  if (h.rows > (1u << 30) || h.inputs > (1u << 24)) return "weights are too large: at most 2^30 rows and 2^24 inputs";
  int exponent;
  if (std::frexp(h.multiplier, &exponent) != 0.5f) return "the scales' multiplier is not a power of two";
  for (uint8_t byte : h.zero) {
    if (byte) return "the header's reserved bytes are not zero";
  }
  if (h.payload != bytes - sizeof(Header)) return "weights are truncated or have bytes left over";
  return nullptr;
}

}  // namespace

const char* open_weights(const uint8_t* blob, size_t bytes, Weights* out) {
  Header h;
  if (bytes < sizeof h) return "weights are truncated: shorter than their header";
  std::memcpy(&h, blob, sizeof h);
  if (const char* wrong = check(h, bytes)) return wrong;
  Weights w{};
  w.bits = h.bits;
  w.group = h.group;
  w.values = Values(h.values);
  w.rows = h.rows;
  w.inputs = h.inputs;
  w.row_tiles = (w.rows + kTile - 1) / kTile;
  w.input_tiles = (w.inputs + kTile - 1) / kTile;
  w.multiplier = h.multiplier;
  if (payload_bytes(w) != h.payload) return "weights' size does not fit their rows, inputs, bits and group";
  w.tiles = blob + sizeof h;
  if (w.group == 0) {
    const uint8_t* ends = w.tiles + uint64_t(w.row_tiles) * w.tile_offset(w.input_tiles);
    w.row_scales = reinterpret_cast<const float*>(ends);
    if (w.has_zeros()) w.row_zeros = w.row_scales + w.row_tiles * kTile;
  }
  *out = w;
  return nullptr;
}

}  // namespace flwr_edge
