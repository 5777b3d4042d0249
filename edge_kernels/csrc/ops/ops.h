// What the ops share: errors that name op and node, attributes, tensors, the session's threads.
//
// Built against ONNX Runtime 1.17's headers, so that 1.18 and everything newer load it.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <string>
#include <vector>

#include "isa.h"
#include "pool.h"

namespace flwr_edge {

// The instruction set that all kernels use; set before any op is registered.
const Isa& chosen_isa();

// A tensor that a kernel reads, owned by ONNX Runtime.
struct Tensor {
  static constexpr size_t kMostDims = 16;
  const void* data = nullptr;  // null: an optional input that was not given
  int64_t dims[kMostDims];
  size_t rank = 0;
  int64_t elements = 0;

  explicit operator bool() const { return data || rank; }
  const float* floats() const { return static_cast<const float*>(data); }
};

// A node while its kernel is made: reads it, and says what is wrong with it.
class Node {
 public:
  Node(const char* op, const OrtKernelInfo* info);

  const std::string& name() const { return name_; }  // "LutMatMul 'layer1'"
  [[noreturn]] void fail(const std::string& cause) const;

  int64_t integer(const char* attribute) const;  // fails where it is missing
  int64_t integer(const char* attribute, int64_t otherwise) const;
  // Fails outside [least, most].
  int64_t integer(const char* attribute, int64_t otherwise, int64_t least, int64_t most) const;
  bool flag(const char* attribute) const;        // 0 or 1; missing: 0
  std::string text(const char* attribute) const;
  std::vector<int64_t> integers(const char* attribute) const;  // missing: none

  size_t outputs() const;
  // A constant initializer, in place: ONNX Runtime keeps it for as long as the session lives.
  Tensor constant(size_t input, const char* what) const;
  // The same; no data where the input is absent or not constant.
  Tensor constant_or_none(size_t input) const;

 private:
  bool has_integer(const char* attribute, int64_t* value) const;

  std::string name_;
  const OrtKernelInfo* info_;
};

// Opens the packed weights in input `input` and checks them against the attributes bits, group
// and values and against the shape that the node asks for.
Weights open_node_weights(const Node& node, size_t input, int64_t rows, int64_t inputs);
// Fails unless the bias, where there is one, has `rows` elements.
void check_bias(const std::string& node, const Tensor& bias, int64_t rows);

// Throws Ort::Exception: "LutMatMul 'layer1': <cause>".
[[noreturn]] void fail(const std::string& node, const std::string& cause);
// [2, 3, 4]
std::string to_text(const Tensor& tensor);

// What a kernel sees of one run.
class Context {
 public:
  explicit Context(OrtKernelContext* context) : context_(context) {}
  Tensor input(size_t index) const;
  ONNXTensorElementDataType input_type(size_t index) const;  // of one that is there
  float* output(size_t index, const int64_t* dims, size_t rank) const {
    return static_cast<float*>(output_data(index, dims, rank));
  }
  void* output_data(size_t index, const int64_t* dims, size_t rank) const;  // of any type
  OrtKernelContext* get() const { return context_; }

 private:
  OrtKernelContext* context_;
};

// ONNX Runtime's pool for the run's session. An exception in a job is thrown again by run().
class OrtPool final : public Pool {
 public:
  explicit OrtPool(const Context& context) : context_(context.get()) {}
  // Of the machine: a session does not tell its own number. With fewer, pieces only are smaller.
  int threads() const override;
  void run(int64_t jobs, const std::function<void(int64_t)>& job) const override;

 private:
  OrtKernelContext* context_;
};

// Runs f; an exception becomes a status. Nothing is thrown across the C boundary.
OrtStatusPtr status_of(std::exception_ptr error) noexcept;
template <typename F>
OrtStatusPtr guarded(const F& f) noexcept {
  try {
    f();
    return nullptr;
  } catch (...) {
    return status_of(std::current_exception());
  }
}

// Shape inference. Sizes not known stand as -1; a dimension may have a symbol instead.
class ShapeContext {
 public:
  struct Dim {
    int64_t size;
    std::string symbol;
  };

  explicit ShapeContext(OrtShapeInferContext* context) : context_(context) {}
  // False: not known.
  bool input(size_t index, std::vector<Dim>* dims) const;
  bool integer(const char* attribute, int64_t* value) const;
  bool integers(const char* attribute, std::vector<int64_t>* values) const;
  // Leaves the output's shape open where a dimension is neither known nor has a symbol.
  void set_output(size_t index, const std::vector<Dim>& dims,
                  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) const;

 private:
  OrtShapeInferContext* context_;
};

// Kernel: constructed from a Node, and void run(const Context&) const.
template <typename Kernel>
struct Guarded {
  Kernel kernel;
  OrtStatusPtr ComputeV2(OrtKernelContext* context) const {
    return guarded([&] { kernel.run(Context(context)); });
  }
};

// Op: GetName, types and counts as Ort::CustomOpBase asks, static void infer(const ShapeContext&).
template <typename Op, typename Kernel>
struct OpBase : Ort::CustomOpBase<Op, Guarded<Kernel>, true> {
  OpBase() {
    this->OrtCustomOp::CreateKernel = nullptr;
    this->OrtCustomOp::KernelCompute = nullptr;
    // The runtime drops what this returns; the kernel's own checks tell what is wrong.
    this->OrtCustomOp::InferOutputShapeFn =
        [](const OrtCustomOp*, OrtShapeInferContext* context) -> OrtStatusPtr {
      try {
        Op::infer(ShapeContext(context));
      } catch (...) {
      }
      return nullptr;
    };
  }

  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    return guarded([&] {
      const Node node(static_cast<const Op*>(this)->GetName(), info);
      *kernel = new Guarded<Kernel>{Kernel(node)};
    });
  }
};

void add_matmul_op(Ort::CustomOpDomain& domain);
void add_conv1d_op(Ort::CustomOpDomain& domain);
void add_sequential_op(Ort::CustomOpDomain& domain);
void add_int_sequential_op(Ort::CustomOpDomain& domain);

}  // namespace flwr_edge
