// IntSequential: a whole small network in integers as one node.
//
// Inputs: x uint8, or uint16 where its levels are such, [batch, C, L] or [batch, N]; then the
// program's constants, initializers all: int8 weights, int32 biases, multipliers, shifts and
// tables, int64 terms, of any shape.
// Outputs, of which a node has one and leaves out the others: int32 accumulators; uint8 values;
// uint16 values.
// Attributes: program, ints, and result, the value that it returns: int_program.h; input_shape,
// ints: x's shape without the batch, -1 where C is free; longest, int: then the most that it may
// be. Program and constants are checked when the session is made.
#include "int_network.h"
#include "network_op.h"

namespace flwr_edge {
namespace {

using integer::Code;
using integer::Constant;
using integer::Network;
using integer::Type;
using integer::Value;

enum Output : size_t { kAccumulators, kValues, kWideValues, kOutputs };

Output output_of(const Value& value) {
  return value.accumulators ? kAccumulators : value.wide ? kWideValues : kValues;
}

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
    Value from = network_->input(), value = network_->result();
    if (from.free && x.rank == 3 && x.dims[1] >= 1 && x.dims[1] <= from.d0) from.d0 = x.dims[1];
    check_type(context, from);
    check_input(name_, x, from);
    if (value.free) value.d0 = from.d0;
    const int64_t batch = x.dims[0];
    const int64_t dims[] = {batch, value.flat ? value.d1 : value.d0, value.d1};
    void* y = context.output_data(output_of(value), dims, value.flat ? 2 : 3);
    if (batch == 0) return;
    if (!y) fail(name_, output_text(value));
    network_->run(static_cast<const uint8_t*>(x.data), batch, from.d0, y, OrtPool(context));
  }

 private:
  static std::string output_text(const Value& value) {
    static constexpr const char* kTexts[] = {
        "its result is accumulators: its only output must be the first",
        "its result is uint8: its only output must be the second",
        "its result is uint16: its only output must be the third"};
    return kTexts[output_of(value)];
  }

  void check_type(const Context& context, const Value& from) const {
    const auto type = context.input_type(0);
    const auto wanted = from.wide ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16
                                  : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    if (type != wanted) fail(name_, std::string("x must be ") + (from.wide ? "uint16" : "uint8"));
  }

  static std::unique_ptr<Network> load(const Node& node, const OrtKernelInfo* kernel_info) {
    const Code code{node.integers("program"), node.integers("input_shape"),
                    node.integer("result")};
    const bool free = !code.input_shape.empty() && code.input_shape[0] == integer::kFree;
    const int64_t longest = free ? node.integer("longest") : 1;
    integer::Program program;
    std::string error = parse_program(code, longest, &program);
    if (!error.empty()) node.fail(error);
    const Value& value = program.values[size_t(program.result)];
    const Ort::ConstKernelInfo info(kernel_info);
    for (size_t output = 0; output < kOutputs; ++output) {
      const bool named = output < info.GetOutputCount() && !info.GetOutputName(output).empty();
      if (named != (output == output_of(value))) node.fail(output_text(value));
    }
    std::vector<Constant> constants;
    for (size_t i = 1; i < info.GetInputCount(); ++i) {
      constants.push_back(constant_of(node, info, i));
    }
    auto network = Network::create(chosen_isa().name, code, longest, constants, &error);
    if (!network) node.fail(error);
    return network;
  }

  std::string name_;
  std::unique_ptr<Network> network_;
};

// x may be of either type: of none until the runtime asks.
struct IntSequentialOp
    : NetworkOpBase<IntSequentialOp, IntSequentialKernel, ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED> {
  const char* GetName() const { return "IntSequential"; }
  size_t GetOutputTypeCount() const { return kOutputs; }
  ONNXTensorElementDataType GetOutputType(size_t index) const {
    static constexpr ONNXTensorElementDataType kTypes[] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
                                                           ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
                                                           ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16};
    return kTypes[index];
  }
  OrtCustomOpInputOutputCharacteristic GetOutputCharacteristic(size_t) const {
    return INPUT_OUTPUT_OPTIONAL;
  }

  static void infer(const ShapeContext& context) {
    std::vector<ShapeContext::Dim> x;
    Code code;
    int64_t longest = 1;
    context.integer("longest", &longest);
    integer::Program program;
    if (!context.input(0, &x) || x.size() < 2 || !context.integers("program", &code.numbers) ||
        !context.integers("input_shape", &code.input_shape) ||
        !context.integer("result", &code.result) ||
        !parse_program(code, longest, &program).empty()) {
      return;
    }
    const Value& value = program.values[size_t(program.result)];
    std::vector<ShapeContext::Dim> dims{x[0]};
    for (int64_t size : value.shape()) dims.push_back({size, ""});
    if (value.free) dims[1] = x[1];
    const Output output = output_of(value);
    context.set_output(output, dims, IntSequentialOp().GetOutputType(output));
  }
};

}  // namespace

void add_int_sequential_op(Ort::CustomOpDomain& domain) {
  static const IntSequentialOp op;
  domain.Add(&op);
}

}  // namespace flwr_edge
