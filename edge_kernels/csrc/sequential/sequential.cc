#include "sequential.h"

#include <algorithm>
#include <cstring>

#include "sequential_pointwise.h"
#include "spread.h"

namespace flwr_edge {
namespace {

constexpr size_t kMostScratch = size_t(1) << 29;
constexpr size_t kMostUnpacked = size_t(1) << 29;
constexpr int64_t kGrain = int64_t(1) << 19;  // products: about 5 us of one thread's work

constexpr const char* kTooManyConstants = "unpacked constants take more than 512 MB";

std::string in_instruction(size_t index, const std::string& cause) {
  return "program, instruction " + std::to_string(index) + ": " + cause;
}

const Constant* constant_at(int64_t index, const std::vector<Constant>& constants) {
  return index < int64_t(constants.size()) ? &constants[size_t(index)] : nullptr;
}

}  // namespace

Sequential::Sequential(const Isa& isa, Program program)
    : kernels_(sequential_kernels(isa.name)),
      program_(std::move(program)),
      steps_(program_.instructions.size()) {}

std::unique_ptr<Sequential> Sequential::create(const Isa& isa, Program program,
                                               const std::vector<Constant>& constants,
                                               std::string* error) {
  std::unique_ptr<Sequential> result(new Sequential(isa, std::move(program)));
  for (size_t i = 0; i < result->steps_.size(); ++i) {
    *error = result->prepare(isa, i, constants);
    if (!error->empty()) return nullptr;
  }
  if (result->bytes_ > kMostScratch) {
    *error = "program: a layer takes more than 512 MB of memory";
    return nullptr;
  }
  return result;
}

std::string Sequential::prepare(const Isa& isa, size_t index,
                                const std::vector<Constant>& constants) {
  std::string cause;
  switch (program_.instructions[index].op) {
    case Op::kLinear:
    case Op::kConv: cause = prepare_layer(isa, index, constants); break;
    case Op::kAffine: cause = prepare_affine(index, constants); break;
    default: break;
  }
  return cause.empty() ? cause : in_instruction(index, cause);
}

bool Sequential::unpacked(size_t bytes) {
  unpacked_ += bytes;
  return unpacked_ <= kMostUnpacked;
}

std::string Sequential::prepare_layer(const Isa& isa, size_t index,
                                      const std::vector<Constant>& constants) {
  const Instruction& i = program_.instructions[index];
  const Value &x = program_.values[size_t(i.inputs[0])], &y = program_.values[index + 1];
  const Constant* blob = constant_at(i.weights, constants);
  if (!blob || blob->floats) return "its weights are not among the node's uint8 inputs";
  Weights weights;
  if (const char* wrong = open_weights(static_cast<const uint8_t*>(blob->data), blob->bytes,
                                       &weights)) {
    return wrong;
  }
  const bool conv = i.op == Op::kConv;
  const int64_t inputs = conv ? x.d0 * i.kernel : x.d1;
  if (weights.rows != i.rows || weights.inputs != inputs) {
    return "its weights are " + std::to_string(weights.rows) + " by " +
           std::to_string(weights.inputs) + "; the program needs " + std::to_string(i.rows) +
           " by " + std::to_string(inputs);
  }
  const float* bias = nullptr;
  if (i.bias >= 0) {
    const Constant* b = constant_at(i.bias, constants);
    if (!b || !b->floats || b->bytes != size_t(i.rows) * 4) {
      return "its bias is not a float input of " + std::to_string(i.rows) + " elements";
    }
    bias = static_cast<const float*>(b->data);
  }
  if (!unpacked(SequentialLayer::unpacked_bytes(weights))) return kTooManyConstants;
  size_t extra = 0;
  if (conv) {
    const ConvShape shape{x.d0, i.kernel, i.stride, i.dilation, i.pad_begin, i.pad_end};
    steps_[index].conv =
        std::make_unique<SequentialConv>(isa, weights, bias, i.relu, shape, x.d1, y.d1);
    extra = steps_[index].conv->scratch();
  } else {
    steps_[index].linear = std::make_unique<SequentialLinear>(isa, weights, bias, i.relu, x.d0);
    extra = steps_[index].linear->scratch() + (x.swapped ? size_t(x.size()) * 4 : 0);
  }
  bytes_ = std::max(bytes_, extra);
  return "";
}

std::string Sequential::prepare_affine(size_t index, const std::vector<Constant>& constants) {
  const Instruction& i = program_.instructions[index];
  const Value& x = program_.values[size_t(i.inputs[0])];
  const int64_t length = i.axis == 0 ? x.d0 : x.d1;
  const int64_t numbers[] = {i.weights, i.bias};
  std::vector<float>* vectors[] = {&steps_[index].scale, &steps_[index].shift};
  for (int k = 0; k < 2; ++k) {
    if (numbers[k] < 0) continue;
    const Constant* c = constant_at(numbers[k], constants);
    if (!c || !c->floats || (c->bytes != 4 && c->bytes != size_t(length) * 4)) {
      return "affine's scale or shift is not a float input of 1 or " + std::to_string(length) +
             " elements";
    }
    if (!unpacked(size_t(length) * 4)) return kTooManyConstants;
    const auto* from = static_cast<const float*>(c->data);
    if (c->bytes == 4) {
      vectors[k]->assign(size_t(length), *from);
    } else {
      vectors[k]->assign(from, from + length);
    }
  }
  return "";
}

std::unique_ptr<Sequential::Frame> Sequential::take_frame() const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Frame> frame = std::move(idle_.back());
      idle_.pop_back();
      return frame;
    }
  }
  auto frame = std::make_unique<Frame>();
  const size_t floats = (program_.scratch + 15) / 16 * 64;
  frame->memory.reset(new uint8_t[floats + bytes_ + kLine]);
  const auto address = reinterpret_cast<uintptr_t>(frame->memory.get());
  uint8_t* aligned = frame->memory.get() + (kLine - address % kLine) % kLine;
  frame->floats = reinterpret_cast<float*>(aligned);
  frame->bytes = aligned + floats;
  frame->at.resize(program_.values.size());
  frame->largest.resize(program_.values.size());
  return frame;
}

void Sequential::give_frame(std::unique_ptr<Frame> frame) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(frame));
}

void Sequential::run(const float* x, int64_t batch, float* const* y, const Pool& pool) const {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, program_.work));
  spread(pool, batch, grain, [&](int64_t begin, int64_t end) {
    std::unique_ptr<Frame> frame = take_frame();
    for (int64_t sample = begin; sample < end; ++sample) {
      run_sample(x + sample * program_.values[0].size(), sample, y, frame.get());
    }
    give_frame(std::move(frame));
  });
}

void Sequential::run_sample(const float* x, int64_t sample, float* const* y,
                            Frame* frame) const {
  frame->at[0] = const_cast<float*>(x);  // no instruction writes value 0
  for (size_t v = 1; v < program_.values.size(); ++v) {
    frame->at[v] = frame->floats + program_.values[v].offset;
  }
  std::fill(frame->largest.begin(), frame->largest.end(), kUnknown);
  // Results are made in place where the order in memory is ONNX's.
  for (size_t o = 0; o < program_.outputs.size(); ++o) {
    const auto v = size_t(program_.outputs[o]);
    const Value& value = program_.values[v];
    if (v > 0 && !value.swapped) frame->at[v] = y[o] + sample * value.size();
  }
  for (size_t i = 0; i < steps_.size(); ++i) run_instruction(i, frame);
  for (size_t o = 0; o < program_.outputs.size(); ++o) {
    const auto v = size_t(program_.outputs[o]);
    const Value& value = program_.values[v];
    float* to = y[o] + sample * value.size();
    Value plain = value;
    plain.swapped = false;
    if (frame->at[v] != to) sequential_copy(value, frame->at[v], plain, to);
  }
}

const float* Sequential::in_onnx_order(int64_t value, const Frame& frame, float* room) const {
  const Value& v = program_.values[size_t(value)];
  const float* x = frame.at[size_t(value)];
  if (!v.swapped) return x;
  Value plain = v;
  plain.swapped = false;
  sequential_copy(v, x, plain, room);
  return room;
}

void Sequential::run_instruction(size_t index, Frame* frame) const {
  const Instruction& i = program_.instructions[index];
  const Step& step = steps_[index];
  const auto first = size_t(i.inputs[0]);
  const Value &from = program_.values[first], &to = program_.values[index + 1];
  const float* x = frame->at[first];
  float* y = frame->at[index + 1];
  uint32_t& largest = frame->largest[index + 1];
  switch (i.op) {
    case Op::kLinear: {
      auto* room = reinterpret_cast<float*>(frame->bytes + step.linear->scratch());
      largest = step.linear->run(in_onnx_order(i.inputs[0], *frame, room), frame->bytes, y);
      break;
    }
    case Op::kConv:
      largest = step.conv->run(x, !from.swapped, frame->largest[first], frame->bytes, y);
      break;
    case Op::kRelu: sequential_relu(x, from.size(), y); break;
    case Op::kPool: sequential_pool(i, from, x, to, y); break;
    case Op::kReduce: sequential_reduce(kernels_, i, from, x, y); break;
    case Op::kAdd: {
      const auto second = size_t(i.inputs[1]);
      sequential_add(from, x, program_.values[second], frame->at[second], y);
      break;
    }
    case Op::kAffine:
      sequential_affine(i, from, x, step.scale.empty() ? nullptr : step.scale.data(),
                        step.shift.empty() ? nullptr : step.shift.data(), y);
      break;
    case Op::kConcat:
      for (int64_t input : i.inputs) {
        const Value& part = program_.values[size_t(input)];
        sequential_copy(part, frame->at[size_t(input)], to, y);
        y += i.axis == 0 ? part.d0 * to.stride0() : part.d1 * to.stride1();
      }
      break;
    case Op::kReshape:
      if (in_onnx_order(i.inputs[0], *frame, y) != y) std::memcpy(y, x, size_t(to.size()) * 4);
      largest = frame->largest[first];
      break;
    case Op::kTranspose:
      std::memcpy(y, x, size_t(to.size()) * 4);
      largest = frame->largest[first];
      break;
  }
}

}  // namespace flwr_edge
