// Mutated programs and blobs: each is refused or runs, under sanitizers touches nothing else, and gives
// the same bits on every instruction set of this CPU.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fuzz.h"
#include "sequential.h"

namespace {

using flwr_edge::Constant;

// A sound blob of random codes; scales near 1.
std::vector<uint8_t> blob(int bits, int group, int values, uint32_t rows, uint32_t inputs) {
  flwr_edge::Weights w{};
  w.bits = bits;
  w.group = group;
  w.values = flwr_edge::Values(values);
  w.row_tiles = (rows + 63) / 64;
  w.input_tiles = (inputs + 63) / 64;
  const size_t ends = group ? 0 : size_t(w.row_tiles) * 256 * (w.has_zeros() ? 2 : 1);
  const size_t payload = size_t(w.row_tiles) * w.tile_offset(w.input_tiles) + ends;
  flwr_edge::Header h{};
  std::memcpy(h.magic, flwr_edge::kMagic, 8);
  h.version = flwr_edge::kLayoutVersion;
  h.bits = uint8_t(bits);
  h.values = uint8_t(values);
  h.group = uint16_t(group);
  h.rows = rows;
  h.inputs = inputs;
  h.payload = payload;
  h.multiplier = 1;
  std::vector<uint8_t> result(64 + payload, 0x3c);
  for (size_t i = 64; i < result.size(); i += 2) result[i] = uint8_t(random_bits());
  std::memcpy(result.data(), &h, 64);
  return result;
}

struct Case {
  Ints code, shape, results;
  std::vector<std::vector<uint8_t>> blobs;
  std::vector<std::vector<float>> vectors;
  Ints order;  // constants: 0, 1, .. blobs; -1, -2, .. vectors
};

Case conv_net(int bits, int group, int values) {
  Case c;
  c.shape = {5, 19};
  c.blobs = {blob(bits, group, values, 33, 15), blob(bits, group, values, 7, 33 * 2 + 5)};
  c.vectors = {{}, {2.0f}};
  for (int i = 0; i < 33; ++i) c.vectors[0].push_back(0.25f * float(i - 16));
  c.order = {0, -1, 1, -2};
  c.code = {1,
            2, 0, 0, 1, 1, 33, 3, 2, 2, 3, 1,    // conv, dilated: (33, 10)
            4, 1, 0, 2, 2, 1, 0, 1,              // pool: (33, 5)
            8, 2, 1, -1, 0, 1,                   // affine
            7, 2, 3,                             // add
            5, 4, 1, 1, 0, 5, 4, 0, 1, 0,        // mean, largest: (33)
            5, 0, 1, 1, 0,                       // mean of the input: (5)
            6, 0, 3, 5, 6, 7,                    // concat: (71)
            1, 8, 2, -1, 0, 7,                   // linear: (7)
            10, 4, 9, 10, 165, 0, 3, 11};        // transpose, reshape, relu
  c.results = {9, 10, 12};
  return c;
}

// Two layers, the second of which quantizes by the largest number that the first returned.
Case two_convs() {
  Case c;
  c.shape = {5, 19};
  c.blobs = {blob(4, 64, 0, 33, 15), blob(2, 64, 1, 7, 33 * 3)};
  c.vectors = {std::vector<float>(33, 0.5f)};
  c.order = {0, -1, 1};
  c.code = {1,
            2, 0, 0, 1, 1, 33, 3, 2, 2, 3, 1,
            2, 1, 2, -1, 0, 7, 3, 1, 1, 1, 1};
  c.results = {1, 2};
  return c;
}

using Floats = std::vector<float>;

// Of any payload, where it is a NaN.
bool same(const Floats& a, const Floats& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], 4) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
  }
  return true;
}

// All results, one after the other; empty: refused.
Floats results(const flwr_edge::Isa& isa, const flwr_edge::Program& program,
               const std::vector<Constant>& constants, const Floats& x, int64_t batch) {
  std::string error;
  const auto network = flwr_edge::Sequential::create(isa, program, constants, &error);
  if (!network) return {};
  std::vector<size_t> starts;
  size_t length = 0;
  for (int64_t o : program.outputs) {
    starts.push_back(length);
    length += size_t(batch * program.values[size_t(o)].size());
  }
  Floats y(length);
  std::vector<float*> at;
  for (size_t start : starts) at.push_back(y.data() + start);
  network->run(x.data(), batch, at.data(), flwr_edge::Pool{});
  return y;
}

// Whether it ran.
bool run(const Case& c) {
  flwr_edge::Program program;
  if (!flwr_edge::parse_program(c.code, c.shape, c.results, &program).empty()) return false;
  if (program.work > (1 << 24) || program.scratch > (1 << 22)) return false;  // sound, but slow
  std::vector<Constant> constants;
  for (int64_t i : c.order) {
    if (i >= 0) constants.push_back({c.blobs[size_t(i)].data(), c.blobs[size_t(i)].size(), false});
    else constants.push_back({c.vectors[size_t(-1 - i)].data(),
                              c.vectors[size_t(-1 - i)].size() * 4, true});
  }
  const int64_t batch = 2;
  Floats x(size_t(batch * program.values[0].size())), first;
  for (float& value : x) value = float(below(2001) - 1000) / 500;
  if (below(8) == 0) x[size_t(below(int64_t(x.size())))] = INFINITY;
  for (const flwr_edge::Isa* isa : flwr_edge::isas()) {
    const Floats y = results(*isa, program, constants, x, batch);
    if (y.empty()) return false;
    if (first.empty()) first = y;
    if (same(first, y)) continue;
    std::printf("%s differs\n", isa->name);
    std::exit(1);
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  const int64_t rounds = count > 1 ? std::atoll(arguments[1]) : 20000;
  const Case sound[] = {conv_net(2, 64, 0), conv_net(4, 32, 2), conv_net(3, 128, 0),
                        conv_net(1, 0, 0), conv_net(2, 0, 2), two_convs()};
  constexpr int64_t kSound = sizeof sound / sizeof *sound;
  for (const Case& c : sound) {
    if (!run(c)) return std::puts("a sound program is refused"), 1;
  }
  int64_t ran = 0;
  for (int64_t i = 0; i < rounds; ++i) {
    Case c = sound[below(kSound)];
    for (int64_t k = below(3); k >= 0; --k) {
      const int64_t what = below(10);
      if (what < 6) mutate(&c.code);
      else if (what == 6) mutate(&c.shape);
      else if (what == 7) mutate(&c.results);
      else if (what == 8) c.blobs[size_t(below(2))][size_t(below(64))] = uint8_t(random_bits());
      else c.blobs[size_t(below(2))].resize(size_t(below(6000)));
    }
    ran += run(c);
  }
  std::printf("%lld mutated programs: %lld ran, the rest were refused\n", (long long)rounds,
              (long long)ran);
  return 0;
}
