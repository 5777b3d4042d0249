// What this library is, as JSON, for `flwr-edge info` and for tests.
#include <cstring>
#include <string>

#include "isa.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#ifndef FLWR_EDGE_VERSION
#define FLWR_EDGE_VERSION "0"
#endif

namespace flwr_edge {
namespace {

std::string features() {
  std::string list;
#if defined(__x86_64__)
#define ADD(name) \
  if (__builtin_cpu_supports(name)) list += list.empty() ? "\"" name "\"" : ", \"" name "\"";
  ADD("avx2")
  ADD("fma")
  ADD("f16c")
  ADD("avx512f")
  ADD("avx512bw")
  ADD("avx512dq")
  ADD("avx512vl")
  ADD("avx512vbmi")
  ADD("avx512vnni")
#undef ADD
  for (const Isa* isa : isas()) {
    if (std::strcmp(isa->name, "avxvnni") == 0) list += ", \"avxvnni\"";
  }
#elif defined(__aarch64__)
  list = getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? "\"asimd\", \"asimddp\"" : "\"asimd\"";
#endif
  return list;
}

// As a JSON string; what cannot stand in one becomes '?'.
std::string quoted(const char* text) {
  std::string result = "\"";
  for (; *text; ++text) result += *text < ' ' || *text == '"' || *text == '\\' ? '?' : *text;
  return result + "\"";
}

std::string describe() {
  const char* error = nullptr;
  const Isa* isa = best_isa(&error);
  if (!isa) return "{\"error\": " + quoted(error) + "}";
  return "{\"version\": " + quoted(FLWR_EDGE_VERSION) + ", \"isa\": " + quoted(isa->name) +
         ", \"features\": [" + features() + "], \"layout_version\": " +
         std::to_string(kLayoutVersion) +
         ", \"ops\": [\"LutMatMul\", \"LutConv1d\", \"LutSequential\", \"IntSequential\"]}";
}

}  // namespace
}  // namespace flwr_edge

extern "C" __attribute__((visibility("default"))) const char* flwr_edge_info() {
  static const std::string text = flwr_edge::describe();
  return text.c_str();
}
