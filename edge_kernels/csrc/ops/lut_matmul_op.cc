// LutMatMul: y = x W^T + bias for packed weights.
//
// Inputs: x float [..., k]; weights uint8 [bytes], a constant: the packed blob (layout.h); bias
// float [n], optional. Outputs: one float [..., n], or with `splits` one for each of them, so that
// layers that read the same input share its quantization and its lookup table.
// Attributes: bits, group, values ("symmetric", "ternary", "zero_points"), k, n: what the blob
// holds, checked; relu = 0; fast = 0: 7-bit lookup tables, lossy; splits: rows of each output.
#include <cstring>

#include "matmul.h"
#include "scratch.h"
#include "ops.h"

namespace flwr_edge {
namespace {

class MatMulKernel {
 public:
  explicit MatMulKernel(const Node& node)
      : name_(node.name()),
        n_(node.integer("n")),
        k_(node.integer("k")),
        relu_(node.flag("relu")),
        splits_(splits_of(node, n_)),
        matmul_(chosen_isa(), open_node_weights(node, 1, n_, k_), node.flag("fast")) {
    check_bias(name_, node.constant_or_none(2), n_);
  }

  void run(const Context& context) const {
    const Tensor x = context.input(0), bias = context.input(2);
    check_input(x);
    check_bias(name_, bias, n_);
    const int64_t m = x.elements / k_;
    const Epilogue epilogue{bias.floats(), relu_};
    if (splits_.size() == 1) {
      float* y = output(context, x, 0);
      if (m && y) matmul_.run(x.floats(), m, epilogue, y, n_, OrtPool(context));
    } else {
      run_split(context, x, m, epilogue);
    }
  }

 private:
  static std::vector<int64_t> splits_of(const Node& node, int64_t n) {
    std::vector<int64_t> splits = node.integers("splits");
    if (splits.empty()) splits = {n};
    int64_t sum = 0;
    for (const int64_t rows : splits) {
      if (rows < 1 || rows > n) node.fail("splits must be positive and sum to n");
      sum += rows;
    }
    if (sum != n) {
      node.fail("splits sum to " + std::to_string(sum) + "; they must sum to n = " +
                std::to_string(n));
    }
    if (splits.size() != node.outputs()) {
      node.fail("the node has " + std::to_string(node.outputs()) + " outputs and " +
                std::to_string(splits.size()) + " splits; there must be one for each");
    }
    return splits;
  }

  void check_input(const Tensor& x) const {
    if (x.rank && x.dims[x.rank - 1] == k_) return;
    const std::string found = x.rank ? "of shape " + to_text(x) : "a scalar";
    fail(name_, "x is " + found + "; its last dimension must be k = " + std::to_string(k_));
  }

  float* output(const Context& context, const Tensor& x, size_t index) const {
    int64_t dims[Tensor::kMostDims];
    std::memcpy(dims, x.dims, sizeof dims);
    dims[x.rank - 1] = splits_[index];
    return context.output(index, dims, x.rank);
  }

  void run_split(const Context& context, const Tensor& x, int64_t m,
                 const Epilogue& epilogue) const {
    Scratch scratch(Scratch::padded(size_t(m * n_) * 4));
    auto* all = scratch.take<float>(size_t(m * n_));
    if (m) matmul_.run(x.floats(), m, epilogue, all, n_, OrtPool(context));
    for (size_t i = 0; i < splits_.size(); all += splits_[i++]) {
      float* y = output(context, x, i);
      for (int64_t row = 0; y && row < m; ++row) {
        std::memcpy(y + row * splits_[i], all + row * n_, size_t(splits_[i]) * 4);
      }
    }
  }

  std::string name_;
  int64_t n_, k_;
  bool relu_;
  std::vector<int64_t> splits_;
  MatMul matmul_;
};

struct MatMulOp : OpBase<MatMulOp, MatMulKernel> {
  const char* GetName() const { return "LutMatMul"; }
  size_t GetInputTypeCount() const { return 3; }
  ONNXTensorElementDataType GetInputType(size_t index) const {
    return index == 1 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(size_t index) const {
    return index == 2 ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const {
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  OrtCustomOpInputOutputCharacteristic GetOutputCharacteristic(size_t) const {
    return INPUT_OUTPUT_VARIADIC;
  }

  static void infer(const ShapeContext& context) {
    std::vector<ShapeContext::Dim> dims;
    int64_t n = 0;
    if (!context.input(0, &dims) || !context.integer("n", &n)) return;
    std::vector<int64_t> splits;
    if (!context.integers("splits", &splits) || splits.empty()) splits = {n};
    for (size_t i = 0; i < splits.size(); ++i) {
      dims.back() = {splits[i], ""};
      context.set_output(i, dims);
    }
  }
};

}  // namespace

void add_matmul_op(Ort::CustomOpDomain& domain) {
  static const MatMulOp op;
  domain.Add(&op);
}

}  // namespace flwr_edge
