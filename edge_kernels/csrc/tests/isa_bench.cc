// Times every instruction set of this build and CPU, without ONNX Runtime.
//
//   isa_bench [name...] [--bits B] [--group G] [--size K N] [--zeros] [--fast] [--gemm]
//
// One row of activations against a streaming read of the same weights, interleaved in one run:
// microseconds (the median), GB/s, and the ratio to the read, of the fastest runs and of medians.
// --gemm: many rows instead, unpacking included.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "isa.h"
#include "readers.h"

namespace flwr_edge {
namespace {

struct Options {
  std::vector<std::string> names;
  std::vector<int> bits{1, 2, 3, 4};
  std::vector<std::pair<int64_t, int64_t>> sizes{  // K, N
      {256, 256}, {1024, 1024}, {4096, 4096}, {4096, 11008}};
  int group = 64;
  bool zeros = false, fast = false, gemm = false;
};

template <class F>
double microseconds(F&& run, int repeats) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) run();
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  return took.count() / repeats;
}

// Random weights and everything that a product needs.
struct Problem {
  Weights w{};
  std::vector<uint8_t> blob, low, a, own;
  std::vector<int8_t> q, high, fast, values;
  std::vector<float> x, scale, step, acc;
  std::vector<int32_t> sums, value_sums;
  const uint8_t* payload;
  size_t bytes;

  Problem(const Options& o, int bits, int64_t k, int64_t n, int64_t m) {
    Header h{};
    std::memcpy(h.magic, kMagic, sizeof kMagic);
    h.version = kLayoutVersion;
    h.bits = uint8_t(bits);
    h.values = uint8_t(o.zeros ? Values::kZeroPoints : Values::kSymmetric);
    h.group = uint16_t(o.group);
    h.rows = uint32_t(n);
    h.inputs = uint32_t(k);
    h.multiplier = 1;
    w.bits = bits;
    w.group = o.group;
    w.values = Values(h.values);
    const int64_t tiles = (k + kTile - 1) / kTile, row_tiles = (n + kTile - 1) / kTile;
    const size_t ends = o.group == 0 ? size_t(row_tiles) * kTile * (o.zeros ? 8 : 4) : 0;
    h.payload = size_t(row_tiles) * w.tile_offset(tiles) + ends;
    blob.resize(kLine + sizeof h + h.payload);
    // Aligned as ONNX Runtime's initializers are, to 64 bytes.
    const size_t past_line = reinterpret_cast<uintptr_t>(blob.data()) % kLine;
    uint8_t* start = blob.data() + (kLine - past_line) % kLine;
    for (uint8_t& byte : blob) byte = uint8_t(std::rand() >> 7);
    std::memcpy(start, &h, sizeof h);
    if (const char* wrong = open_weights(start, sizeof h + h.payload, &w)) {
      std::printf("%s\n", wrong);
      std::exit(1);
    }
    plain_scales(start + sizeof h);
    payload = start + sizeof h;
    bytes = h.payload;
    allocate(m, tiles);
  }

  // Random bytes as fp16 may be NaN or subnormal; these are near one.
  void plain_scales(uint8_t* from) {
    for (int64_t r = 0; r < w.row_tiles; ++r) {
      for (int64_t t = 0; t < w.input_tiles; ++t) {
        uint8_t* scales = from + size_t(r) * w.tile_offset(w.input_tiles) + w.tile_offset(t) +
                          w.code_bytes();
        for (size_t i = 1; i < w.scale_bytes(t); i += 2) scales[i] = 0x38;
      }
    }
    if (w.group != 0) return;
    float* row = const_cast<float*>(w.row_scales);
    for (int64_t i = 0; i < w.row_tiles * kTile * (w.has_zeros() ? 2 : 1); ++i) row[i] = 0.5f;
  }

  void allocate(int64_t m, int64_t tiles) {
    x.resize(size_t(w.inputs));
    for (float& v : x) v = float(std::rand() % 2001 - 1000) / 500.0f;
    q.resize(size_t(tiles) * kTile);
    scale.resize(size_t(tiles * m));
    step.resize(size_t(tiles));
    sums.resize(size_t(2 * tiles * m));
    low.resize(size_t(tiles) * 256);
    high.resize(low.size());
    fast.resize(low.size());
    a.resize(size_t(m * tiles) * kTile);
    for (uint8_t& byte : a) byte = uint8_t(std::rand() >> 7);
    values.resize(size_t(tiles) * kTile * kTile);
    value_sums.resize(size_t(tiles) * 2 * kTile);
    acc.resize(size_t(std::max(w.row_tiles, m)) * kTile);
  }
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

double fastest(const std::vector<double>& v) { return *std::min_element(v.begin(), v.end()); }

void bench_gemv(const Isa& isa, const Options& o, int bits, int64_t k, int64_t n) {
  Problem p(o, bits, k, n, 1);
  const Weights& w = p.w;
  p.own.resize(size_t(w.input_tiles) * isa.own_bytes + kLine);
  uint8_t* own = p.own.data() + (kLine - reinterpret_cast<uintptr_t>(p.own.data()) % kLine);
  auto quantize = [&] { isa.quantize(p.x.data(), k, p.q.data(), p.scale.data(), p.sums.data()); };
  auto tables = [&] {
    if (bits == 4) return;
    if (o.fast) return isa.fast_tables(p.q.data(), w.input_tiles, p.fast.data(), p.step.data());
    if (isa.own_tables) return isa.own_tables(p.q.data(), w.input_tiles, own);
    isa.tables(p.q.data(), w.input_tiles, p.low.data(), p.high.data());
  };
  quantize();
  tables();
  const Activation x{p.q.data(),   p.scale.data(), p.sums.data(),
                     p.low.data(), p.high.data(),  o.fast ? p.fast.data() : nullptr, p.step.data(),
                     own};
  const Gemv job{&w, &x, p.acc.data(), 0, w.row_tiles};
  auto product = [&] { isa.gemv(job); };
  const size_t readable = p.bytes / kReadBlock * kReadBlock;
  auto read = [&](Reader reader) {
    const uint64_t sum = reader(p.payload, readable);
    asm volatile("" : : "r"(sum) : "memory");
  };
  const int repeats = int(std::max<size_t>(1, 400000 / p.bytes));
  const size_t affordable = 400000000 / (p.bytes * size_t(repeats));
  const int samples = int(std::min<size_t>(400, std::max<size_t>(60, affordable)));
  std::vector<double> tq, tt, tp, reads[kReaders];
  for (int i = 0; i < samples; ++i) {
    tq.push_back(microseconds(quantize, 4));
    tt.push_back(microseconds(tables, 4));
    tp.push_back(microseconds(product, repeats));
    for (int r = 0; r < kReaders; ++r) {
      reads[r].push_back(microseconds([&] { read(readers()[r]); }, repeats));
    }
  }
  const std::vector<double>& tr = reads[median(reads[0]) < median(reads[1]) ? 0 : 1];
  std::printf("%-11s %5lld %6lld  %d  quantize %5.2f  tables %5.2f  gemv %8.2f us (fastest %8.2f) "
              "%5.1f GB/s  read %8.2f us %5.1f GB/s  ratio %.2f (medians %.2f)\n",
              isa.name, (long long)k, (long long)n, bits, median(tq), median(tt), median(tp),
              fastest(tp), double(p.bytes) / median(tp) / 1e3, median(tr),
              double(p.bytes) / median(tr) / 1e3,
              fastest(tp) / fastest(tr), median(tp) / median(tr));
}

void bench_gemm(const Isa& isa, const Options& o, int bits, int64_t k, int64_t n, int64_t m) {
  Problem p(o, bits, k, n, m);
  const Weights& w = p.w;
  // The fastest of several runs for each tile of rows: other processes disturb whole runs.
  double unpacking = 0, product = 0;
  for (int64_t r = 0; r < w.row_tiles; ++r) {
    Gemm job{&w, r, 0, w.input_tiles, p.values.data(), p.value_sums.data(), p.a.data(),
             w.input_tiles * kTile, m, p.scale.data(), w.input_tiles, 1, p.sums.data(),
             p.acc.data()};
    std::vector<double> tu, tp;
    for (int sample = 0; sample < 5; ++sample) {
      tu.push_back(microseconds([&] {
        for (int64_t t = 0; t < w.input_tiles; ++t) {
          isa.unpack(w, r, t, p.values.data() + t * kTile * kTile,
                     p.value_sums.data() + t * 2 * kTile);
        }
      }, 1));
      tp.push_back(microseconds([&] { isa.gemm(job); }, 1));
    }
    unpacking += fastest(tu);
    product += fastest(tp);
  }
  const double all = unpacking + product;
  std::printf("%-11s %5lld %6lld  %d  m %4lld  %9.1f us (unpacking %7.1f, product %9.1f), "
              "%6.1f products of int8 a ns\n",
              isa.name, (long long)k, (long long)n, bits, (long long)m, all, unpacking, product,
              double(m) * double(k) * double(n) / all / 1e3);
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    auto number = [&] { return std::atoll(++i < argc ? argv[i] : "0"); };
    if (arg == "--bits") {
      o.bits = {int(number())};
    } else if (arg == "--group") {
      o.group = int(number());
    } else if (arg == "--size") {
      const int64_t k = number();
      o.sizes = {{k, number()}};
    } else if (arg == "--zeros") {
      o.zeros = true;
    } else if (arg == "--fast") {
      o.fast = true;
    } else if (arg == "--gemm") {
      o.gemm = true;
    } else {
      o.names.push_back(arg);
    }
  }
  return o;
}

}  // namespace
}  // namespace flwr_edge

int main(int argc, char** argv) {
  using namespace flwr_edge;
  const Options o = parse(argc, argv);
  for (const Isa* isa : isas()) {
    const auto wanted = std::find(o.names.begin(), o.names.end(), isa->name);
    if (!o.names.empty() && wanted == o.names.end()) continue;
    for (auto [k, n] : o.sizes) {
      for (int bits : o.bits) {
        if (!o.gemm) {
          bench_gemv(*isa, o, bits, k, n);
        } else if (n <= 4096) {
          bench_gemm(*isa, o, bits, k, n, 16);
          bench_gemm(*isa, o, bits, k, n, 128);
        }
      }
    }
  }
  return 0;
}
