// What every instruction set implements. Each does the same arithmetic to the bit.
//
// The integer stage is exact. The float stage runs row by row over the tiles of the inputs in
// order, with these operations and no others (FMA means one rounding), so that all instruction
// sets, batch sizes and thread counts give the same bits:
//
//   for tile t, for each scale of the tile (two for group 32, each over 32 inputs):
//     I = sum q a, S = sum a                           (int32; a: int8 activations)
//     kSymmetric: u = float(bits == 1 ? 2 I - S : I - 2^(bits-1) S);  kTernary: u = float(I - S)
//     kZeroPoints: u = fma(-z, float(S), float(I))
//     group > 0: acc = fma(u * sa[t], float(scale), acc);   group 0: acc = fma(u, sa[t], acc)
//   group 0: acc *= row scale
//   y = acc * multiplier + bias;  ReLU: y < 0 ? 0 : y       (NaN stays)
//
// gemv and gemm yield `acc` before its row scale; finish() does the rest.
#pragma once

#include <array>
#include <vector>

#include "layout.h"

namespace flwr_edge {

// One row of activations, quantized: padded to whole tiles with zeros.
struct Activation {
  const int8_t* q;        // [64 tiles]
  const float* scale;     // sa [tiles]: largest |x| of the tile / 127
  const int32_t* sums;    // [tiles][2]: sum of q over each half of a tile
  // Lookup tables of four inputs each, entry n = sum of those q whose bit is set in n, in
  // [-508, 508] = low + 64 high: low in 0..63, high in -8..7.
  const uint8_t* low;     // [tiles][16 groups][16 entries]
  const int8_t* high;     // the same shape
  // Fast mode instead: entry n = sum of +q where its bit is set in n and -q where it is not, as
  // int8 in [-63, 63] times 2 step; low and high are null.
  const int8_t* fast;     // [tiles][16][16] or null
  const float* step;      // [tiles]
  // Tables that Isa::own_tables made, or null; low and high are null then.
  const uint8_t* own;
};

struct Gemv {
  const Weights* weights;
  const Activation* x;
  float* acc;             // [64 (end - begin)], written
  int64_t begin, end;     // tiles of rows
};

// Bytes from the line that the dot product of 4 bits reads to the one that it prefetches: 2 KB, best
// on Intel; on AMD four lines: measured on Zen 4, where 2 KB take 1.2 times as long from the
// last-level cache and 1.4 to 2 times from memory, and four lines as long as none.
size_t prefetch_distance();

// Tiles from the one that is unpacked to the one that is prefetched: as many as run_gemm unpacks at a
// time, so that an int8 product lies between, long enough for memory. An even number: of two tiles
// of group 128 one has no scales.
constexpr int64_t kUnpackedAhead = 4;

// Rows of activations times one tile of rows that is already unpacked.
struct Gemm {
  const Weights* weights;
  int64_t row_tile;
  int64_t begin, end;     // tiles of inputs
  const int8_t* values;   // unpacked [end - begin][4096]
  const int32_t* value_sums;  // [end - begin][2][64]
  const uint8_t* a;       // q + 128; row i starts at a + i * a_stride; readable to a whole tile
  int64_t a_stride;       // bytes; smaller than a row where rows overlap (convolution)
  int64_t m;
  const float* scale;     // sa of row i, tile t: scale[i * scale_stride + t * scale_step]
  int64_t scale_stride, scale_step;  // scale_step 0: one scale for all tiles
  const int32_t* sums;    // S of row i, tile t, half h: sums[(i * input_tiles + t) * 2 + h];
                          // null unless the weights have zero points
  float* acc;             // [m][64], read and written
};

// By bit width: up to so many rows of activations, gemv a row at a time is faster than gemm. These
// were so on Zen 4 once; they are for what was not measured since, and for the fast mode everywhere:
// gemm has none, so that its bits would depend on the instruction set.
using RowsByBits = std::array<int64_t, 5>;
constexpr RowsByBits kGemvRows = {0, 12, 5, 3, 6};
constexpr int64_t kAllRows = INT64_MAX;

struct Isa {
  const char* name;
  // x [inputs] -> q, scale, sums as in Activation; q padded with zeros. A tile whose largest |x|
  // is below 2^-100 becomes zeros with scale 0. q = round-half-even(x * (127 / largest)).
  // Returns false, with the outputs unspecified, if any x is NaN or infinite.
  bool (*quantize)(const float* x, int64_t inputs, int8_t* q, float* scale, int32_t* sums);
  // Null where there are own_tables.
  void (*tables)(const int8_t* q, int64_t tiles, uint8_t* low, int8_t* high);
  // step = largest |sum| of the tile / 126; entry = round-half-even(sum * (63 / largest)).
  void (*fast_tables)(const int8_t* q, int64_t tiles, int8_t* fast, float* step);
  // 1, 2, 3 bits: by lookup, I = sum over planes of 2^p times the looked-up sum. 4 bits: by dot
  // product; low, high and fast are not read.
  // Fast mode: I' is made of fast entries, and f = float(I') * step[t] is nearly
  // I - (2^bits - 1) / 2 S. Signed sums, as T-MAC's: their spread is half that of subsets'.
  //   1 bit: u = f + f; else symmetric: u = f - S / 2; ternary: u = f + S / 2;
  //   zero points: u = fma(-z, float(S), f + (2^bits - 1) / 2 S).   (Halves of S are exact.)
  void (*gemv)(const Gemv& job);
  // Tile -> values[16 steps][64 rows][4 inputs] as int8: the code's value (kZeroPoints: the code);
  // 0 where the input is padding. value_sums [2 halves][64 rows]: their sums; for one-scale tiles
  // the whole sum stands in half 0 and half 1 is 0.
  void (*unpack)(const Weights& weights, int64_t row_tile, int64_t tile, int8_t* values,
                 int32_t* value_sums);
  void (*gemm)(const Gemm& job);
  RowsByBits rows = kGemvRows, zen_rows = kGemvRows;  // of AMD's CPUs
  // Exact tables in a form that only this gemv reads: own_bytes a tile, whole lines.
  void (*own_tables)(const int8_t* q, int64_t tiles, uint8_t* to) = nullptr;
  size_t own_bytes = 0;
  // Unpacks tile t, and does with the first fused_rows rows of the job what gemm would do with this
  // tile; job.values and job.value_sums are not looked at. Null: it would gain nothing.
  void (*unpack_and_multiply)(const Gemm& job, int64_t t, int8_t* values, int32_t* value_sums) =
      nullptr;
  int64_t fused_rows = 0;
};

// Null where the CPU lacks it or the build leaves it out.
const Isa* scalar_isa();
const Isa* avx2_isa();
const Isa* avxvnni_isa();     // AVX2 and AVX-VNNI
const Isa* avx512_isa();      // F, BW, DQ, VL
const Isa* avx512vnni_isa();  // and VBMI, VNNI
const Isa* neon_isa();        // ARMv8.0
const Isa* neon_dot_isa();    // ARMv8.2 dot product

// What this CPU and build can run, the best first.
std::vector<const Isa*> isas();

// Up to how many rows of activations gemv is faster, on this CPU.
const RowsByBits& gemv_rows(const Isa& isa);

// The best of this CPU, or the one that FLWR_EDGE_ISA names. Read once.
// On an unknown or unsupported name: null, and why in *error.
const Isa* best_isa(const char** error);

}  // namespace flwr_edge
