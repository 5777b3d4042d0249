#include "int_program.h"

#include <algorithm>

#include "program_reader.h"

namespace flwr_edge::integer {
namespace {

constexpr int64_t kVersion = 1;
constexpr int64_t kMaxBytes = int64_t(1) << 28;  // 256 MB
constexpr int64_t kMaxConstants = (int64_t(1) << 31) - 1;

class Parser : ProgramReader {
 public:
  Parser(const std::vector<int64_t>& code, Program* program)
      : ProgramReader(code), program_(*program) {}

  // What is wrong, or null.
  const char* parse() {
    if (!more() || take() != kVersion) return "its version is not 1";
    if (!read(&program_.values[0].zero, 0, 255)) return "the input's zero is not in 0 to 255";
    while (more()) {
      if (program_.instructions.size() == kMaxInstructions) return "more than 4096 instructions";
      if (const char* wrong = instruction()) return wrong;
    }
    return nullptr;
  }

 private:
  const char* instruction() {
    now_ = Instruction{};
    now_.op = Op(take());
    result_ = Value{};
    if (const char* wrong = decode()) return wrong;
    if (!in_range(result_.d0, 1, kMaxBytes) || !in_range(result_.d1, 1, kMaxBytes / result_.d0)) {
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
      case Op::kRelu: return read_values(1) ? same() : wrong_;
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
      if (program_.values[size_t(value)].accumulators) {
        wrong_ = "it reads a value of accumulators";
        return false;
      }
      now_.inputs.push_back(value);
    }
    return true;
  }

  bool read_constant(int64_t* to, int64_t low = 0) { return read(to, low, kMaxConstants); }
  // Multipliers and shifts, both or neither, and the result's zero.
  bool read_scale() {
    return read_constant(&now_.multipliers, -1) && read_constant(&now_.shifts, -1) &&
           (now_.multipliers < 0) == (now_.shifts < 0) && read(&now_.zero, 0, 255);
  }
  bool read_layer() {
    return read_values(1) && read_constant(&now_.weights) && read_constant(&now_.bias) &&
           read_scale() && read(&now_.relu) && read(&now_.rows, 1, kMaxBytes);
  }
  bool read_mean() {
    return read_values(1) && read(&now_.mean) && read_scale() &&
           now_.mean == (now_.multipliers >= 0);
  }
  bool read_size(int64_t* to, int64_t low = 1) { return read(to, low, kMaxBytes); }
  bool read_pads() { return read_size(&now_.pad_begin, 0) && read_size(&now_.pad_end, 0); }

  const Value& input(size_t i = 0) const { return program_.values[size_t(now_.inputs[i])]; }

  const char* same() {
    result_ = input();
    return nullptr;
  }

  void made_by_product() {
    result_.accumulators = now_.multipliers < 0;
    result_.zero = now_.zero;
  }

  const char* linear() {
    if (!read_layer()) return wrong_;
    if (!spend(&program_.work, input().size(), now_.rows)) return kTooMuchWork;
    result_.flat = input().flat;
    result_.d0 = input().d0;
    result_.d1 = now_.rows;
    made_by_product();
    return nullptr;
  }

  const char* conv() {
    if (!read_layer() || !read_size(&now_.kernel) || !read_size(&now_.stride) ||
        !read_size(&now_.dilation) || !read_pads()) {
      return wrong_;
    }
    if (input().flat) return "conv needs a value of shape (C, L)";
    const int64_t span = (now_.kernel - 1) * now_.dilation + 1;
    if (std::max(now_.pad_begin, now_.pad_end) >= span) return "a pad is as long as the kernel";
    result_.d0 = now_.rows;
    result_.d1 = positions(now_, input().d1);
    result_.swapped = true;
    made_by_product();
    if (result_.d1 < 1) return "conv's input is shorter than its kernel";
    if (input().d0 > kMaxBytes / now_.kernel) return "a kernel is too large";
    if (now_.dilation > 1 && result_.d1 > kMaxBytes / (input().d0 * now_.kernel)) {
      return kTooMuchMemory;  // dilated fields are gathered
    }
    const int64_t padded = input().d1 + now_.pad_begin + now_.pad_end;
    if (padded > kMaxBytes / input().d0) return kTooMuchMemory;
    const bool fits = spend(&program_.work, result_.d1, input().d0 * now_.kernel, now_.rows);
    return fits ? nullptr : kTooMuchWork;
  }

  const char* pool() {
    if (!read_mean() || !read_size(&now_.kernel) || !read_size(&now_.stride) || !read_pads()) {
      return wrong_;
    }
    if (input().flat) return "pool needs a value of shape (C, L)";
    if (std::max(now_.pad_begin, now_.pad_end) >= now_.kernel) {
      return "a pad is as long as the kernel";
    }
    if (now_.mean && now_.kernel > kMostSum / 255) return kTooLargeSum;
    result_ = input();
    result_.d1 = positions(now_, input().d1);
    if (now_.mean) result_.zero = now_.zero;
    if (result_.d1 < 1) return "pool's input is shorter than its kernel";
    const bool fits = spend(&program_.work, result_.d1, input().d0, now_.kernel);
    return fits ? nullptr : kTooMuchWork;
  }

  const char* reduce() {
    bool keep;
    if (!read_mean() || !read(&now_.axis, 0, 1) || !read(&keep)) return wrong_;
    result_.zero = now_.mean ? now_.zero : input().zero;
    if (input().flat) {
      if (now_.axis != 0) return "reduce's axis is not one of its value's";
      now_.axis = 1;  // as (1, N)
      result_.flat = true;
    } else {
      const int64_t left = now_.axis == 0 ? input().d1 : input().d0;
      result_.flat = !keep;
      result_.swapped = keep && now_.axis == 1;
      (result_.swapped ? result_.d0 : result_.d1) = left;
    }
    const int64_t count = now_.axis == 0 ? input().d0 : input().d1;
    return now_.mean && count > kMostSum / 255 ? kTooLargeSum : nullptr;
  }

  const char* concat() {
    int64_t count;
    if (!read(&now_.axis, 0, 1) || !read(&count, 1, int64_t(kMaxInstructions)) ||
        !read_values(count)) {
      return wrong_;
    }
    result_ = input();
    if (result_.flat && now_.axis != 0) return "concat's axis is not one of its values'";
    if (result_.flat) now_.axis = 1;
    int64_t length = 0;
    for (size_t i = 0; i < now_.inputs.size(); ++i) {
      const Value& v = input(i);
      const bool fits = now_.axis == 0 ? v.d1 == result_.d1 : v.d0 == result_.d0;
      if (v.flat != result_.flat || !fits) return "concat's shapes do not fit";
      if (v.zero != result_.zero) return "concat's values have different zeros";
      length += now_.axis == 0 ? v.d0 : v.d1;  // at most 2^12 of 2^28
    }
    (now_.axis == 0 ? result_.d0 : result_.d1) = length;
    return nullptr;
  }

  bool read_sum() {
    return read(&now_.shift, 1, kMostShift) && read(&now_.zero, 0, 255) && read(&now_.relu);
  }

  const char* add() {
    if (!read_values(2) || !read(&now_.m_x, 0, kMostScale) || !read(&now_.m_y, 0, kMostScale) ||
        !read_sum()) {
      return wrong_;
    }
    const Value &x = input(0), &y = input(1);
    if (x.flat != y.flat || x.d0 != y.d0 || x.d1 != y.d1) return "add's shapes differ";
    return scaled();
  }

  const char* affine() {
    if (!read_values(1) || !read_constant(&now_.multipliers) || !read_constant(&now_.bias) ||
        !read_sum()) {
      return wrong_;
    }
    now_.axis = input().flat ? 1 : 0;
    return scaled();
  }

  const char* scaled() {
    result_ = input();
    result_.zero = now_.zero;
    return nullptr;
  }

  const char* reshape() {
    int64_t c, l;
    if (!read_values(1) || !read_size(&c) || !read_size(&l, 0)) return wrong_;
    result_.flat = l == 0;
    result_.d0 = l == 0 ? 1 : c;
    result_.d1 = l == 0 ? c : l;
    result_.zero = input().zero;
    return result_.size() == input().size() ? nullptr : "reshape changes the number of elements";
  }

  const char* transpose() {
    if (!read_values(1)) return wrong_;
    if (input().flat) return "transpose needs a value of shape (C, L)";
    result_ = input();
    std::swap(result_.d0, result_.d1);
    result_.swapped = !result_.swapped;
    return nullptr;
  }

  static constexpr const char* kTooMuchWork = "it asks for more than 2^36 products a sample";
  static constexpr const char* kTooMuchMemory = "it asks for more than 256 MB of memory";
  static constexpr const char* kTooLargeSum = "its sums may not fit 32 bits";

  Program& program_;
  const char* wrong_ = "an operand is missing or out of its range";
  Instruction now_{};
  Value result_;
};

// Values lie one behind the other, each on a cache line: these networks are small.
bool place(Program* program) {
  for (size_t v = 1; v < program->values.size(); ++v) {
    program->values[v].offset = program->scratch;
    program->scratch += (program->values[v].bytes() + kMargin + 63) / 64 * 64;
    if (program->scratch > size_t(kMaxBytes)) return false;
  }
  return true;
}

bool read_input_shape(const std::vector<int64_t>& shape, Value* x) {
  if (shape.empty() || shape.size() > 2) return false;
  x->flat = shape.size() == 1;
  x->d0 = x->flat ? 1 : shape[0];
  x->d1 = shape.back();
  return in_range(x->d0, 1, kMaxBytes) && in_range(x->d1, 1, kMaxBytes / x->d0);
}

}  // namespace

std::string parse_program(const std::vector<int64_t>& code, const std::vector<int64_t>& input_shape,
                          int64_t result, Program* out) {
  Program program;
  Value x;
  if (!read_input_shape(input_shape, &x)) {
    return "input_shape must be one or two positive sizes, without the batch, of 256 MB at most";
  }
  program.values.push_back(x);
  if (const char* wrong = Parser(code, &program).parse()) {
    return "program, instruction " + std::to_string(program.instructions.size()) + ": " + wrong;
  }
  if (!in_range(result, 0, int64_t(program.values.size()) - 1)) {
    return "result is value " + std::to_string(result) + ", which the program does not make";
  }
  program.result = result;
  if (!place(&program)) return "program: its values take more than 256 MB";
  *out = std::move(program);
  return "";
}

}  // namespace flwr_edge::integer
