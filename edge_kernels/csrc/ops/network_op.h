// What operators share that are a whole network: constants of several types, one input's shape.
#pragma once

#include "ops.h"

namespace flwr_edge {

inline Ort::ConstValue constant_input(const Node& node, const Ort::ConstKernelInfo& info,
                                      size_t input) {
  int is_constant = 0;
  const Ort::ConstValue value = info.GetTensorConstantInput(input, &is_constant);
  if (!is_constant) {
    node.fail("input " + std::to_string(input) +
              " must be a constant initializer of the node's own graph");
  }
  return value;
}

template <typename Value>
void check_input(const std::string& name, const Tensor& x, const Value& value) {
  const bool fits = value.flat ? x.rank == 2 && x.dims[1] == value.d1
                               : x.rank == 3 && x.dims[1] == value.d0 && x.dims[2] == value.d1;
  if (fits) return;
  std::string wanted = "[batch";
  for (int64_t size : value.shape()) wanted += ", " + std::to_string(size);
  fail(name, "x is of shape " + to_text(x) + "; it must be " + wanted + "]");
}

// x of one type, then any number of constants. Kernel: constructed from a Node and its info.
template <typename Op, typename Kernel, ONNXTensorElementDataType kInput>
struct NetworkOpBase : OpBase<Op, Kernel> {
  // Hides the base's: the kernel reads constants of several types, which a Node does not tell.
  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    return guarded([&] {
      const Node node(static_cast<const Op*>(this)->GetName(), info);
      *kernel = new Guarded<Kernel>{Kernel(node, info)};
    });
  }

  size_t GetInputTypeCount() const { return 2; }
  ONNXTensorElementDataType GetInputType(size_t index) const {
    return index == 0 ? kInput : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  }
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(size_t index) const {
    return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_VARIADIC;
  }
  int GetVariadicInputMinArity() const { return 0; }
  bool GetVariadicInputHomogeneity() const { return false; }
};

}  // namespace flwr_edge
