#include "ops.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

namespace flwr_edge {
namespace {

const OrtApi& api() { return Ort::GetApi(); }

void check(OrtStatus* status) { Ort::ThrowOnError(status); }

struct ShapeInfo {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  ~ShapeInfo() { api().ReleaseTensorTypeAndShapeInfo(info); }
};

// Throws where the rank is beyond what a Tensor holds.
Tensor view(const OrtValue* value) {
  Tensor tensor;
  if (!value) return tensor;
  ShapeInfo shape;
  check(api().GetTensorTypeAndShape(value, &shape.info));
  check(api().GetDimensionsCount(shape.info, &tensor.rank));
  if (tensor.rank > Tensor::kMostDims) {
    throw std::runtime_error("flwr.edge: a tensor of more than 16 dimensions");
  }
  check(api().GetDimensions(shape.info, tensor.dims, tensor.rank));
  tensor.elements = 1;
  for (size_t i = 0; i < tensor.rank; ++i) tensor.elements *= tensor.dims[i];
  void* data = nullptr;
  check(api().GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  tensor.data = data;
  return tensor;
}

const char* name_of(Values values) {
  constexpr const char* kNames[] = {"symmetric", "ternary", "zero_points"};
  return kNames[int(values)];
}

}  // namespace

void fail(const std::string& node, const std::string& cause) {
  throw Ort::Exception(node + ": " + cause, ORT_INVALID_ARGUMENT);
}

std::string to_text(const Tensor& tensor) {
  std::string text = "[";
  for (size_t i = 0; i < tensor.rank; ++i) {
    text += (i ? ", " : "") + std::to_string(tensor.dims[i]);
  }
  return text + "]";
}

OrtStatusPtr status_of(std::exception_ptr error) noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const Ort::Exception& e) {
    return api().CreateStatus(e.GetOrtErrorCode(), e.what());
  } catch (const std::bad_alloc&) {
    return api().CreateStatus(ORT_RUNTIME_EXCEPTION, "flwr.edge: out of memory");
  } catch (const std::exception& e) {
    return api().CreateStatus(ORT_RUNTIME_EXCEPTION, e.what());
  } catch (...) {
    return api().CreateStatus(ORT_RUNTIME_EXCEPTION, "flwr.edge: unknown error");
  }
}

// --- Node

Node::Node(const char* op, const OrtKernelInfo* info) : info_(info) {
  const Ort::ConstKernelInfo asked(info);
  const std::string node = asked.GetNodeName();
  // Names of nodes are optional, those of outputs are not.
  name_ = op + (node.empty() ? " of output '" + asked.GetOutputName(0) : " '" + node) + "'";
}

void Node::fail(const std::string& cause) const { flwr_edge::fail(name_, cause); }

bool Node::has_integer(const char* attribute, int64_t* value) const {
  OrtStatus* status = api().KernelInfoGetAttribute_int64(info_, attribute, value);
  if (!status) return true;
  const std::string why = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  if (why.find("No attribute") != std::string::npos) return false;
  fail("attribute " + std::string(attribute) + " must be an integer");
}

int64_t Node::integer(const char* attribute) const {
  int64_t value = 0;
  if (!has_integer(attribute, &value)) fail("attribute " + std::string(attribute) + " is missing");
  return value;
}

int64_t Node::integer(const char* attribute, int64_t otherwise) const {
  int64_t value = 0;
  return has_integer(attribute, &value) ? value : otherwise;
}

int64_t Node::integer(const char* attribute, int64_t otherwise, int64_t least,
                      int64_t most) const {
  const int64_t value = integer(attribute, otherwise);
  if (value < least || value > most) {
    fail("attribute " + std::string(attribute) + " is " + std::to_string(value) +
         "; it must be in " + std::to_string(least) + " to " + std::to_string(most));
  }
  return value;
}

bool Node::flag(const char* attribute) const { return integer(attribute, 0, 0, 1) == 1; }

std::string Node::text(const char* attribute) const {
  size_t size = 0;
  OrtStatus* status = api().KernelInfoGetAttribute_string(info_, attribute, nullptr, &size);
  if (status) {
    api().ReleaseStatus(status);
    fail("attribute " + std::string(attribute) + " is missing or not a string");
  }
  std::string value(size, '\0');
  check(api().KernelInfoGetAttribute_string(info_, attribute, value.data(), &size));
  value.resize(std::strlen(value.c_str()));
  return value;
}

std::vector<int64_t> Node::integers(const char* attribute) const {
  size_t count = 0;
  OrtStatus* status = api().KernelInfoGetAttributeArray_int64(info_, attribute, nullptr, &count);
  if (status) {
    const std::string why = api().GetErrorMessage(status);
    api().ReleaseStatus(status);
    if (why.find("No attribute") != std::string::npos) return {};
    fail("attribute " + std::string(attribute) + " must be a list of integers");
  }
  std::vector<int64_t> values(count);
  if (count == 0) return values;
  check(api().KernelInfoGetAttributeArray_int64(info_, attribute, values.data(), &count));
  return values;
}

size_t Node::outputs() const { return Ort::ConstKernelInfo(info_).GetOutputCount(); }

Tensor Node::constant_or_none(size_t input) const {
  if (input >= Ort::ConstKernelInfo(info_).GetInputCount()) return {};
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api().KernelInfoGetConstantInput_tensor(info_, input, &is_constant, &value));
  return is_constant ? view(value) : Tensor{};
}

Tensor Node::constant(size_t input, const char* what) const {
  const Tensor tensor = constant_or_none(input);
  if (!tensor) {
    fail(std::string(what) + " must be a constant initializer of the node's own graph, and no "
         "graph input");
  }
  return tensor;
}

Weights open_node_weights(const Node& node, size_t input, int64_t rows, int64_t inputs) {
  const Tensor blob = node.constant(input, "the packed weights");
  Weights w;
  const char* wrong =
      open_weights(static_cast<const uint8_t*>(blob.data), size_t(blob.elements), &w);
  if (wrong) node.fail(wrong);
  const auto agree = [&](const char* what, int64_t asked, int64_t found) {
    if (asked == found) return;
    node.fail("the node says " + std::string(what) + " " + std::to_string(asked) +
              ", its packed weights have " + std::to_string(found));
  };
  agree("bits", node.integer("bits"), w.bits);
  agree("group", node.integer("group"), w.group);
  const std::string values = node.text("values");
  if (values != name_of(w.values)) {
    node.fail("the node says values '" + values + "', its packed weights have '" +
              name_of(w.values) + "'");
  }
  agree("n (outputs)", rows, w.rows);
  agree("k (inputs)", inputs, w.inputs);
  return w;
}

void check_bias(const std::string& node, const Tensor& bias, int64_t rows) {
  if (!bias || bias.elements == rows) return;
  fail(node, "the bias is of shape " + to_text(bias) + "; it must have n = " +
                 std::to_string(rows) + " elements");
}

// --- Context

Tensor Context::input(size_t index) const {
  size_t count = 0;
  check(api().KernelContext_GetInputCount(context_, &count));
  if (index >= count) return {};
  const OrtValue* value = nullptr;
  check(api().KernelContext_GetInput(context_, index, &value));
  return view(value);
}

ONNXTensorElementDataType Context::input_type(size_t index) const {
  const OrtValue* value = nullptr;
  check(api().KernelContext_GetInput(context_, index, &value));
  return Ort::ConstValue{value}.GetTensorTypeAndShapeInfo().GetElementType();
}

void* Context::output_data(size_t index, const int64_t* dims, size_t rank) const {
  OrtValue* value = nullptr;
  check(api().KernelContext_GetOutput(context_, index, dims, rank, &value));
  if (!value) return nullptr;  // nobody reads it
  void* data = nullptr;
  check(api().GetTensorMutableData(value, &data));
  return data;
}

// --- OrtPool

int OrtPool::threads() const {
  static const int count = std::max(1, int(std::thread::hardware_concurrency()));
  return count;
}

void OrtPool::run(int64_t jobs, const std::function<void(int64_t)>& job) const {
  struct Shared {
    const std::function<void(int64_t)>& job;
    std::mutex mutex;
    std::exception_ptr error;
  } shared{job, {}, nullptr};
  const auto one = [](void* data, size_t index) {
    auto* shared = static_cast<Shared*>(data);
    try {
      shared->job(int64_t(index));
    } catch (...) {
      const std::lock_guard<std::mutex> lock(shared->mutex);
      shared->error = std::current_exception();
    }
  };
  check(api().KernelContext_ParallelFor(context_, one, size_t(jobs), 0, &shared));
  if (shared.error) std::rethrow_exception(shared.error);
}

// --- ShapeContext

bool ShapeContext::input(size_t index, std::vector<Dim>* dims) const {
  size_t count = 0;
  check(api().ShapeInferContext_GetInputCount(context_, &count));
  if (index >= count) return false;
  OrtTensorTypeAndShapeInfo* info = nullptr;  // the context's own
  check(api().ShapeInferContext_GetInputTypeShape(context_, index, &info));
  size_t rank = 0;
  check(api().GetDimensionsCount(info, &rank));
  if (rank == 0) return false;  // a scalar, or a rank that is not known
  std::vector<int64_t> sizes(rank);
  std::vector<const char*> symbols(rank);
  check(api().GetDimensions(info, sizes.data(), rank));
  check(api().GetSymbolicDimensions(info, symbols.data(), rank));
  dims->clear();
  for (size_t i = 0; i < rank; ++i) dims->push_back({sizes[i], symbols[i] ? symbols[i] : ""});
  return true;
}

bool ShapeContext::integer(const char* attribute, int64_t* value) const {
  const OrtOpAttr* handle = nullptr;
  OrtStatus* status = api().ShapeInferContext_GetAttribute(context_, attribute, &handle);
  size_t size = 0;
  if (!status) status = api().ReadOpAttr(handle, ORT_OP_ATTR_INT, value, sizeof *value, &size);
  const bool found = !status;
  api().ReleaseStatus(status);
  return found;
}

bool ShapeContext::integers(const char* attribute, std::vector<int64_t>* values) const {
  const OrtOpAttr* handle = nullptr;
  OrtStatus* status = api().ShapeInferContext_GetAttribute(context_, attribute, &handle);
  if (status) {
    api().ReleaseStatus(status);
    return false;
  }
  size_t bytes = 0;  // asked with no room: a failure that tells the size
  api().ReleaseStatus(api().ReadOpAttr(handle, ORT_OP_ATTR_INTS, nullptr, 0, &bytes));
  values->resize(bytes / sizeof(int64_t));
  status = api().ReadOpAttr(handle, ORT_OP_ATTR_INTS, values->data(), bytes, &bytes);
  const bool read = !status;
  api().ReleaseStatus(status);
  return read;
}

void ShapeContext::set_output(size_t index, const std::vector<Dim>& dims,
                              ONNXTensorElementDataType type) const {
  std::vector<int64_t> sizes;
  std::vector<const char*> symbols;
  for (const Dim& dim : dims) {
    if (dim.size < 0 && dim.symbol.empty()) return;
    sizes.push_back(dim.size);
    symbols.push_back(dim.size < 0 ? dim.symbol.c_str() : "");
  }
  ShapeInfo shape;
  check(api().CreateTensorTypeAndShapeInfo(&shape.info));
  check(api().SetTensorElementType(shape.info, type));
  check(api().SetDimensions(shape.info, sizes.data(), sizes.size()));
  check(api().SetSymbolicDimensions(shape.info, symbols.data(), symbols.size()));
  check(api().ShapeInferContext_SetOutputTypeShape(context_, index, shape.info));
}

}  // namespace flwr_edge
