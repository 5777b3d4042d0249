// LutSequential's program: what it may say, and what it means. Issue 5's integer-only networks add
// opcodes; a reader refuses those that it does not know.
//
// A program is a list of int64. The first is the version, 1; then instructions follow, each an
// opcode and its operands. Value 0 is the node's input x, instruction i makes value i + 1, and
// an instruction reads earlier values only. A value has, for each sample, the shape (N), "flat",
// or (C, L), always named as ONNX would have it, whatever the order in memory.
//
//   opcode        operands                                    result
//   1 linear      x w b relu n                                (K) -> (n), (L, K) -> (L, n)
//   2 conv        x w b relu n kernel stride dilation         (C, L) -> (n, L')
//                 pad_begin pad_end
//   3 relu        x                                           the same shape
//   4 pool        x kind kernel stride dilation               (C, L) -> (C, L')
//                 pad_begin pad_end
//   5 reduce      x kind axis keep                            (C, L) -> (L) for axis 0, (C) for 1;
//                                                             keep: (1, L), (C, 1). (N) -> (1)
//   6 concat      axis count x1 .. x_count                    axis 0 or 1 of (C, L); 0 of (N)
//   7 add         x y                                         equal shapes
//   8 affine      x s t axis relu                             x * s + t, along axis 0 or 1 of
//                                                             (C, L), 0 of (N)
//   9 reshape     x c l                                       ONNX order of elements; l = 0: (c)
//  10 transpose   x                                           (C, L) -> (L, C)
//
// w, b, s, t number the node's constant inputs (0 is the first after x); -1: absent. w: a packed
// blob with n rows and K or kernel * C inputs (tap by tap, layout.h). b: n floats. s, t: as many
// floats as the axis is long, or one; at least one of the two is there. kind: 0 largest, 1 mean,
// 2 mean that counts the padding (pool only). L' = (L + pads - dilation * (kernel - 1) - 1) /
// stride + 1, rounded down; a pad is shorter than the dilated kernel, and for pool than the kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace flwr_edge {

enum class Op : int64_t {
  kLinear = 1, kConv, kRelu, kPool, kReduce, kConcat, kAdd, kAffine, kReshape, kTranspose
};

// One sample's value. Flat: (1, d1).
struct Value {
  int64_t d0 = 1, d1 = 1;
  bool flat = false;
  bool swapped = false;  // memory is [d1][d0]: channels last
  size_t offset = 0;     // floats, in the scratch memory
  int64_t size() const { return d0 * d1; }
  int64_t stride0() const { return swapped ? 1 : d1; }
  int64_t stride1() const { return swapped ? d0 : 1; }
  std::vector<int64_t> shape() const {
    return flat ? std::vector<int64_t>{d1} : std::vector<int64_t>{d0, d1};
  }
};

// One instruction, decoded. Fields that its opcode lacks keep their defaults.
struct Instruction {
  Op op;
  std::vector<int64_t> inputs;           // values
  int64_t weights = -1, bias = -1;       // constants; affine: its scale and shift
  int64_t rows = 0, kind = 0, axis = 0;
  int64_t kernel = 1, stride = 1, dilation = 1, pad_begin = 0, pad_end = 0;
  bool relu = false;
};

struct Program {
  std::vector<Value> values;             // the input, then a value an instruction
  std::vector<Instruction> instructions;
  std::vector<int64_t> outputs;          // values
  size_t scratch = 0;                    // floats that all values together need
  int64_t work = 0;                      // products a sample
};

// Decodes and checks everything that needs no constant: value numbers, shapes, memory (at most
// 256 MB) and work (at most 2^36 products a sample). An error, or empty; *out is then filled.
std::string parse_program(const std::vector<int64_t>& code, const std::vector<int64_t>& input_shape,
                          const std::vector<int64_t>& outputs, Program* out);

}  // namespace flwr_edge
