// IntSequential's program: what it may say, and what it means. The arithmetic is that of
// edge_kernels/integer/net.py, whose steps these are, to the bit.
//
// A program is a list of int64. The first is the version, 1, the second the input's zero; then
// instructions follow, each an opcode and its operands. Value 0 is the node's input x, instruction
// i makes value i + 1, and an instruction reads earlier values only. A value has, for each sample,
// the shape (N), "flat", or (C, L), always named as ONNX would have it, whatever the order in
// memory; its elements are uint8, or uint16 where 2^16 is added to the zero, or where a product has
// no multipliers int32 accumulators, which none may read. Levels stay where no zero is given.
//
// C of (C, L) may be free: as long as each run's input, up to the node's `longest`. Everything is
// checked at the longest, and nothing takes more there than at any other length.
//
//   opcode        operands                                    result
//   1 linear      x w b m s zero relu n                       (K) -> (n), (L, K) -> (L, n)
//   2 conv        x w b m s zero relu n kernel stride         (C, L) -> (n, L')
//                 dilation pad_begin pad_end
//   3 relu        x                                           the same shape
//   4 pool        x mean m s zero kernel stride               (C, L) -> (C, L')
//                 pad_begin pad_end
//   5 reduce      x mean m s zero axis keep                   (C, L) -> (L) for axis 0, (C) for 1;
//                                                             keep: (1, L), (C, 1). (N) -> (1)
//   6 concat      axis count x1 .. x_count                    axis 0 or 1 of (C, L); 0 of (N)
//   7 add         x y m_x m_y shift zero relu                 equal shapes
//   8 affine      x m t shift zero relu                       along axis 0
//   9 reshape     x c l                                       ONNX order of elements; l = 0: (c)
//  10 transpose   x                                           (C, L) -> (L, C)
//  11 rescale     x m shift zero                              the same shape
//  12 table       x t zero                                    the same shape
//  13 norm        x m t shift epsilon rms zero                along the last axis
//  14 attention   x k v heads m shift m_v shift_v zero        (L, D), (M, D), (M, V) -> (L, V)
//  15 multiply    x y m shift zero relu                       equal axes, or 1 in one of both
//  16 slice       x axis start count                          count along the axis
//  17 constant    t c l zero                                  l = 0: (c), else (c, l)
//  18 lstm        x n ways t m shift m_h shift_h zero         (L, 4 n) -> (L, n), or of two ways
//                 and of each way w b m_s                     (L, 8 n) -> (L, 2 n)
//  19 gru         as lstm                                     of 3 n, or 6 n
//
// A free axis may not be convolved, scaled (affine), reshaped, transposed, lengthened, sliced but
// for its first position, multiplied by one of another length than 1, or the only one. Products, tables and attention read 8 bits.
// w, b, m, s, t number the node's constant inputs (0 is the first after x). w: int8 [n][kernel][C].
// b: int32 [n]. Of products, m: int32 [n], 0 .. 2^31 - 1; s: int32 [n], 1 .. 62; both -1:
// accumulators. Of means, m and s likewise, one for each position of the output, or a single one;
// of the largest, -1; over a free axis m and s are those of one number. m_x, m_y: 0 .. 2^30. Of affine, m: int32 [C], |m| <= 2^30; t: int64 [C],
// |t| <= 2^61; of norms likewise, over the last axis, of at most 2^14. Of tables, t: int32 [256];
// of constants [c * l] or [c], each within the levels. Of multiply, m: 0 .. 2^30.
// Of lstm and gru, ways: 1 forward, 2 reverse, 3 both; t: int32 [257], 0 .. 2^15, not falling; w: int8 [4 n][n]
// or [3 n][n], b: int32 and m_s: int32 [4 n] or [3 n], of these 0 .. 2^30, as of m; m_h: 0 .. 2^31
// - 1; the result has 8 bits.
// Of rescale and attention, m: 0 .. 2^31 - 1; shift_v: 1 .. 40. Sums must fit int32 whatever the input. L' = (L + pads - dilation * (kernel - 1) -
// 1) / stride + 1, rounded down; a pad is shorter than the dilated kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace flwr_edge::integer {

enum class Op : int64_t {
  kLinear = 1, kConv, kRelu, kPool, kReduce, kConcat, kAdd, kAffine, kReshape, kTranspose,
  kRescale, kTable, kNorm, kAttention, kMultiply, kSlice, kConstant, kLstm, kGru
};

constexpr int64_t kMostSum = (int64_t(1) << 31) - 1;
constexpr int64_t kMostScale = int64_t(1) << 30;  // of add's, affine's and multiply's multipliers
constexpr int64_t kMostTerm = int64_t(1) << 61;
constexpr int64_t kMostShift = 62;
constexpr int64_t kMostValueShift = 40;
constexpr int64_t kMostLength = (1 << 16) - 1;  // of a free axis, and of what attention sees
constexpr int64_t kMostNormed = 1 << 14;
constexpr int64_t kMostHead = 1 << 13;
constexpr int64_t kFree = -1;  // in an input's shape
constexpr size_t kMargin = 64;  // bytes that may be read behind a value

// One sample's value. Flat: (1, d1).
struct Value {
  int64_t d0 = 1, d1 = 1;
  bool flat = false;
  bool swapped = false;       // memory is [d1][d0]: channels last
  bool accumulators = false;  // int32
  bool wide = false;          // uint16
  bool free = false;          // d0 is as long as the input
  int64_t zero = 0;
  size_t offset = 0;          // bytes, in the scratch memory
  int64_t size() const { return d0 * d1; }
  size_t element() const { return accumulators ? 4 : wide ? 2 : 1; }
  size_t bytes() const { return size_t(size()) * element(); }
  int64_t top() const { return wide ? 65535 : 255; }
  int64_t stride0() const { return swapped ? 1 : d1; }
  int64_t stride1() const { return swapped ? d0 : 1; }
  std::vector<int64_t> shape() const {
    return flat ? std::vector<int64_t>{d1} : std::vector<int64_t>{d0, d1};
  }
};

// One instruction, decoded. Fields that its opcode lacks keep their defaults.
struct Instruction {
  Op op;
  std::vector<int64_t> inputs;                       // values
  int64_t weights = -1, bias = -1;                   // constants; affine: bias is t
  int64_t multipliers = -1, shifts = -1;             // constants
  int64_t m_x = 0, m_y = 0, shift = 1, shift_y = 1;  // attention: y is v
  int64_t heads = 1, epsilon = 0;
  int64_t zero = 0, rows = 0, axis = 0, start = 0;
  int64_t kernel = 1, stride = 1, dilation = 1, pad_begin = 0, pad_end = 0;
  bool relu = false, mean = false, rms = false;
  bool wide = false;       // the result, where it has levels of its own
  bool free_mean = false;  // over a free axis
  int64_t ways = 0;                 // of lstm and gru; rows is n, weights t, y the state
  std::vector<int64_t> constants;   // of theirs: w, b and m_s of each way
};

// Of an lstm or a gru.
inline int64_t gates_of(const Instruction& i) { return i.op == Op::kGru ? 3 : 4; }

struct Program {
  std::vector<Value> values;              // the input, then a value an instruction
  std::vector<Instruction> instructions;
  int64_t result = 0;                     // the value returned
  size_t scratch = 0;                     // bytes that all values together need
  int64_t work = 0;                       // products a sample
};

// What a program is decoded from.
struct Code {
  std::vector<int64_t> numbers, input_shape;
  int64_t result;
};

// Decodes and checks everything that needs no constant: value numbers, shapes, memory (at most
// 256 MB) and work (at most 2^36 products a sample). An error, or empty; *out is then filled.
// `length`: of the free axis, where the input's shape begins with kFree.
std::string parse_program(const Code& code, int64_t length, Program* out);

}  // namespace flwr_edge::integer
