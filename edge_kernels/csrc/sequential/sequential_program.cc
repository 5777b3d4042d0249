#include "sequential_program.h"

#include <algorithm>

#include "program_reader.h"

namespace flwr_edge {
namespace {

constexpr int64_t kVersion = 1;
constexpr int64_t kMaxFloats = int64_t(1) << 26;  // 256 MB

class Parser : ProgramReader {
 public:
  Parser(const std::vector<int64_t>& code, Program* program)
      : ProgramReader(code), program_(*program) {}

  // What is wrong, or null.
  const char* parse() {
    if (!more() || take() != kVersion) return "its version is not 1";
    while (more()) {
      if (program_.instructions.size() == kMaxInstructions) return "more than 4096 instructions";
      if (const char* wrong = instruction()) return wrong;
    }
    return program_.instructions.empty() ? "it has no instructions" : nullptr;
  }

 private:
  const char* instruction() {
    now_ = Instruction{};
    now_.op = Op(take());
    result_ = Value{};
    if (const char* wrong = decode()) return wrong;
    if (!in_range(result_.d0, 1, kMaxFloats) || !in_range(result_.d1, 1, kMaxFloats) ||
        result_.size() > kMaxFloats) {
      return "a value is empty or larger than 256 MB";
    }
    program_.instructions.push_back(now_);
    program_.values.push_back(result_);
    return nullptr;
  }

  const char* decode() {
    switch (now_.op) {
      case Op::kLinear: return linear();
      case Op::kConv: return conv();
      case Op::kRelu: return read_values(1) ? same() : kBadOperands;
      case Op::kPool: return pool();
      case Op::kReduce: return reduce();
      case Op::kConcat: return concat();
      case Op::kAdd: return add();
      case Op::kAffine: return affine();
      case Op::kReshape: return reshape();
      case Op::kTranspose: return transpose();
    }
    return "an opcode is unknown to this library";
  }

  bool read_values(int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      int64_t value;
      if (!read(&value, 0, int64_t(program_.values.size()) - 1)) return false;
      now_.inputs.push_back(value);
    }
    return true;
  }

  bool read_constants() { return read(&now_.weights, -1, kMax32) && read(&now_.bias, -1, kMax32); }
  bool read_layer() {
    return read_values(1) && read_constants() && read(&now_.relu) &&
           read(&now_.rows, 1, kMaxFloats) && now_.weights >= 0;
  }
  bool read_window() {
    return read(&now_.kernel, 1, kMaxFloats) && read(&now_.stride, 1, kMaxFloats) &&
           read(&now_.dilation, 1, kMaxFloats) && read(&now_.pad_begin, 0, kMaxFloats) &&
           read(&now_.pad_end, 0, kMaxFloats);
  }

  const Value& input(size_t i = 0) const { return program_.values[size_t(now_.inputs[i])]; }

  const char* same() {
    result_ = input();
    return nullptr;
  }

  const char* linear() {
    if (!read_layer()) return kBadOperands;
    if (!spend(&program_.work, input().size(), now_.rows)) return kTooMuchWork;
    result_.flat = input().flat;
    result_.d0 = input().d0;
    result_.d1 = now_.rows;
    return nullptr;
  }

  const char* conv() {
    if (!read_layer() || !read_window()) return kBadOperands;
    if (input().flat) return "conv needs a value of shape (C, L)";
    const int64_t span = (now_.kernel - 1) * now_.dilation + 1;
    if (std::max(now_.pad_begin, now_.pad_end) >= span) return "a pad is as long as the kernel";
    result_.d0 = now_.rows;
    result_.d1 = positions(now_, input().d1);
    result_.swapped = true;
    if (result_.d1 < 1) return "conv's input is shorter than its kernel";
    if (input().d0 > kMaxFloats / now_.kernel) return "a kernel is too large";
    if (now_.dilation > 1 && result_.d1 > kMaxFloats / (input().d0 * now_.kernel + kMargin)) {
      return kTooMuchMemory;  // dilated fields are gathered
    }
    const int64_t padded = input().d1 + now_.pad_begin + now_.pad_end;
    if (padded > kMaxFloats / input().d0) return kTooMuchMemory;
    const bool fits = spend(&program_.work, result_.d1, input().d0 * now_.kernel, now_.rows);
    return fits ? nullptr : kTooMuchWork;
  }

  const char* pool() {
    if (!read_values(1) || !read(&now_.kind, 0, 2) || !read_window()) return kBadOperands;
    if (input().flat) return "pool needs a value of shape (C, L)";
    if (std::max(now_.pad_begin, now_.pad_end) >= now_.kernel) {
      return "a pad is as long as the kernel";
    }
    if (now_.dilation > 1 && now_.pad_begin + now_.pad_end > 0) {
      return "pool takes pads or a dilation, not both";  // a window could lie in the padding alone
    }
    result_ = input();
    result_.d1 = positions(now_, input().d1);
    if (result_.d1 < 1) return "pool's input is shorter than its kernel";
    const bool fits = spend(&program_.work, result_.d1, input().d0, now_.kernel);
    return fits ? nullptr : kTooMuchWork;
  }

  const char* reduce() {
    bool keep;
    if (!read_values(1) || !read(&now_.kind, 0, 1) || !read(&now_.axis, 0, 1) || !read(&keep)) {
      return kBadOperands;
    }
    if (input().flat) {
      if (now_.axis != 0) return "reduce's axis is not one of its value's";
      now_.axis = 1;  // as (1, N)
      result_.flat = true;
      return nullptr;
    }
    const int64_t left = now_.axis == 0 ? input().d1 : input().d0;
    result_.flat = !keep;
    if (keep && now_.axis == 1) {
      result_.d0 = left;
      result_.swapped = true;
    } else {
      result_.d1 = left;
    }
    return nullptr;
  }

  const char* concat() {
    int64_t count;
    if (!read(&now_.axis, 0, 1) || !read(&count, 1, int64_t(kMaxInstructions)) ||
        !read_values(count)) {
      return kBadOperands;
    }
    result_ = input();
    if (result_.flat && now_.axis != 0) return "concat's axis is not one of its values'";
    if (result_.flat) now_.axis = 1;
    int64_t length = 0;
    for (size_t i = 0; i < now_.inputs.size(); ++i) {
      const Value& v = input(i);
      const bool fits = now_.axis == 0 ? v.d1 == result_.d1 : v.d0 == result_.d0;
      if (v.flat != result_.flat || !fits) return "concat's shapes do not fit";
      length += now_.axis == 0 ? v.d0 : v.d1;  // at most 2^12 of 2^26
    }
    (now_.axis == 0 ? result_.d0 : result_.d1) = length;
    return nullptr;
  }

  const char* add() {
    if (!read_values(2)) return kBadOperands;
    const Value &x = input(0), &y = input(1);
    if (x.flat != y.flat || x.d0 != y.d0 || x.d1 != y.d1) return "add's shapes differ";
    return same();
  }

  const char* affine() {
    if (!read_values(1) || !read_constants() || !read(&now_.axis, 0, 1) || !read(&now_.relu)) {
      return kBadOperands;
    }
    if (now_.weights < 0 && now_.bias < 0) return "affine has neither scale nor shift";
    if (input().flat && now_.axis != 0) return "affine's axis is not one of its value's";
    if (input().flat) now_.axis = 1;
    return same();
  }

  const char* reshape() {
    int64_t c, l;
    if (!read_values(1) || !read(&c, 1, kMaxFloats) || !read(&l, 0, kMaxFloats)) {
      return kBadOperands;
    }
    result_.flat = l == 0;
    result_.d0 = l == 0 ? 1 : c;
    result_.d1 = l == 0 ? c : l;
    return result_.size() == input().size() ? nullptr : "reshape changes the number of elements";
  }

  const char* transpose() {
    if (!read_values(1)) return kBadOperands;
    if (input().flat) return "transpose needs a value of shape (C, L)";
    result_ = input();
    std::swap(result_.d0, result_.d1);
    result_.swapped = !result_.swapped;
    return nullptr;
  }

  static constexpr int64_t kMax32 = (int64_t(1) << 31) - 1;
  static constexpr int64_t kMargin = 64;
  static constexpr const char* kBadOperands = "an operand is missing or out of its range";
  static constexpr const char* kTooMuchWork = "it asks for more than 2^36 products a sample";
  static constexpr const char* kTooMuchMemory = "it asks for more than 256 MB of memory";

  Program& program_;
  Instruction now_{};
  Value result_;
};

// Places values in memory: the lowest gap among those that are alive at the same time.
class Planner {
 public:
  explicit Planner(Program* program) : program_(*program), last_(program->values.size(), 0) {
    for (size_t i = 0; i < program_.instructions.size(); ++i) {
      for (int64_t input : program_.instructions[i].inputs) last_[size_t(input)] = i + 1;
    }
    for (int64_t output : program_.outputs) last_[size_t(output)] = program_.values.size();
  }

  bool plan() {
    for (size_t v = 1; v < program_.values.size(); ++v) place(v);
    return program_.scratch <= size_t(kMaxFloats);
  }

 private:
  void place(size_t v) {
    alive_.erase(std::remove_if(alive_.begin(), alive_.end(),
                                [&](size_t other) { return last_[other] < v; }),
                 alive_.end());
    std::sort(alive_.begin(), alive_.end(), [&](size_t a, size_t b) {
      return program_.values[a].offset < program_.values[b].offset;
    });
    size_t offset = 0;
    for (size_t other : alive_) {
      const Value& busy = program_.values[other];
      if (offset + room(v) <= busy.offset) break;
      offset = std::max(offset, busy.offset + room(other));
    }
    program_.values[v].offset = offset;
    program_.scratch = std::max(program_.scratch, offset + room(v));
    alive_.push_back(v);
  }

  size_t room(size_t v) const { return (size_t(program_.values[v].size()) + 15) / 16 * 16; }

  Program& program_;
  std::vector<size_t> last_;  // the instruction's value that reads it last
  std::vector<size_t> alive_;
};

bool read_input_shape(const std::vector<int64_t>& shape, Value* x) {
  if (shape.empty() || shape.size() > 2) return false;
  x->flat = shape.size() == 1;
  x->d0 = x->flat ? 1 : shape[0];
  x->d1 = shape.back();
  return in_range(x->d0, 1, kMaxFloats) && in_range(x->d1, 1, kMaxFloats) &&
         x->size() <= kMaxFloats;
}

}  // namespace

std::string parse_program(const std::vector<int64_t>& code, const std::vector<int64_t>& input_shape,
                          const std::vector<int64_t>& outputs, Program* out) {
  Program program;
  Value x;
  if (!read_input_shape(input_shape, &x)) {
    return "input_shape must be one or two positive sizes, without the batch, of 256 MB at most";
  }
  program.values.push_back(x);
  if (const char* wrong = Parser(code, &program).parse()) {
    return "program, instruction " + std::to_string(program.instructions.size()) + ": " + wrong;
  }
  if (outputs.empty() || outputs.size() > kMaxInstructions) {
    return "results must name 1 to 4096 values";
  }
  for (int64_t output : outputs) {
    if (!in_range(output, 0, int64_t(program.values.size()) - 1)) {
      return "results name value " + std::to_string(output) + ", which the program does not make";
    }
  }
  program.outputs = outputs;
  if (!Planner(&program).plan()) return "program: its values take more than 256 MB";
  *out = std::move(program);
  return "";
}

}  // namespace flwr_edge
