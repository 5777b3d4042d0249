#include "int_network.h"

#include <algorithm>
#include <cstdlib>

#include "int_steps.h"
#include "layout.h"
#include "spread.h"

namespace flwr_edge::integer {
namespace {

constexpr size_t kMostExtra = size_t(1) << 29;
constexpr int64_t kGrain = int64_t(1) << 19;  // products: about 5 us of one thread's work

// The constant of that number, type and length, or null.
template <typename T>
const T* constant(int64_t number, Type type, int64_t count,
                  const std::vector<Constant>& constants) {
  if (number < 0 || number >= int64_t(constants.size())) return nullptr;
  const Constant& c = constants[size_t(number)];
  return c.type == type && c.count == count ? static_cast<const T*>(c.data) : nullptr;
}

const int32_t* int32s(int64_t number, int64_t count, const std::vector<Constant>& constants) {
  return constant<int32_t>(number, Type::kInt32, count, constants);
}

std::string missing(const char* what, const char* type, int64_t count) {
  return "its " + std::string(what) + " is not among the node's " + type + " inputs of " +
         std::to_string(count) + " elements";
}

}  // namespace

Network::Network(const Kernels& kernels, Program program)
    : kernels_(kernels), program_(std::move(program)), steps_(program_.instructions.size()) {}

std::unique_ptr<Network> Network::create(const char* isa, Program program,
                                         const std::vector<Constant>& constants,
                                         std::string* error) {
  std::unique_ptr<Network> result(new Network(kernels_for(isa), std::move(program)));
  for (size_t i = 0; i < result->steps_.size(); ++i) {
    const std::string cause = result->prepare(i, constants);
    if (cause.empty()) continue;
    *error = "program, instruction " + std::to_string(i) + ": " + cause;
    return nullptr;
  }
  if (result->extra_ > kMostExtra) {
    *error = "program: a layer takes more than 512 MB of memory";
    return nullptr;
  }
  return result;
}

std::string Network::prepare(size_t index, const std::vector<Constant>& constants) {
  switch (program_.instructions[index].op) {
    case Op::kLinear:
    case Op::kConv: return prepare_product(index, constants);
    case Op::kPool:
    case Op::kReduce: return prepare_mean(index, constants);
    case Op::kAffine: return prepare_affine(index, constants);
    default: return "";
  }
}

std::string Network::prepare_product(size_t index, const std::vector<Constant>& constants) {
  const Instruction& i = program_.instructions[index];
  const Value &x = program_.values[size_t(i.inputs[0])], &y = program_.values[index + 1];
  const int64_t inputs = i.op == Op::kConv ? x.d0 * i.kernel : x.d1;  // at most 2^28
  ProductConstants given{};
  given.weights = constant<int8_t>(i.weights, Type::kInt8, i.rows * inputs, constants);
  if (!given.weights) return missing("weight", "int8", i.rows * inputs);
  given.bias = int32s(i.bias, i.rows, constants);
  if (!given.bias) return missing("bias", "int32", i.rows);
  if (i.multipliers >= 0) {
    given.m = int32s(i.multipliers, i.rows, constants);
    given.shift = int32s(i.shifts, i.rows, constants);
    if (!given.m || !given.shift) return missing("multiplier or shift", "int32", i.rows);
  }
  packed_ += size_t((i.rows + kBlock) * (inputs + kStep));  // one constant may serve many
  if (packed_ > kMostExtra) return "packed weights take more than 512 MB";
  const std::string error = steps_[index].product.prepare(kernels_, i, x, y, given);
  extra_ = std::max(extra_, steps_[index].product.scratch());
  return error;
}

std::string Network::prepare_mean(size_t index, const std::vector<Constant>& constants) {
  const Instruction& i = program_.instructions[index];
  Step& step = steps_[index];
  if (!i.mean) return "";
  const int64_t positions = i.op == Op::kPool ? program_.values[index + 1].d1 : 1;
  int64_t count = positions;
  step.m = int32s(i.multipliers, count, constants);
  if (!step.m) step.m = int32s(i.multipliers, count = 1, constants);
  step.shift = int32s(i.shifts, count, constants);
  if (!step.m || !step.shift) return missing("multiplier or shift", "int32", positions);
  step.scale_step = count == 1 ? 0 : 1;
  for (int64_t p = 0; p < count; ++p) {
    if (step.m[p] < 0 || step.shift[p] < 1 || step.shift[p] > kMostShift) {
      return "position " + std::to_string(p) + " has multiplier " + std::to_string(step.m[p]) +
             " and shift " + std::to_string(step.shift[p]) +
             "; 0 to 2^31 - 1 and 1 to 62 are possible";
    }
  }
  return "";
}

std::string Network::prepare_affine(size_t index, const std::vector<Constant>& constants) {
  const Instruction& i = program_.instructions[index];
  const Value& x = program_.values[size_t(i.inputs[0])];
  const int64_t channels = i.axis == 0 ? x.d0 : x.d1;
  Step& step = steps_[index];
  step.m = int32s(i.multipliers, channels, constants);
  if (!step.m) return missing("multiplier", "int32", channels);
  step.term = constant<int64_t>(i.bias, Type::kInt64, channels, constants);
  if (!step.term) return missing("term", "int64", channels);
  for (int64_t c = 0; c < channels; ++c) {
    if (std::abs(int64_t(step.m[c])) > kMostScale || step.term[c] > kMostTerm ||
        step.term[c] < -kMostTerm) {
      return "channel " + std::to_string(c) + " has a multiplier beyond 2^30 or a term beyond 2^61";
    }
  }
  return "";
}

std::unique_ptr<Network::Frame> Network::take_frame() const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Frame> frame = std::move(idle_.back());
      idle_.pop_back();
      return frame;
    }
  }
  auto frame = std::make_unique<Frame>();
  frame->memory.reset(new uint8_t[program_.scratch + extra_ + kLine]);
  const auto address = reinterpret_cast<uintptr_t>(frame->memory.get());
  frame->bytes = frame->memory.get() + (kLine - address % kLine) % kLine;
  return frame;
}

void Network::give_frame(std::unique_ptr<Frame> frame) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(frame));
}

void Network::run(const uint8_t* x, int64_t batch, void* y, const Pool& pool) const {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, program_.work));
  spread(pool, batch, grain, [&](int64_t begin, int64_t end) {
    std::unique_ptr<Frame> frame = take_frame();
    for (int64_t sample = begin; sample < end; ++sample) {
      run_sample(x + sample * program_.values[0].size(),
                 static_cast<uint8_t*>(y) + size_t(sample) * result().bytes(), frame.get());
    }
    give_frame(std::move(frame));
  });
}

void Network::run_sample(const uint8_t* x, void* y, Frame* frame) const {
  for (size_t i = 0; i < steps_.size(); ++i) run_instruction(i, x, frame);
  const uint8_t* from = at(program_.result, x, *frame);
  Value plain = result();
  plain.swapped = false;
  if (plain.accumulators) {
    copy_accumulators(result(), reinterpret_cast<const int32_t*>(from), plain,
                      static_cast<int32_t*>(y));
  } else {
    copy(kernels_, result(), from, plain, static_cast<uint8_t*>(y));
  }
}

void Network::run_instruction(size_t index, const uint8_t* input, Frame* frame) const {
  const Instruction& i = program_.instructions[index];
  const Step& step = steps_[index];
  const Value &from = program_.values[size_t(i.inputs[0])], &to = program_.values[index + 1];
  const uint8_t* x = at(i.inputs[0], input, *frame);
  uint8_t* y = frame->bytes + to.offset;
  switch (i.op) {
    case Op::kLinear:
    case Op::kConv: return step.product.run(x, frame->bytes + program_.scratch, y);
    case Op::kRelu: return relu(x, from.size(), from.zero, y);
    case Op::kPool: return pool(i, from, x, to, step.m, step.shift, step.scale_step, y);
    case Op::kReduce: return reduce(i, from, x, step.m, step.shift, y);
    case Op::kAdd:
      return add(i, from, x, program_.values[size_t(i.inputs[1])], at(i.inputs[1], input, *frame),
                 y);
    case Op::kAffine: return affine(i, from, x, step.m, step.term, y);
    case Op::kConcat:
      for (int64_t value : i.inputs) {
        const Value& part = program_.values[size_t(value)];
        copy(kernels_, part, at(value, input, *frame), to, y);
        y += i.axis == 0 ? part.d0 * to.stride0() : part.d1 * to.stride1();
      }
      return;
    case Op::kReshape: {
      Value plain = from;
      plain.swapped = false;
      return copy(kernels_, from, x, plain, y);
    }
    case Op::kTranspose: return copy(kernels_, from, x, from, y);
  }
}

}  // namespace flwr_edge::integer
