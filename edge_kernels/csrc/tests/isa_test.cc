// Compares every instruction set of this build and CPU with the scalar oracle, bit for bit.
//
//   isa_test [name...] [--seed N] [--cases N]    exit code 1 at the first mismatch
//   isa_test name --count KERNEL [--cases N]    runs one kernel N times on fixed data, to count
//       instructions (take the difference of two values of N). KERNEL: quantize, tables,
//       fast_tables, or gemv, fast, unpack, gemm followed by the bits: gemv2, gemm4, ...
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "isa.h"

namespace flwr_edge {
namespace {

char g_case[512];  // what runs now, for reports and the signal handler
const char* g_isa = "";

[[noreturn]] void fail(const std::string& what) {
  std::printf("%-10s FAILED: %s\n  in %s\n", g_isa, what.c_str(), g_case);
  std::exit(1);
}

#if !defined(__SANITIZE_ADDRESS__)
void on_signal(int) {
  const char* parts[] = {g_isa, " FAILED: invalid memory access in ", g_case, "\n"};
  for (const char* part : parts) {
    if (write(1, part, std::strlen(part)) < 0) break;
  }
  _exit(1);
}
#endif

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  bool chance(int one_in) { return below(one_in) == 0; }
  float uniform() { return float(int64_t(bits() >> 40)) * 0x1p-23f - 1.0f; }  // [-1, 1)

 private:
  uint64_t state_;
};

// An array whose every byte starts as `poison` and that faults on access past its end: under
// AddressSanitizer a heap block of the exact size, else memory that ends at a guard page or, to try
// all alignments, up to 63 bytes before it.
template <typename T>
class Buffer {
 public:
  Buffer(size_t count, Random& random, int poison = 0xa5) : count_(count) {
    const size_t bytes = count * sizeof(T);
    const size_t gap = random.chance(2) ? 0 : size_t(random.below(64)) / sizeof(T) * sizeof(T);
#if defined(__SANITIZE_ADDRESS__)
    memory_ = static_cast<char*>(std::malloc(bytes + gap));
    std::memset(memory_, poison, bytes + gap);
    data_ = reinterpret_cast<T*>(memory_ + gap);
#else
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const size_t usable = (bytes + gap + page) / page * page;
    mapped_ = usable + page;
    void* at = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) fail("no memory");
    memory_ = static_cast<char*>(at);
    mprotect(memory_ + usable, page, PROT_NONE);
    data_ = reinterpret_cast<T*>(memory_ + usable - gap - bytes);
    std::memset(memory_ + usable - gap - bytes, poison, bytes);
#endif
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
#if defined(__SANITIZE_ADDRESS__)
    std::free(memory_);
#else
    munmap(memory_, mapped_);
#endif
  }
  T* data() const { return data_; }
  size_t size() const { return count_; }
  T& operator[](size_t i) const { return data_[i]; }

 private:
  size_t count_, mapped_ = 0;
  char* memory_;
  T* data_;
};

template <typename T>
void expect_same(const char* what, const Buffer<T>& expected, const Buffer<T>& got) {
  if (std::memcmp(expected.data(), got.data(), expected.size() * sizeof(T)) == 0) return;
  size_t i = 0, wrong = 0;
  while (std::memcmp(&expected[i], &got[i], sizeof(T)) == 0) ++i;
  for (size_t k = i; k < expected.size(); ++k) {
    wrong += std::memcmp(&expected[k], &got[k], sizeof(T)) != 0;
  }
  char line[256];
  std::snprintf(line, sizeof line, "%s[%zu] = %.9g, should be %.9g (%zu of %zu wrong)", what, i,
                double(got[i]), double(expected[i]), wrong, expected.size());
  fail(line);
}

// ---- Inputs

struct Shape {
  int bits, group;
  Values values;
  int64_t rows, inputs;
};

Shape random_shape(Random& random) {
  static const int groups[] = {0, 32, 64, 128};
  Shape s{};
  s.bits = int(random.between(1, 4));
  s.group = groups[random.below(4)];
  s.values = random.chance(3) ? Values::kZeroPoints : Values::kSymmetric;
  if (s.bits == 2 && random.chance(3)) s.values = Values::kTernary;
  s.rows = random.between(1, random.chance(3) ? 400 : 130);
  // Now and then more than the 512 of which some kernels have the tables at hand at a time.
  s.inputs = random.between(1, random.chance(8) ? 1700 : random.chance(3) ? 500 : 200);
  if (random.chance(4)) s.inputs = (s.inputs + 63) / 64 * 64;
  return s;
}

// The end of a range that starts at `begin`; now and then the range is empty.
int64_t random_end(int64_t begin, int64_t limit, Random& random) {
  return random.chance(16) ? begin : random.between(begin + 1, limit);
}

// Sign, exponent (biased, up to `most`) and mantissa of a finite half.
uint16_t random_half(Random& random, int most) {
  if (random.chance(16)) return 0;
  const int exponent = random.chance(16) ? 0 : int(random.between(most - 10, most));
  return uint16_t((random.chance(8) ? 0x8000 : 0) | exponent << 10 | random.below(1024));
}

Weights geometry(const Shape& s) {
  Weights w{};
  w.bits = s.bits;
  w.group = s.group;
  w.values = s.values;
  w.rows = s.rows;
  w.inputs = s.inputs;
  w.row_tiles = (s.rows + kTile - 1) / kTile;
  w.input_tiles = (s.inputs + kTile - 1) / kTile;
  return w;
}

size_t blob_bytes(const Shape& s) {
  const Weights w = geometry(s);
  const size_t ends = s.group ? 0 : size_t(w.row_tiles) * kTile * 4 * (w.has_zeros() ? 2 : 1);
  return sizeof(Header) + size_t(w.row_tiles) * w.tile_offset(w.input_tiles) + ends;
}

void fill_codes(const Shape& s, uint8_t* codes, size_t bytes, Random& random) {
  const int kind = int(random.below(6));
  for (size_t i = 0; i < bytes; ++i) {
    codes[i] = kind == 0 ? 0xff : kind == 1 ? 0 : uint8_t(random.bits());
  }
  if (s.values != Values::kTernary) return;
  for (size_t i = 0; i < bytes / 2; ++i) codes[i] &= uint8_t(~codes[bytes / 2 + i]);  // no code 3
}

void fill_halves(uint8_t* to, size_t count, int most, Random& random) {
  for (size_t i = 0; i < count; ++i) {
    const uint16_t half = random_half(random, most);
    std::memcpy(to + 2 * i, &half, 2);
  }
}

void fill_blob(const Shape& s, uint8_t* blob, Random& random) {
  const Weights w = geometry(s);
  Header h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.version = kLayoutVersion;
  h.bits = uint8_t(s.bits);
  h.values = uint8_t(s.values);
  h.group = uint16_t(s.group);
  h.rows = uint32_t(s.rows);
  h.inputs = uint32_t(s.inputs);
  h.payload = blob_bytes(s) - sizeof h;
  h.multiplier = 0.25f;
  std::memcpy(blob, &h, sizeof h);
  uint8_t* at = blob + sizeof h;
  for (int64_t tile = 0; tile < w.row_tiles * w.input_tiles; ++tile) {
    const int64_t t = tile % w.input_tiles;
    fill_codes(s, at, w.code_bytes(), random);
    const size_t halves = w.scale_bytes(t) / 2, scales = w.has_zeros() ? halves / 2 : halves;
    fill_halves(at + w.code_bytes(), scales, random.chance(8) ? 30 : 15, random);
    fill_halves(at + w.code_bytes() + 2 * scales, halves - scales, 18, random);
    at += w.tile_bytes(t);
  }
  for (; at < blob + blob_bytes(s); at += 4) {
    const float value = random.uniform() * 8;
    std::memcpy(at, &value, 4);
  }
}

struct Blob {
  Blob(const Shape& s, Random& random) : bytes(blob_bytes(s), random) {
    fill_blob(s, bytes.data(), random);
    const char* wrong = open_weights(bytes.data(), bytes.size(), &weights);
    if (wrong) fail(std::string("open_weights refused a good blob: ") + wrong);
  }
  Buffer<uint8_t> bytes;
  Weights weights;
};

float awkward(int kind, int64_t i, Random& random) {
  const float threshold = 0x1p-100f;
  switch (kind) {
    case 0: return 3.5f;
    case 1: return -0.37f;
    case 2: return random.chance(2) ? 0.0f : -0.0f;
    case 3: return i % kTile == 17 ? 1e25f : random.uniform();
    case 4: return random.uniform() * 0x1p-130f;
    case 5: return random.chance(2) ? threshold : -std::nextafterf(threshold, 0);
    case 6: return random.uniform() * std::nextafterf(threshold, 0);
    case 7: return i % kTile == 0 ? 127.0f : float(random.between(-127, 126)) + 0.5f;  // ties
    case 8: return random.chance(2) ? 1.0f : -1.0f;
    case 9: return random.uniform() * std::ldexp(1.0f, int(random.between(-20, 20)));
    default: return random.uniform();
  }
}

void fill_floats(const Buffer<float>& x, Random& random) {
  int kind = int(random.below(14));
  for (size_t i = 0; i < x.size(); ++i) {
    if (i % kTile == 0 && random.chance(4)) kind = int(random.below(14));
    x[i] = awkward(kind, int64_t(i), random);
  }
}

void fill_int8(const Buffer<int8_t>& q, Random& random) {
  int kind = 0;
  for (size_t i = 0; i < q.size(); ++i) {
    if (i % kTile == 0) kind = int(random.below(8));
    const int extreme = kind == 0 ? 127 : kind == 1 ? -127 : random.chance(2) ? 127 : -127;
    q[i] = int8_t(kind == 2 ? 0 : kind < 4 ? extreme : random.between(-127, 127));
  }
}

// ---- One stage each: scalar beside the other

struct Quantized {
  Quantized(int64_t tiles, Random& random, int poison)
      : q(size_t(tiles) * kTile, random, poison), scale(size_t(tiles), random, poison),
        sums(size_t(tiles) * 2, random, poison) {}
  Buffer<int8_t> q;
  Buffer<float> scale;
  Buffer<int32_t> sums;
};

void test_quantize(const Isa& isa, Random& random) {
  const int64_t inputs = random.between(1, 330), tiles = (inputs + kTile - 1) / kTile;
  std::snprintf(g_case, sizeof g_case, "quantize: inputs %d", int(inputs));
  Buffer<float> x(size_t(inputs), random);
  fill_floats(x, random);
  if (random.chance(8)) x[size_t(random.below(inputs))] = -3.4028234e38f;
  Quantized a(tiles, random, 0xa5), b(tiles, random, 0x5a);
  if (!scalar_isa()->quantize(x.data(), inputs, a.q.data(), a.scale.data(), a.sums.data()) ||
      !isa.quantize(x.data(), inputs, b.q.data(), b.scale.data(), b.sums.data())) {
    fail("finite activations were refused");
  }
  expect_same("q", a.q, b.q);
  expect_same("scale", a.scale, b.scale);
  expect_same("sums", a.sums, b.sums);
}

// NaN and infinity are found at every position of every tail.
void test_not_finite(const Isa& isa, Random& random) {
  const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
  for (int64_t inputs = 1; inputs <= 130; ++inputs) {
    Buffer<float> x(size_t(inputs), random);
    for (int64_t i = 0; i < inputs; ++i) x[size_t(i)] = random.uniform();
    const int64_t tiles = (inputs + kTile - 1) / kTile;
    Quantized out(tiles, random, 0x5a);
    for (int64_t i = 0; i < inputs; ++i) {
      std::snprintf(g_case, sizeof g_case, "quantize: inputs %d, not finite at %d", int(inputs),
                    int(i));
      const float kept = x[size_t(i)];
      x[size_t(i)] = bad[random.below(4)];
      if (isa.quantize(x.data(), inputs, out.q.data(), out.scale.data(), out.sums.data())) {
        fail("NaN or infinity was not found");
      }
      x[size_t(i)] = kept;
    }
  }
}

void test_tables(const Isa& isa, Random& random) {
  const int64_t tiles = random.between(1, 7);
  const size_t entries = size_t(tiles) * 256;
  std::snprintf(g_case, sizeof g_case, "tables: tiles %d", int(tiles));
  Buffer<int8_t> q(size_t(tiles) * kTile, random);
  fill_int8(q, random);
  Buffer<uint8_t> low(entries, random), other_low(entries, random, 0x5a);
  Buffer<int8_t> high(entries, random), other_high(entries, random, 0x5a);
  scalar_isa()->tables(q.data(), tiles, low.data(), high.data());
  const Isa& maker = isa.tables ? isa : *scalar_isa();
  maker.tables(q.data(), tiles, other_low.data(), other_high.data());
  expect_same("low", low, other_low);
  expect_same("high", high, other_high);
  Buffer<int8_t> fast(entries, random), other_fast(entries, random, 0x5a);
  Buffer<float> step(size_t(tiles), random), other_step(size_t(tiles), random, 0x5a);
  scalar_isa()->fast_tables(q.data(), tiles, fast.data(), step.data());
  isa.fast_tables(q.data(), tiles, other_fast.data(), other_step.data());
  expect_same("fast", fast, other_fast);
  expect_same("step", step, other_step);
}

// An activation that is quantized and tabulated by the oracle.
struct Input {
  Input(const Isa& tested, int64_t inputs, Random& random)
      : tiles((inputs + kTile - 1) / kTile), quantized(tiles, random, 0xa5),
        low(size_t(tiles) * 256, random), high(size_t(tiles) * 256, random),
        fast(size_t(tiles) * 256, random), step(size_t(tiles), random),
        own(size_t(tiles) * tested.own_bytes, random) {
    Buffer<float> x(size_t(inputs), random);
    fill_floats(x, random);
    const Isa& isa = *scalar_isa();
    isa.quantize(x.data(), inputs, quantized.q.data(), quantized.scale.data(),
                 quantized.sums.data());
    isa.tables(quantized.q.data(), tiles, low.data(), high.data());
    if (tested.own_tables) {
      tested.own_tables(quantized.q.data(), tiles, own.data());
    }
    isa.fast_tables(quantized.q.data(), tiles, fast.data(), step.data());
  }
  // Whatever a kernel is not to read is null. with_own: for the tested one, where it has own tables.
  Activation view(int bits, bool fast_mode, bool with_own) const {
    Activation x{quantized.q.data(), quantized.scale.data(), quantized.sums.data(),
                 nullptr, nullptr, nullptr, nullptr, nullptr};
    if (bits == 4) {
      if (fast_mode) x.fast = fast.data() + fast.size();
    } else if (fast_mode) {
      x.fast = fast.data();
      x.step = step.data();
    } else if (with_own) {
      x.own = own.data();
    } else {
      x.low = low.data();
      x.high = high.data();
    }
    return x;
  }
  int64_t tiles;
  Quantized quantized;
  Buffer<uint8_t> low;
  Buffer<int8_t> high, fast;
  Buffer<float> step;
  Buffer<uint8_t> own;
};

void describe(const char* stage, const Shape& s) {
  static const char* const values[] = {"symmetric", "ternary", "zero_points"};
  std::snprintf(g_case, sizeof g_case, "%s: bits %d, group %d, %s, rows %d, inputs %d", stage,
                s.bits, s.group, values[int(s.values)], int(s.rows), int(s.inputs));
}

void test_gemv(const Isa& isa, const Shape& s, Random& random) {
  const Blob blob(s, random);
  const Input input(isa, s.inputs, random);
  for (bool fast : {false, true}) {
    const int64_t begin = random.below(blob.weights.row_tiles);
    const int64_t end = random_end(begin, blob.weights.row_tiles, random);
    describe(fast ? "gemv, fast" : "gemv", s);
    const size_t used = std::strlen(g_case);
    std::snprintf(g_case + used, sizeof g_case - used, ", row tiles [%d, %d)", int(begin),
                  int(end));
    const Activation x = input.view(s.bits, fast, false);
    const Activation tested = input.view(s.bits, fast, isa.own_tables != nullptr);
    Buffer<float> acc(size_t(end - begin) * kTile, random);
    Buffer<float> other(size_t(end - begin) * kTile, random, 0x5a);
    scalar_isa()->gemv({&blob.weights, &x, acc.data(), begin, end});
    isa.gemv({&blob.weights, &tested, other.data(), begin, end});
    expect_same("acc", acc, other);
  }
}

void test_unpack(const Isa& isa, const Shape& s, Random& random) {
  const Blob blob(s, random);
  describe("unpack", s);
  for (int64_t r = 0; r < blob.weights.row_tiles; ++r) {
    for (int64_t t = 0; t < blob.weights.input_tiles; ++t) {
      Buffer<int8_t> values(kTile * kTile, random), other(kTile * kTile, random, 0x5a);
      Buffer<int32_t> sums(2 * kTile, random), other_sums(2 * kTile, random, 0x5a);
      scalar_isa()->unpack(blob.weights, r, t, values.data(), sums.data());
      isa.unpack(blob.weights, r, t, other.data(), other_sums.data());
      expect_same("values", values, other);
      expect_same("value_sums", sums, other_sums);
    }
  }
}

// Rows of activations, in a matrix or overlapping as a convolution's windows do.
struct Rows {
  Rows(const Weights& w, int64_t m, Random& random)
      : overlap(random.chance(3)), one_scale(random.chance(3)),
        stride(overlap ? random.between(1, w.inputs)
                       : w.input_tiles * kTile + (random.chance(2) ? 0 : random.below(70))),
        a(size_t((m - 1) * stride + w.input_tiles * kTile), random),
        scale(size_t(one_scale ? m : m * w.input_tiles), random),
        sums(size_t(m * w.input_tiles * 2), random) {
    const int kind = int(random.below(5));
    for (size_t i = 0; i < a.size(); ++i) {
      a[i] = uint8_t(kind == 0 ? 255 : kind == 1 ? 1 : random.between(1, 255));
    }
    for (size_t i = 0; i < scale.size(); ++i) scale[i] = std::fabs(random.uniform());
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = int32_t(random.between(-8128, 8128));
  }
  bool overlap, one_scale;
  int64_t stride;
  Buffer<uint8_t> a;
  Buffer<float> scale;
  Buffer<int32_t> sums;
};

// Each tile of a job alone.
void test_fused(const Isa& isa, Gemm job, Random& random) {
  job.m = isa.fused_rows;
  const int64_t end = job.end;
  for (; job.begin < end; ++job.begin) {
    job.end = job.begin + 1;
    Buffer<int8_t> values(kTile * kTile, random), other_values(kTile * kTile, random, 0x5a);
    Buffer<int32_t> sums(2 * kTile, random), other_sums(2 * kTile, random, 0x5a);
    Buffer<float> acc(size_t(job.m) * kTile, random), other(size_t(job.m) * kTile, random);
    for (size_t i = 0; i < acc.size(); ++i) acc[i] = other[i] = random.uniform();
    scalar_isa()->unpack(*job.weights, job.row_tile, job.begin, values.data(), sums.data());
    job.values = values.data();
    job.value_sums = sums.data();
    job.acc = acc.data();
    scalar_isa()->gemm(job);
    job.values = nullptr;
    job.value_sums = nullptr;
    job.acc = other.data();
    isa.unpack_and_multiply(job, job.begin, other_values.data(), other_sums.data());
    expect_same("fused values", values, other_values);
    expect_same("fused value_sums", sums, other_sums);
    expect_same("fused acc", acc, other);
  }
}

void test_gemm(const Isa& isa, const Shape& s, Random& random) {
  const Blob blob(s, random);
  const Weights& w = blob.weights;
  const int64_t m = random.between(1, 13);
  const int64_t row_tile = random.below(w.row_tiles), begin = random.below(w.input_tiles);
  const int64_t end = random_end(begin, w.input_tiles, random);
  const Rows rows(w, m, random);
  describe("gemm", s);
  const size_t used = std::strlen(g_case);
  std::snprintf(g_case + used, sizeof g_case - used,
                ", m %d, row tile %d, tiles [%d, %d), a_stride %d, one_scale %d", int(m),
                int(row_tile), int(begin), int(end), int(rows.stride), int(rows.one_scale));
  Buffer<int8_t> values(size_t(end - begin) * kTile * kTile, random);
  Buffer<int32_t> value_sums(size_t(end - begin) * 2 * kTile, random);
  for (int64_t t = begin; t < end; ++t) {
    scalar_isa()->unpack(w, row_tile, t, values.data() + (t - begin) * kTile * kTile,
                         value_sums.data() + (t - begin) * 2 * kTile);
  }
  Buffer<float> acc(size_t(m) * kTile, random), other(size_t(m) * kTile, random);
  for (size_t i = 0; i < acc.size(); ++i) acc[i] = other[i] = random.uniform();
  Gemm job{&w, row_tile, begin, end, values.data(), value_sums.data(), rows.a.data(), rows.stride,
           m, rows.scale.data(), rows.one_scale ? 1 : w.input_tiles, rows.one_scale ? 0 : 1,
           w.has_zeros() ? rows.sums.data() : nullptr, acc.data()};
  scalar_isa()->gemm(job);
  job.acc = other.data();
  isa.gemm(job);
  expect_same("acc", acc, other);
  if (isa.unpack_and_multiply && m >= isa.fused_rows && begin < end) test_fused(isa, job, random);
}

// The unpacked product of whole rows is the looked-up product, to the bit.
void test_gemm_is_gemv(const Isa& isa, const Shape& s, Random& random) {
  const Blob blob(s, random);
  const Weights& w = blob.weights;
  const Input input(isa, s.inputs, random);
  describe("gemm against gemv", s);
  const Activation x = input.view(s.bits, false, isa.own_tables != nullptr);
  Buffer<float> acc(kTile, random), other(kTile, random);
  isa.gemv({&w, &x, acc.data(), 0, 1});
  Buffer<uint8_t> a(input.quantized.q.size(), random);
  for (size_t i = 0; i < a.size(); ++i) a[i] = uint8_t(input.quantized.q[i] + 128);
  Buffer<int8_t> values(size_t(w.input_tiles) * kTile * kTile, random);
  Buffer<int32_t> value_sums(size_t(w.input_tiles) * 2 * kTile, random);
  for (int64_t t = 0; t < w.input_tiles; ++t) {
    isa.unpack(w, 0, t, values.data() + t * kTile * kTile, value_sums.data() + t * 2 * kTile);
  }
  for (int i = 0; i < kTile; ++i) other[size_t(i)] = 0;
  isa.gemm({&w, 0, 0, w.input_tiles, values.data(), value_sums.data(), a.data(), 0, 1, x.scale, 0,
            1, w.has_zeros() ? x.sums : nullptr, other.data()});
  expect_same("acc", acc, other);
}

// ---- Hostile blobs

void expect_refused(const uint8_t* blob, size_t bytes, Random& random, const char* why) {
  Buffer<uint8_t> cut(bytes, random);
  if (bytes) std::memcpy(cut.data(), blob, bytes);
  Weights w;
  if (!open_weights(cut.data(), bytes, &w)) fail(std::string("open_weights took a blob ") + why);
}

void test_truncated(const Shape& s, Random& random) {
  describe("open_weights", s);
  const Blob blob(s, random);
  const size_t whole = blob.bytes.size();
  std::vector<size_t> lengths;
  for (size_t n = 0; n <= 66 && n < whole; ++n) lengths.push_back(n);
  for (size_t n : {whole / 2, whole - 65, whole - 64, whole - 4, whole - 1}) lengths.push_back(n);
  for (int i = 0; i < 8; ++i) lengths.push_back(size_t(random.below(int64_t(whole))));
  for (size_t n : lengths) expect_refused(blob.bytes.data(), n, random, "that was cut short");
  std::vector<uint8_t> longer(blob.bytes.data(), blob.bytes.data() + whole);
  longer.push_back(0);
  expect_refused(longer.data(), longer.size(), random, "with a byte left over");
}

// A changed header is refused, or describes weights that lie within the blob.
void test_corrupt(const Shape& s, Random& random) {
  describe("open_weights, corrupt header", s);
  const Blob blob(s, random);
  for (int round = 0; round < 64; ++round) {
    Buffer<uint8_t> copy(blob.bytes.size(), random);
    std::memcpy(copy.data(), blob.bytes.data(), copy.size());
    for (int64_t k = random.between(1, 3); k > 0; --k) {
      copy[size_t(random.below(36))] = random.chance(3) ? 0xff : uint8_t(random.bits());
    }
    Weights w;
    if (open_weights(copy.data(), copy.size(), &w)) continue;
    const Shape got{w.bits, w.group, w.values, w.rows, w.inputs};
    if (blob_bytes(got) > copy.size()) fail("open_weights took weights larger than their blob");
  }
}

// ---- Driver

void test_isa(const Isa& isa, uint64_t seed, int64_t cases) {
  Random first(seed);
  g_isa = isa.name;
  test_not_finite(isa, first);
  for (int64_t i = 0; i < cases; ++i) {
    Random random(seed * 1000003 + uint64_t(i));
    const Shape shape = random_shape(random);
    test_quantize(isa, random);
    test_tables(isa, random);
    test_gemv(isa, shape, random);
    test_unpack(isa, shape, random);
    test_gemm(isa, shape, random);
    test_gemm_is_gemv(isa, shape, random);
    if (i % 8 == 0) test_truncated(shape, random);
    if (i % 8 == 0) test_corrupt(shape, random);
  }
  std::printf("%-10s ok: %d cases\n", isa.name, int(cases));
  std::fflush(stdout);
}

// One kernel, `times` times, on 128 rows of 512 inputs (gemm: 8 rows of activations).
void count(const Isa& isa, const std::string& kernel, int64_t times) {
  Random random(1);
  const char last = kernel.empty() ? '\0' : kernel.back();
  const bool digit = last >= '1' && last <= '4';
  const std::string name = digit ? kernel.substr(0, kernel.size() - 1) : kernel;
  const Shape shape{digit ? last - '0' : 2, 64, Values::kSymmetric, 128, 512};
  const Blob blob(shape, random);
  const Input input(isa, shape.inputs, random);
  Buffer<float> x(size_t(shape.inputs), random);
  for (size_t i = 0; i < x.size(); ++i) x[i] = random.uniform();
  Quantized out(input.tiles, random, 0);
  Buffer<uint8_t> low(2048, random), a(8 * 512, random);
  Buffer<int8_t> high(2048, random), values(8 * kTile * kTile, random, 1);
  Buffer<int32_t> value_sums(8 * 2 * kTile, random, 0);
  Buffer<float> step(8, random), scale(64, random, 0), acc(8 * kTile, random, 0);
  const bool own = isa.own_tables != nullptr;
  const Activation activation = input.view(shape.bits, name == "fast", own);
  Buffer<uint8_t> own_tables(size_t(input.tiles) * isa.own_bytes, random);
  const Weights& w = blob.weights;
  for (int64_t i = 0; i < times; ++i) {
    if (name == "quantize") {
      isa.quantize(x.data(), shape.inputs, out.q.data(), out.scale.data(), out.sums.data());
    } else if (name == "tables") {
      const int8_t* q = input.quantized.q.data();
      own ? isa.own_tables(q, input.tiles, own_tables.data())
          : isa.tables(q, input.tiles, low.data(), high.data());
    } else if (name == "fast_tables") {
      isa.fast_tables(input.quantized.q.data(), input.tiles, high.data(), step.data());
    } else if (name == "gemv" || name == "fast") {
      isa.gemv({&w, &activation, acc.data(), 0, 2});
    } else if (name == "unpack") {
      isa.unpack(w, 0, i % 8, values.data(), value_sums.data());
    } else if (name == "gemm") {
      isa.gemm({&w, 0, 0, 8, values.data(), value_sums.data(), a.data(), 512, 8, scale.data(), 8,
                1, nullptr, acc.data()});
    } else {
      std::printf("no kernel %s\n", kernel.c_str());
      std::exit(2);
    }
  }
}

struct Options {
  std::vector<std::string> names;
  std::string kernel;
  uint64_t seed = 1;
  int64_t cases = 200;
};

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "0";
    if (arg.compare(0, 2, "--") != 0) {
      o.names.push_back(arg);
      continue;
    }
    if (arg == "--seed") {
      o.seed = std::strtoull(value, nullptr, 10);
    } else if (arg == "--cases") {
      o.cases = std::atoll(value);
    } else if (arg == "--count") {
      o.kernel = value;
    } else {
      std::printf("unknown option %s\n", arg.c_str());
      std::exit(2);
    }
    ++i;
  }
  return o;
}

bool wanted(const Options& o, const Isa& isa) {
  if (o.names.empty()) return &isa != scalar_isa();  // the oracle itself only by name
  for (const std::string& name : o.names) {
    if (name == isa.name) return true;
  }
  return false;
}

int run(const Options& o) {
  size_t found = 0;
  for (const Isa* isa : isas()) {
    if (!wanted(o, *isa)) continue;
    ++found;
    o.kernel.empty() ? test_isa(*isa, o.seed, o.cases) : count(*isa, o.kernel, o.cases);
  }
  if (found < o.names.size()) std::printf("this CPU or build lacks an instruction set named\n");
  return found < o.names.size() ? 1 : 0;
}

}  // namespace
}  // namespace flwr_edge

int main(int argc, char** argv) {
#if !defined(__SANITIZE_ADDRESS__)
  signal(SIGSEGV, flwr_edge::on_signal);
  signal(SIGBUS, flwr_edge::on_signal);
#endif
  return flwr_edge::run(flwr_edge::parse(argc, argv));
}
