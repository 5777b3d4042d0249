#include "int_network.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "int_attention.h"
#include "int_multiply.h"
#include "int_steps.h"
#include "layout.h"
#include "spread.h"

namespace flwr_edge::integer {
namespace {

constexpr size_t kMostExtra = size_t(1) << 29;
constexpr const char* kTooMuchPacked = "packed weights take more than 512 MB";
constexpr size_t kMostPlans = 16;
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

Network::Network(const Kernels& kernels, const Code& code, Program program)
    : kernels_(kernels), code_(code), program_(std::move(program)),
      steps_(program_.instructions.size()) {}

std::unique_ptr<Network> Network::create(const char* isa, const Code& code, int64_t longest,
                                         const std::vector<Constant>& constants,
                                         std::string* error) {
  Program program;
  *error = parse_program(code, longest, &program);
  if (!error->empty()) return nullptr;
  std::unique_ptr<Network> result(new Network(kernels_for(isa), code, std::move(program)));
  for (size_t i = 0; i < result->steps_.size(); ++i) {
    const std::string cause = result->prepare(i, constants);
    if (cause.empty()) continue;
    *error = "program, instruction " + std::to_string(i) + ": " + cause;
    return nullptr;
  }
  if (result->extra_of(result->program_) > kMostExtra) {
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
    case Op::kAffine:
    case Op::kNorm: return prepare_scales(index, constants);
    case Op::kTable:
    case Op::kConstant: return prepare_entries(index, constants);
    case Op::kLstm:
    case Op::kGru: return prepare_recurrence(index, constants);
    default: return "";
  }
}

std::string Network::prepare_product(size_t index, const std::vector<Constant>& constants) {
  const Instruction& i = program_.instructions[index];
  const Value& x = program_.values[size_t(i.inputs[0])];
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
  if (packed_ > kMostExtra) return kTooMuchPacked;
  return steps_[index].product.prepare(kernels_, i, x, given);
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
  // At its longest a free axis adds the most bits.
  const int64_t longest = program_.values[size_t(i.inputs[0])].d0;
  const int64_t more = i.free_mean ? free_mean({0, 0}, longest).shift : 0;
  for (int64_t p = 0; p < count; ++p) {
    if (step.m[p] < 0 || step.shift[p] < 1 || step.shift[p] + more > kMostShift) {
      return "position " + std::to_string(p) + " has multiplier " + std::to_string(step.m[p]) +
             " and shift " + std::to_string(step.shift[p]) +
             "; 0 to 2^31 - 1 and 1 to 62 are possible";
    }
  }
  return "";
}

std::string Network::prepare_scales(size_t index, const std::vector<Constant>& constants) {
  const Instruction& i = program_.instructions[index];
  const Value& x = program_.values[size_t(i.inputs[0])];
  const int64_t channels = i.op == Op::kAffine && i.axis == 0 ? x.d0 : x.d1;
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

// Of a table, or of a constant.
std::string Network::prepare_entries(size_t index, const std::vector<Constant>& constants) {
  const Instruction& i = program_.instructions[index];
  const Value& made = program_.values[index + 1];
  const int64_t count = i.op == Op::kTable ? 256 : made.size(), top = made.top();
  Step& step = steps_[index];
  step.m = int32s(i.weights, count, constants);
  if (!step.m) return missing("table", "int32", count);
  for (int64_t at = 0; at < count; ++at) {
    if (step.m[at] < 0 || step.m[at] > top) {
      return "entry " + std::to_string(at) + " of its table is " + std::to_string(step.m[at]) +
             "; 0 to " + std::to_string(top) + " are possible";
    }
  }
  return "";
}

std::string Network::prepare_recurrence(size_t index, const std::vector<Constant>& constants) {
  const Instruction& i = program_.instructions[index];
  const int32_t* logistic = int32s(i.weights, 257, constants);
  if (!logistic) return missing("table", "int32", 257);
  const int64_t rows = gates_of(i) * i.rows;
  std::vector<WayConstants> ways;
  for (auto number = i.constants.begin(); number != i.constants.end(); number += 3) {
    const auto* weights = constant<int8_t>(number[0], Type::kInt8, rows * i.rows, constants);
    if (!weights) return missing("weight", "int8", rows * i.rows);
    ways.push_back({weights, int32s(number[1], rows, constants),
                    int32s(number[2], rows, constants)});
    if (!ways.back().bias || !ways.back().m) return missing("bias or multiplier", "int32", rows);
    packed_ += size_t((rows + kBlock) * (i.rows + kStep));
    if (packed_ > kMostExtra) return kTooMuchPacked;
  }
  return steps_[index].recurrence.prepare(kernels_, i, logistic, ways);
}

size_t Network::extra_of(const Program& program, size_t index) const {
  const Instruction& i = program.instructions[index];
  if (i.inputs.empty()) return 0;
  const Value& x = program.values[size_t(i.inputs[0])];
  const auto lines = [](size_t bytes) { return (bytes + kMargin + 63) / 64 * 64; };
  switch (i.op) {
    case Op::kLinear:
    case Op::kConv: return steps_[index].product.scratch(x, program.values[index + 1]);
    case Op::kNorm: return lines(size_t(x.d1) * 4) + lines(x.bytes());
    case Op::kAttention: {
      const Value &k = program.values[size_t(i.inputs[1])], &v = program.values[size_t(i.inputs[2])];
      return attention_scratch(i, x, k, v) + lines(x.bytes()) + lines(k.bytes()) + lines(v.bytes());
    }
    case Op::kLstm:
    case Op::kGru: return steps_[index].recurrence.scratch() + lines(x.bytes());
    default: return 0;
  }
}

size_t Network::extra_of(const Program& program) const {
  size_t most = 0;
  for (size_t i = 0; i < steps_.size(); ++i) most = std::max(most, extra_of(program, i));
  return most;
}

std::shared_ptr<const Network::Plan> Network::plan_for(int64_t length) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = std::find_if(plans_.begin(), plans_.end(), [&](const auto& plan) {
    return !input().free || plan->program.values[0].d0 == length;
  });
  if (found != plans_.end()) {
    std::rotate(found, found + 1, plans_.end());
    return plans_.back();
  }
  auto plan = std::make_shared<Plan>();
  // A shorter value may fit a gap that a longer one leaves to others: all then take more memory.
  std::string error;
  if (input().free) error = parse_program(code_, length, &plan->program);
  else plan->program = program_;
  if (!error.empty()) {
    throw std::runtime_error("at a length of " + std::to_string(length) + ": " + error);
  }
  plan->extra = extra_of(plan->program);
  if (plans_.size() == kMostPlans) plans_.erase(plans_.begin());
  plans_.push_back(plan);
  return plan;
}

std::unique_ptr<Network::Frame> Network::take_frame(size_t size) const {
  auto frame = std::make_unique<Frame>();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      frame = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (frame->size < size) {
    frame->memory.reset();
    frame->memory.reset(new uint8_t[size + kLine]);
    frame->size = size;
    const auto address = reinterpret_cast<uintptr_t>(frame->memory.get());
    frame->bytes = frame->memory.get() + (kLine - address % kLine) % kLine;
  }
  return frame;
}

void Network::give_frame(std::unique_ptr<Frame> frame) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(frame));
}

void Network::run(const uint8_t* x, int64_t batch, int64_t length, void* y,
                  const Pool& pool) const {
  const std::shared_ptr<const Plan> plan = plan_for(length);
  const Program& program = plan->program;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, program.work));
  spread(pool, batch, grain, [&](int64_t begin, int64_t end) {
    std::unique_ptr<Frame> frame = take_frame(program.scratch + plan->extra);
    for (int64_t sample = begin; sample < end; ++sample) {
      run_sample({*plan, x + size_t(sample) * program.values[0].bytes(), frame->bytes},
                 static_cast<uint8_t*>(y) + size_t(sample) * plan->value(program.result).bytes());
    }
    give_frame(std::move(frame));
  });
}

void Network::run_sample(const Run& run, void* y) const {
  for (size_t i = 0; i < steps_.size(); ++i) run_instruction(i, run);
  const int64_t number = run.plan.program.result;
  Value plain = run.plan.value(number);
  plain.swapped = false;
  copy(kernels_, run.plan.value(number), run.at(number), plain, static_cast<uint8_t*>(y));
}

void Network::run_instruction(size_t index, const Run& run) const {
  const Instruction& i = run.plan.program.instructions[index];
  const Step& step = steps_[index];
  const Value& to = run.plan.value(int64_t(index) + 1);
  uint8_t* y = run.bytes + to.offset;
  if (i.op == Op::kConstant) return constant(step.m, to, y);
  const Value& from = run.plan.value(i.inputs[0]);
  const uint8_t* x = run.at(i.inputs[0]);
  switch (i.op) {
    case Op::kLinear:
    case Op::kConv: return step.product.run(from, x, i.inputs[0] != 0, to, run.room(), y);
    case Op::kRelu: return relu(from, x, y);
    case Op::kPool: return pool(i, from, x, to, step.m, step.shift, step.scale_step, y);
    case Op::kReduce: return reduce(i, from, x, step.m, step.shift, y);
    case Op::kAdd:
      return add(kernels_, i, from, x, run.plan.value(i.inputs[1]), run.at(i.inputs[1]), y);
    case Op::kAffine: return affine(i, from, x, step.m, step.term, y);
    case Op::kConcat:
      for (int64_t value : i.inputs) {
        const Value& part = run.plan.value(value);
        copy(kernels_, part, run.at(value), to, y);
        const int64_t elements = i.axis == 0 ? part.d0 * to.stride0() : part.d1 * to.stride1();
        y += size_t(elements) * to.element();
      }
      return;
    case Op::kReshape: {
      Value plain = from;
      plain.swapped = false;
      return copy(kernels_, from, x, plain, y);
    }
    case Op::kTranspose: return copy(kernels_, from, x, from, y);
    case Op::kRescale:
      return kernels_.rescale(source(from, x), {i.m_x, int(i.shift)}, from.size(), target(i, y));
    case Op::kTable: return table(kernels_, from, x, step.m, to, y);
    case Op::kNorm: return run_norm(index, run, y);
    case Op::kAttention: return run_attention(index, run, y);
    case Op::kMultiply:
      return multiply(kernels_, i, from, x, run.plan.value(i.inputs[1]), run.at(i.inputs[1]), to,
                      y);
    case Op::kSlice: return slice(i, from, x, to, y);
    case Op::kLstm:
    case Op::kGru: return run_recurrence(index, run, y);
    case Op::kConstant: return;
  }
}

namespace {

// A value by rows: itself, or a copy in the room, which is moved behind it.
const uint8_t* by_rows(const Kernels& kernels, const Value& value, const uint8_t* x,
                       uint8_t** room) {
  if (!value.swapped) return x;
  Value plain = value;
  plain.swapped = false;
  uint8_t* to = *room;
  copy(kernels, value, x, plain, to);
  *room += (value.bytes() + kMargin + 63) / 64 * 64;
  return to;
}

}  // namespace

void Network::run_norm(size_t index, const Run& run, uint8_t* y) const {
  const Instruction& i = run.plan.program.instructions[index];
  const Value& from = run.plan.value(i.inputs[0]);
  uint8_t* room = run.room();
  const uint8_t* x = by_rows(kernels_, from, run.at(i.inputs[0]), &room);
  const NormScale scale{steps_[index].m, steps_[index].term, i.epsilon, int(i.shift), i.rms};
  kernels_.norm(source(from, x), scale, from.d0, from.d1, reinterpret_cast<int32_t*>(room),
                target(i, y));
}

void Network::run_attention(size_t index, const Run& run, uint8_t* y) const {
  const Instruction& i = run.plan.program.instructions[index];
  const Value &x = run.plan.value(i.inputs[0]), &k = run.plan.value(i.inputs[1]),
              &v = run.plan.value(i.inputs[2]);
  uint8_t* room = run.room();
  const Heads heads{x, k, v, by_rows(kernels_, x, run.at(i.inputs[0]), &room),
                    by_rows(kernels_, k, run.at(i.inputs[1]), &room),
                    by_rows(kernels_, v, run.at(i.inputs[2]), &room)};
  attention(kernels_, i, heads, room, y);
}

void Network::run_recurrence(size_t index, const Run& run, uint8_t* y) const {
  const int64_t number = run.plan.program.instructions[index].inputs[0];
  const Value& from = run.plan.value(number);
  uint8_t* room = run.room();
  const uint8_t* x = by_rows(kernels_, from, run.at(number), &room);
  steps_[index].recurrence.run(from, x, room, y);
}

}  // namespace flwr_edge::integer
