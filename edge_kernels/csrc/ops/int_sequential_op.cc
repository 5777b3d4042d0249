// IntSequential: a whole small network in integers as one node.
//
// Inputs: x uint8 [batch, C, L] or [batch, N]; then the program's constants, initializers all:
// int8 weights, int32 biases, multipliers and shifts, int64 terms, of any shape.
// Outputs, of which a node has one and leaves out the other: int32 accumulators; uint8 values.
// Attributes: program, ints, and result, the value that it returns: int_program.h; input_shape,
// ints: x's shape without the batch. Program and constants are checked when the session is made.
#include "int_network.h"
#include "network_op.h"

namespace flwr_edge {
namespace {

using integer::Constant;
using integer::Network;
using integer::Type;
using integer::Value;

enum Output : size_t { kAccumulators, kValues };

Constant constant_of(const Node& node, const Ort::ConstKernelInfo& info, size_t input) {
  const Ort::ConstValue value = constant_input(node, info, input);
  const auto shape = value.GetTensorTypeAndShapeInfo();
  const auto count = int64_t(shape.GetElementCount());
  switch (shape.GetElementType()) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: return {value.GetTensorRawData(), count, Type::kInt8};
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return {value.GetTensorRawData(), count, Type::kInt32};
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return {value.GetTensorRawData(), count, Type::kInt64};
    default: node.fail("input " + std::to_string(input) + " must be of int8, int32 or int64");
  }
}

class IntSequentialKernel {
 public:
  IntSequentialKernel(const Node& node, const OrtKernelInfo* kernel_info)
      : name_(node.name()), network_(load(node, kernel_info)) {}

  void run(const Context& context) const {
    const Tensor x = context.input(0);
    check_input(name_, x, network_->program().values[0]);
    const int64_t batch = x.dims[0];
    const Value& value = network_->result();
    const int64_t dims[] = {batch, value.flat ? value.d1 : value.d0, value.d1};
    void* y = context.output_data(value.accumulators ? kAccumulators : kValues, dims,
                                  value.flat ? 2 : 3);
    if (batch == 0) return;
    if (!y) fail(name_, output_text(value));
    network_->run(static_cast<const uint8_t*>(x.data), batch, y, OrtPool(context));
  }

 private:
  static std::string output_text(const Value& value) {
    return value.accumulators ? "its result is accumulators: its only output must be the first"
                              : "its result is uint8: its only output must be the second";
  }

  static std::unique_ptr<Network> load(const Node& node, const OrtKernelInfo* kernel_info) {
    integer::Program program;
    std::string error = parse_program(node.integers("program"), node.integers("input_shape"),
                                      node.integer("result"), &program);
    if (!error.empty()) node.fail(error);
    const Value& value = program.values[size_t(program.result)];
    const Ort::ConstKernelInfo info(kernel_info);
    const auto named = [&](size_t output) {
      return output < info.GetOutputCount() && !info.GetOutputName(output).empty();
    };
    const bool fits = named(kAccumulators) == value.accumulators &&
                      named(kValues) != value.accumulators;
    if (!fits) node.fail(output_text(value));
    std::vector<Constant> constants;
    for (size_t i = 1; i < info.GetInputCount(); ++i) {
      constants.push_back(constant_of(node, info, i));
    }
    auto network = Network::create(chosen_isa().name, std::move(program), constants, &error);
    if (!network) node.fail(error);
    return network;
  }

  std::string name_;
  std::unique_ptr<Network> network_;
};

struct IntSequentialOp
    : NetworkOpBase<IntSequentialOp, IntSequentialKernel, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8> {
  const char* GetName() const { return "IntSequential"; }
  size_t GetOutputTypeCount() const { return 2; }
  ONNXTensorElementDataType GetOutputType(size_t index) const {
    return index == kAccumulators ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32
                                  : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  }
  OrtCustomOpInputOutputCharacteristic GetOutputCharacteristic(size_t) const {
    return INPUT_OUTPUT_OPTIONAL;
  }

  static void infer(const ShapeContext& context) {
    std::vector<ShapeContext::Dim> x;
    std::vector<int64_t> code, input_shape;
    int64_t result = 0;
    integer::Program program;
    if (!context.input(0, &x) || x.empty() || !context.integers("program", &code) ||
        !context.integers("input_shape", &input_shape) || !context.integer("result", &result) ||
        !parse_program(code, input_shape, result, &program).empty()) {
      return;
    }
    const Value& value = program.values[size_t(program.result)];
    std::vector<ShapeContext::Dim> dims{x[0]};
    for (int64_t size : value.shape()) dims.push_back({size, ""});
    context.set_output(value.accumulators ? kAccumulators : kValues, dims,
                       value.accumulators ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32
                                          : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
  }
};

}  // namespace

void add_int_sequential_op(Ort::CustomOpDomain& domain) {
  static const IntSequentialOp op;
  domain.Add(&op);
}

}  // namespace flwr_edge
