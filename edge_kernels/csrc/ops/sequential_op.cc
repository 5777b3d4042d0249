// LutSequential: a whole small network as one node.
//
// Inputs: x float [batch, C, L] or [batch, N]; then the program's constants, initializers all:
// uint8 [bytes] packed weights, float vectors. Outputs: float, one for each of `results`.
// Attributes: program, ints, and results, ints, the values that it
// returns: sequential_program.h; input_shape, ints: x's shape
// without the batch. Program and constants are checked when the session is made.
#include "sequential.h"
#include "network_op.h"

namespace flwr_edge {
namespace {

constexpr size_t kMostOutputs = 4096;

// A constant input of either type.
Constant constant_of(const Node& node, const Ort::ConstKernelInfo& info, size_t input) {
  const Ort::ConstValue value = constant_input(node, info, input);
  const auto shape = value.GetTensorTypeAndShapeInfo();
  const ONNXTensorElementDataType type = shape.GetElementType();
  const bool floats = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  if (!floats && type != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) {
    node.fail("input " + std::to_string(input) +
              " must be of float (a vector) or uint8 (packed weights)");
  }
  return {value.GetTensorRawData(), shape.GetElementCount() * (floats ? 4 : 1), floats};
}

class SequentialKernel {
 public:
  SequentialKernel(const Node& node, const OrtKernelInfo* kernel_info)
      : name_(node.name()), network_(load(node, kernel_info)) {}

  void run(const Context& context) const {
    const Program& program = network_->program();
    const Tensor x = context.input(0);
    check_input(name_, x, program.values[0]);
    const int64_t batch = x.dims[0];
    const size_t count = program.outputs.size();
    float* few[8];
    std::vector<float*> many(count > 8 ? count : 0);
    float** y = count > 8 ? many.data() : few;
    for (size_t i = 0; i < count; ++i) {
      const Value& value = program.values[size_t(program.outputs[i])];
      const int64_t dims[] = {batch, value.flat ? value.d1 : value.d0, value.d1};
      y[i] = context.output(i, dims, value.flat ? 2 : 3);
      if (!y[i] && batch > 0) fail(name_, "output " + std::to_string(i) + " must have a name");
    }
    network_->run(x.floats(), batch, y, OrtPool(context));
  }

 private:
  static std::unique_ptr<Sequential> load(const Node& node, const OrtKernelInfo* kernel_info) {
    Program program;
    std::string error = parse_program(node.integers("program"), node.integers("input_shape"),
                                      node.integers("results"), &program);
    if (!error.empty()) node.fail(error);
    if (node.outputs() != program.outputs.size()) {
      node.fail("the node has " + std::to_string(node.outputs()) + " outputs, its results are " +
                std::to_string(program.outputs.size()));
    }
    const Ort::ConstKernelInfo info(kernel_info);
    std::vector<Constant> constants;
    for (size_t i = 1; i < info.GetInputCount(); ++i) {
      constants.push_back(constant_of(node, info, i));
    }
    auto network = Sequential::create(chosen_isa(), std::move(program), constants, &error);
    if (!network) node.fail(error);
    return network;
  }

  std::string name_;
  std::unique_ptr<Sequential> network_;
};

struct SequentialOp
    : NetworkOpBase<SequentialOp, SequentialKernel, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT> {
  const char* GetName() const { return "LutSequential"; }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const {
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  OrtCustomOpInputOutputCharacteristic GetOutputCharacteristic(size_t) const {
    return INPUT_OUTPUT_VARIADIC;
  }

  static void infer(const ShapeContext& context) {
    std::vector<ShapeContext::Dim> x;
    std::vector<int64_t> code, input_shape, outputs;
    Program program;
    if (!context.input(0, &x) || x.empty() || !context.integers("program", &code) ||
        !context.integers("input_shape", &input_shape) ||
        !context.integers("results", &outputs) || outputs.size() > kMostOutputs ||
        !parse_program(code, input_shape, outputs, &program).empty()) {
      return;
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      std::vector<ShapeContext::Dim> dims{x[0]};
      for (int64_t size : program.values[size_t(outputs[i])].shape()) dims.push_back({size, ""});
      context.set_output(i, dims);
    }
  }
};

}  // namespace

void add_sequential_op(Ort::CustomOpDomain& domain) {
  static const SequentialOp op;
  domain.Add(&op);
}

}  // namespace flwr_edge
