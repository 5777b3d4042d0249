// LutConv1d: 1-D convolution with packed weights.
//
// Inputs: x float [batch, channels, length]; weights uint8 [bytes], a constant: the packed blob of
// n rows and kernel * channels inputs, input tap * channels + channel (conv1d.h); bias float [n],
// optional. Output: float [batch, n, output length].
// Attributes: bits, group, values, channels, kernel, n: what the blob holds, checked; stride = 1,
// dilation = 1, pads = [0, 0], relu = 0.
#include "conv1d.h"
#include "ops.h"

namespace flwr_edge {
namespace {

constexpr int64_t kMost = int64_t(1) << 24;  // of any size that an attribute gives

class Conv1dKernel {
 public:
  explicit Conv1dKernel(const Node& node)
      : name_(node.name()),
        n_(node.integer("n")),
        relu_(node.flag("relu")),
        shape_(shape_of(node)),
        conv_(chosen_isa(), open_node_weights(node, 1, n_, shape_.kernel * shape_.channels),
              shape_) {
    check_bias(name_, node.constant_or_none(2), n_);
  }

  void run(const Context& context) const {
    const Tensor x = context.input(0), bias = context.input(2);
    check_input(x);
    check_bias(name_, bias, n_);
    const int64_t batch = x.dims[0], length = x.dims[2];
    const int64_t dims[] = {batch, n_, conv_.output_length(length)};
    float* y = context.output(0, dims, 3);
    if (!y) return;
    const Epilogue epilogue{bias.floats(), relu_};
    const OrtPool pool(context);
    const int64_t x_step = x.dims[1] * length, y_step = n_ * dims[2];
    for (int64_t i = 0; i < batch; ++i) {
      conv_.run(x.floats() + i * x_step, length, epilogue, y + i * y_step, pool);
    }
  }

 private:
  static ConvShape shape_of(const Node& node) {
    ConvShape shape{};
    shape.channels = node.integer("channels", 0, 1, kMost);
    shape.kernel = node.integer("kernel", 0, 1, kMost);
    shape.stride = node.integer("stride", 1, 1, kMost);
    shape.dilation = node.integer("dilation", 1, 1, kMost);
    const std::vector<int64_t> pads = node.integers("pads");
    if (!pads.empty()) {
      if (pads.size() != 2) node.fail("pads must be two integers: at the begin and at the end");
      for (const int64_t pad : pads) {
        if (pad < 0 || pad > kMost) node.fail("pads must be in 0 to " + std::to_string(kMost));
      }
      shape.pad_begin = pads[0];
      shape.pad_end = pads[1];
    }
    return shape;
  }

  void check_input(const Tensor& x) const {
    const std::string shape = "x is of shape " + to_text(x);
    if (x.rank != 3) fail(name_, shape + "; it must be [batch, channels, length]");
    if (x.dims[1] != shape_.channels) {
      fail(name_, shape + "; it must have channels = " + std::to_string(shape_.channels));
    }
    if (conv_.output_length(x.dims[2]) < 1) {
      fail(name_, shape + "; padded, it is shorter than the kernel's reach of " +
                      std::to_string(shape_.reach()));
    }
  }

  std::string name_;
  int64_t n_;
  bool relu_;
  ConvShape shape_;
  Conv1d conv_;
};

struct Conv1dOp : OpBase<Conv1dOp, Conv1dKernel> {
  const char* GetName() const { return "LutConv1d"; }
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

  static void infer(const ShapeContext& context) {
    std::vector<ShapeContext::Dim> dims;
    int64_t n = 0;
    ConvShape shape{};
    if (!context.input(0, &dims) || dims.size() != 3 || !context.integer("n", &n)) return;
    if (!context.integer("kernel", &shape.kernel)) return;
    context.integer("stride", &shape.stride);
    context.integer("dilation", &shape.dilation);
    std::vector<int64_t> pads;
    if (context.integers("pads", &pads) && pads.size() == 2) {
      shape.pad_begin = pads[0];
      shape.pad_end = pads[1];
    }
    if (dims[2].size < 0 || shape.stride < 1) return;
    const int64_t length = shape.output_length(dims[2].size);
    if (length > 0) context.set_output(0, {dims[0], {n, ""}, {length, ""}});
  }
};

}  // namespace

void add_conv1d_op(Ort::CustomOpDomain& domain) {
  static const Conv1dOp op;
  domain.Add(&op);
}

}  // namespace flwr_edge
