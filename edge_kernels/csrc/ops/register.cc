#include "ops.h"

#define FLWR_EDGE_EXPORT extern "C" __attribute__((visibility("default")))

namespace flwr_edge {
namespace {

Ort::CustomOpDomain make_domain() {
  Ort::CustomOpDomain domain("flwr.edge");
  add_matmul_op(domain);
  add_conv1d_op(domain);
  add_sequential_op(domain);
  add_int_sequential_op(domain);
  return domain;
}

void add_to(OrtSessionOptions* options) {
  const char* error = nullptr;
  if (!best_isa(&error)) throw Ort::Exception(error, ORT_INVALID_ARGUMENT);
  // Never destroyed: sessions hold no copy, and may end after this library's statics.
  static const auto* domain = new Ort::CustomOpDomain(make_domain());
  Ort::ThrowOnError(Ort::GetApi().AddCustomOpDomain(options, *domain));
}

}  // namespace

const Isa& chosen_isa() { return *best_isa(nullptr); }

}  // namespace flwr_edge

FLWR_EDGE_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                              const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (!api) {
    const OrtApi* oldest = base->GetApi(1);
    return oldest ? oldest->CreateStatus(ORT_NOT_IMPLEMENTED,
                                         "flwr.edge needs onnxruntime 1.17 or newer")
                  : nullptr;
  }
  Ort::InitApi(api);
  return flwr_edge::guarded([&] { flwr_edge::add_to(options); });
}
