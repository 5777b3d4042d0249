#include <cstdlib>
#include <cstring>
#include <string>

#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace flwr_edge {
namespace {

struct Candidate {
  const Isa* (*isa)();
  bool (*supported)();
};

#if defined(__x86_64__)
[[maybe_unused]] bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
[[maybe_unused]] bool has_avxvnni() {
#ifdef FLWR_EDGE_EVEX  // the tests' build, see avxvnni.h
  return has_avx2() && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#else
  // __builtin_cpu_supports knows the name since GCC 11 and Clang 12 only.
  unsigned leaves = 0, features = 0, b, c, d;
  return has_avx2() && __get_cpuid_count(7, 0, &leaves, &b, &c, &d) && leaves >= 1 &&
         __get_cpuid_count(7, 1, &features, &b, &c, &d) && (features >> 4 & 1);
#endif
}
[[maybe_unused]] bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool has_avx512vnni() {
  return has_avx512() && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif
#if defined(__aarch64__)
[[maybe_unused]] bool has_dot() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }
#endif
[[maybe_unused]] bool always() { return true; }

bool is_amd() {
#if defined(__x86_64__)
  static const bool amd = __builtin_cpu_is("amd");
  return amd;
#else
  return false;
#endif
}

// Best first.
const Candidate kCandidates[] = {
#ifdef FLWR_EDGE_AVX512VNNI
    {avx512vnni_isa, has_avx512vnni},
#endif
#ifdef FLWR_EDGE_AVX512
    {avx512_isa, has_avx512},
#endif
#ifdef FLWR_EDGE_AVXVNNI
    {avxvnni_isa, has_avxvnni},
#endif
#ifdef FLWR_EDGE_AVX2
    {avx2_isa, has_avx2},
#endif
#ifdef FLWR_EDGE_NEON_DOT
    {neon_dot_isa, has_dot},
#endif
#ifdef FLWR_EDGE_NEON
    {neon_isa, always},
#endif
    {scalar_isa, always},
};

}  // namespace

std::vector<const Isa*> isas() {
  std::vector<const Isa*> all;
  for (const Candidate& candidate : kCandidates) {
    if (candidate.supported()) all.push_back(candidate.isa());
  }
  return all;
}

namespace {

struct Choice {
  const Isa* isa = nullptr;
  std::string error;
};

Choice choose() {
  const char* wanted = std::getenv("FLWR_EDGE_ISA");
  const bool any = !wanted || !*wanted;
  std::string names;
  for (const Isa* isa : isas()) {
    if (any || std::strcmp(wanted, isa->name) == 0) return {isa, ""};
    names += names.empty() ? isa->name : std::string(", ") + isa->name;
  }
  return {nullptr, "FLWR_EDGE_ISA is '" + std::string(wanted).substr(0, 32) +
                       "'; this CPU and build can run: " + names};
}

}  // namespace

size_t prefetch_distance() { return is_amd() ? 256 : 2048; }

const RowsByBits& gemv_rows(const Isa& isa) { return is_amd() ? isa.zen_rows : isa.rows; }

const Isa* best_isa(const char** error) {
  static const Choice choice = choose();
  if (error) *error = choice.isa ? nullptr : choice.error.c_str();
  return choice.isa;
}

}  // namespace flwr_edge
