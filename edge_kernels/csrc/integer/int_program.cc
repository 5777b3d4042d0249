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
    Value& x = program_.values[0];
    if (!read_levels(&x.zero, &x.wide)) return "the input's zero is not in 0 to 255";
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
      case Op::kRescale: return rescale();
      case Op::kTable: return table();
      case Op::kNorm: return norm();
      case Op::kAttention: return attention();
      case Op::kMultiply: return multiply();
      case Op::kSlice: return slice();
      case Op::kConstant: return constant();
      case Op::kLstm:
      case Op::kGru: return recurrent();
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

  // 0 .. 255, or of 16 bits 2^16 .. 2^17 - 1.
  bool read_levels(int64_t* zero, bool* wide) {
    if (!read(zero, 0, 2 * kWide - 1) || (*zero > 255 && *zero < kWide)) return false;
    *wide = *zero >= kWide;
    *zero %= kWide;
    return true;
  }
  bool read_levels() { return read_levels(&now_.zero, &now_.wide); }

  bool read_constant(int64_t* to, int64_t low = 0) { return read(to, low, kMaxConstants); }
  // Multipliers and shifts, both or neither, and the result's zero.
  bool read_scale() {
    return read_constant(&now_.multipliers, -1) && read_constant(&now_.shifts, -1) &&
           (now_.multipliers < 0) == (now_.shifts < 0) && read_levels();
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

  // Levels of its own; a program's kinds of value stay otherwise.
  const char* scaled() {
    result_.zero = now_.zero;
    result_.wide = now_.wide;
    return nullptr;
  }

  void made_by_product() {
    result_.accumulators = now_.multipliers < 0;
    scaled();
  }

  const char* linear() {
    if (!read_layer()) return wrong_;
    if (input().wide) return kTooManyBits;
    if (!spend(&program_.work, input().size(), now_.rows)) return kTooMuchWork;
    result_.flat = input().flat;
    result_.free = input().free;
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
    if (input().free) return kFreeAxis;
    if (input().wide) return kTooManyBits;
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
    if (now_.mean && now_.kernel > kMostSum / input().top()) return kTooLargeSum;
    result_ = input();
    result_.d1 = positions(now_, input().d1);
    if (now_.mean) scaled();
    if (result_.d1 < 1) return "pool's input is shorter than its kernel";
    const bool fits = spend(&program_.work, result_.d1, input().d0, now_.kernel);
    return fits ? nullptr : kTooMuchWork;
  }

  const char* reduce() {
    bool keep;
    if (!read_mean() || !read(&now_.axis, 0, 1) || !read(&keep)) return wrong_;
    result_.zero = now_.mean ? now_.zero : input().zero;
    result_.wide = now_.mean ? now_.wide : input().wide;
    if (input().flat) {
      if (now_.axis != 0) return "reduce's axis is not one of its value's";
      now_.axis = 1;  // as (1, N)
      result_.flat = true;
    } else {
      const int64_t left = now_.axis == 0 ? input().d1 : input().d0;
      result_.flat = !keep;
      result_.swapped = keep && now_.axis == 1;
      result_.free = input().free && now_.axis == 1;
      if (result_.free && !keep) return kFreeAxis;
      now_.free_mean = input().free && now_.axis == 0;
      (result_.swapped ? result_.d0 : result_.d1) = left;
    }
    const int64_t count = now_.axis == 0 ? input().d0 : input().d1;
    return now_.mean && count > kMostSum / input().top() ? kTooLargeSum : nullptr;
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
    if (result_.free && now_.axis == 0) return kFreeAxis;
    int64_t length = 0;
    for (size_t i = 0; i < now_.inputs.size(); ++i) {
      const Value& v = input(i);
      const bool fits = now_.axis == 0 ? v.d1 == result_.d1 : v.d0 == result_.d0;
      if (v.flat != result_.flat || v.free != result_.free || !fits) {
        return "concat's shapes do not fit";
      }
      if (v.zero != result_.zero || v.wide != result_.wide) return "concat's values have different zeros";
      length += now_.axis == 0 ? v.d0 : v.d1;  // at most 2^12 of 2^28
    }
    (now_.axis == 0 ? result_.d0 : result_.d1) = length;
    return nullptr;
  }

  bool read_sum() {
    return read(&now_.shift, 1, kMostShift) && read_levels() && read(&now_.relu);
  }

  const char* add() {
    if (!read_values(2) || !read(&now_.m_x, 0, kMostScale) || !read(&now_.m_y, 0, kMostScale) ||
        !read_sum()) {
      return wrong_;
    }
    const Value &x = input(0), &y = input(1);
    const bool alike = x.flat == y.flat && x.free == y.free && x.d0 == y.d0 && x.d1 == y.d1;
    if (!alike) return "add's shapes differ";
    result_ = x;
    return scaled();
  }

  const char* affine() {
    if (!read_values(1) || !read_constant(&now_.multipliers) || !read_constant(&now_.bias) ||
        !read_sum()) {
      return wrong_;
    }
    if (input().free) return kFreeAxis;
    now_.axis = input().flat ? 1 : 0;
    result_ = input();
    return scaled();
  }

  const char* reshape() {
    int64_t c, l;
    if (!read_values(1) || !read_size(&c) || !read_size(&l, 0)) return wrong_;
    result_.flat = l == 0;
    result_.d0 = l == 0 ? 1 : c;
    result_.d1 = l == 0 ? c : l;
    result_.zero = input().zero;
    result_.wide = input().wide;
    if (input().free) return kFreeAxis;
    return result_.size() == input().size() ? nullptr : "reshape changes the number of elements";
  }

  const char* transpose() {
    if (!read_values(1)) return wrong_;
    if (input().flat) return "transpose needs a value of shape (C, L)";
    if (input().free) return kFreeAxis;
    result_ = input();
    std::swap(result_.d0, result_.d1);
    result_.swapped = !result_.swapped;
    return nullptr;
  }

  bool read_multiplier(int64_t* to) { return read(to, 0, kMaxConstants); }

  const char* rescale() {
    if (!read_values(1) || !read_multiplier(&now_.m_x) || !read(&now_.shift, 1, kMostShift) ||
        !read_levels()) {
      return wrong_;
    }
    result_ = input();
    return scaled();
  }

  const char* table() {
    if (!read_values(1) || !read_constant(&now_.weights) || !read_levels()) return wrong_;
    if (input().wide) return kTooManyBits;
    result_ = input();
    return scaled();
  }

  const char* norm() {
    if (!read_values(1) || !read_constant(&now_.multipliers) || !read_constant(&now_.bias) ||
        !read(&now_.shift, 1, kMostShift) || !read(&now_.epsilon, 0, kMostTerm) ||
        !read(&now_.rms) || !read_levels()) {
      return wrong_;
    }
    if (input().d1 > kMostNormed) return "it norms more than 16384 numbers";
    result_ = input();
    result_.swapped = false;
    return scaled();
  }

  const char* attention() {
    if (!read_values(3) || !read(&now_.heads, 1, kMaxBytes) || !read_multiplier(&now_.m_x) ||
        !read(&now_.shift, 1, kMostShift) || !read_multiplier(&now_.m_y) ||
        !read(&now_.shift_y, 1, kMostValueShift) || !read_levels()) {
      return wrong_;
    }
    const Value &x = input(0), &k = input(1), &v = input(2);
    if (x.wide || k.wide || v.wide) return kTooManyBits;
    const bool fits = !x.flat && !k.flat && !v.flat && x.d1 == k.d1 && k.d0 == v.d0 &&
                      k.free == v.free;
    if (!fits) return "attention's shapes do not fit";
    if (x.d1 % now_.heads || v.d1 % now_.heads) return "its heads are not of equal size";
    if (x.d1 / now_.heads > kMostHead || k.d0 > kMostLength) {
      return "attention has heads beyond 8192 or sees more than 65535";
    }
    result_.free = x.free;
    result_.d0 = x.d0;
    result_.d1 = v.d1;
    scaled();
    const bool affordable = spend(&program_.work, x.d0, k.d0, x.d1) &&
                            spend(&program_.work, x.d0, k.d0, v.d1);
    return affordable ? nullptr : kTooMuchWork;
  }

  // Axes are equal, or 1 in one of both. A free one is of another length at other times, even where
  // it is not now.
  static bool broadcast(int64_t a, int64_t b) { return a == b || a == 1 || b == 1; }

  const char* multiply() {
    if (!read_values(2) || !read(&now_.m_x, 0, kMostScale) || !read_sum()) return wrong_;
    const Value &x = input(0), &y = input(1);
    const bool free_fits = x.free == y.free || (x.free ? y.d0 : x.d0) == 1;
    if (x.flat != y.flat || !free_fits || !broadcast(x.d0, y.d0) || !broadcast(x.d1, y.d1)) {
      return "multiply's shapes do not fit";
    }
    result_.flat = x.flat;
    result_.free = x.free || y.free;
    result_.d0 = std::max(x.d0, y.d0);
    result_.d1 = std::max(x.d1, y.d1);
    // In the order of memory of the larger, of which nothing need be gathered then.
    result_.swapped = (x.size() >= y.size() ? x : y).swapped;
    scaled();
    if (result_.d0 > kMaxBytes / result_.d1) return nullptr;  // refused as too large
    return spend(&program_.work, result_.d0, result_.d1) ? nullptr : kTooMuchWork;
  }

  const char* slice() {
    int64_t count;
    if (!read_values(1) || !read(&now_.axis, 0, 1) || !read_size(&now_.start, 0) ||
        !read_size(&count)) {
      return wrong_;
    }
    result_ = input();
    if (result_.flat && now_.axis != 0) return "slice's axis is not one of its value's";
    if (result_.flat) now_.axis = 1;  // as (1, N)
    int64_t& size = now_.axis == 0 ? result_.d0 : result_.d1;
    if (now_.axis == 0 && result_.free && (now_.start != 0 || count != 1)) return kFreeAxis;
    if (now_.start + count > size) return "slice reaches beyond its value";
    size = count;
    result_.free = result_.free && now_.axis == 1;
    return nullptr;
  }

  const char* constant() {
    int64_t c, l;
    if (!read_constant(&now_.weights) || !read_size(&c) || !read_size(&l, 0) || !read_levels()) {
      return wrong_;
    }
    result_.flat = l == 0;
    result_.d0 = l == 0 ? 1 : c;
    result_.d1 = l == 0 ? c : l;
    return scaled();
  }

  const char* recurrent() {
    if (!read_values(1) || !read_size(&now_.rows) || !read(&now_.ways, 1, 3) ||
        !read_constant(&now_.weights) || !read(&now_.m_x, 0, kMostScale) ||
        !read(&now_.shift, 1, kMostShift) || !read_multiplier(&now_.m_y) ||
        !read(&now_.shift_y, 1, kMostShift) || !read_levels()) {
      return wrong_;
    }
    const int64_t ways = now_.ways == 3 ? 2 : 1;
    now_.constants.resize(size_t(3 * ways));
    for (int64_t& number : now_.constants) {
      if (!read_constant(&number)) return wrong_;
    }
    if (now_.wide) return "a recurrent layer's result has 8 bits";
    const Value& x = input();
    const int64_t rows = ways * gates_of(now_) * now_.rows;
    if (x.flat || x.d1 != rows) return "a recurrent layer's shapes do not fit";
    result_.free = x.free;
    result_.d0 = x.d0;
    result_.d1 = ways * now_.rows;
    scaled();
    return spend(&program_.work, x.d0, rows, now_.rows) ? nullptr : kTooMuchWork;
  }

  static constexpr int64_t kWide = 1 << 16;
  static constexpr const char* kTooManyBits = "it reads a value of 16 bits; 8 are needed";
  static constexpr const char* kFreeAxis = "it cannot do this to a free axis";
  static constexpr const char* kTooMuchWork = "it asks for more than 2^36 products a sample";
  static constexpr const char* kTooMuchMemory = "it asks for more than 256 MB of memory";
  static constexpr const char* kTooLargeSum = "its sums may not fit 32 bits";

  Program& program_;
  const char* wrong_ = "an operand is missing or out of its range";
  Instruction now_{};
  Value result_;
};

size_t room(const Value& value) { return (value.bytes() + kMargin + 63) / 64 * 64; }

// Each value lies on a cache line, in the first gap among those that are still to be read.
bool place(Program* program) {
  const size_t count = program->values.size();
  std::vector<size_t> last(count);  // the instruction that reads it last
  for (size_t i = 0; i + 1 < count; ++i) {
    last[i + 1] = i;
    for (int64_t x : program->instructions[i].inputs) last[size_t(x)] = i;
  }
  last[size_t(program->result)] = count;
  std::vector<size_t> alive;  // in the order of memory
  for (size_t v = 1; v < count; ++v) {
    const auto dead = [&](size_t each) { return last[each] < v - 1; };
    alive.erase(std::remove_if(alive.begin(), alive.end(), dead), alive.end());
    Value& value = program->values[v];
    size_t gap = 0;
    auto next = alive.begin();
    for (; next != alive.end() && program->values[*next].offset - gap < room(value); ++next) {
      gap = program->values[*next].offset + room(program->values[*next]);
    }
    value.offset = gap;
    alive.insert(next, v);
    program->scratch = std::max(program->scratch, gap + room(value));
    if (program->scratch > size_t(kMaxBytes)) return false;
  }
  return true;
}

bool read_input_shape(const std::vector<int64_t>& shape, int64_t length, Value* x) {
  if (shape.empty() || shape.size() > 2) return false;
  x->flat = shape.size() == 1;
  x->free = !x->flat && shape[0] == kFree;
  x->d0 = x->flat ? 1 : x->free ? length : shape[0];
  x->d1 = shape.back();
  return in_range(x->d0, 1, kMaxBytes) && in_range(x->d1, 1, kMaxBytes / x->d0);
}

}  // namespace

std::string parse_program(const Code& code, int64_t length, Program* out) {
  Program program;
  Value x;
  if (!read_input_shape(code.input_shape, length, &x)) {
    return "input_shape must be one or two positive sizes, without the batch, of 256 MB at most";
  }
  if (x.free && length > kMostLength) return "a free axis of more than 65535 is not possible";
  program.values.push_back(x);
  if (const char* wrong = Parser(code.numbers, &program).parse()) {
    return "program, instruction " + std::to_string(program.instructions.size()) + ": " + wrong;
  }
  if (!in_range(code.result, 0, int64_t(program.values.size()) - 1)) {
    return "result is value " + std::to_string(code.result) + ", which the program does not make";
  }
  program.result = code.result;
  if (!place(&program)) return "program: its values take more than 256 MB";
  *out = std::move(program);
  return "";
}

}  // namespace flwr_edge::integer
