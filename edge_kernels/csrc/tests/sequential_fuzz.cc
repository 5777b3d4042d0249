// Mutated programs and blobs: each is refused or runs, and under sanitizers touches nothing else.
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
  c.vectors = {std::vector<float>(33, 0.5f), {2.0f}};
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
  const char* why = nullptr;
  const flwr_edge::Isa* isa = flwr_edge::best_isa(&why);
  std::string error;
  const auto network = flwr_edge::Sequential::create(*isa, program, constants, &error);
  if (!network) return false;
  const int64_t batch = 2;
  std::vector<float> x(size_t(batch * program.values[0].size()));
  for (float& value : x) value = float(below(2001) - 1000) / 500;
  if (below(8) == 0) x[size_t(below(int64_t(x.size())))] = INFINITY;
  std::vector<std::vector<float>> y;
  std::vector<float*> at;
  for (int64_t o : program.outputs) {
    y.emplace_back(size_t(batch * program.values[size_t(o)].size()));
    at.push_back(y.back().data());
  }
  network->run(x.data(), batch, at.data(), flwr_edge::Pool{});
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  const int64_t rounds = count > 1 ? std::atoll(arguments[1]) : 20000;
  const Case sound[] = {conv_net(2, 64, 0), conv_net(4, 32, 2), conv_net(3, 128, 0),
                        conv_net(1, 0, 0), conv_net(2, 0, 2)};
  for (const Case& c : sound) {
    if (!run(c)) return std::puts("a sound program is refused"), 1;
  }
  int64_t ran = 0;
  for (int64_t i = 0; i < rounds; ++i) {
    Case c = sound[below(5)];
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
