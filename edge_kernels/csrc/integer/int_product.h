// A convolution or linear layer of IntSequential: its constants, packed once, and its run.
#pragma once

#include <string>
#include <vector>

#include "int_kernels.h"
#include "int_program.h"

namespace flwr_edge::integer {

// What a product reads of the node's constants; m and shift null: accumulators.
struct ProductConstants {
  const int8_t* weights;   // [rows][kernel][channels]
  const int32_t *bias, *m, *shift;
};

class Product {
 public:
  // Why the constants cannot be, or empty.
  std::string prepare(const Kernels& kernels, const Instruction& i, const Value& x, const Value& y,
                      const ProductConstants& constants);

  // Bytes of memory that a run needs besides its values.
  size_t scratch() const { return field_bytes_ + slow_bytes_; }

  // y: uint8, or int32 accumulators.
  void run(const uint8_t* x, uint8_t* room, void* y) const;

 private:
  std::string check_sums(const ProductConstants& constants) const;
  void pack(const ProductConstants& constants);
  void pack_scales(const ProductConstants& constants);
  const uint8_t* field(const uint8_t* x, uint8_t* room) const;
  void gather(const uint8_t* padded, uint8_t* to) const;

  const Kernels* kernels_ = nullptr;
  Instruction instruction_{};
  Value x_, y_;
  int64_t channels_ = 0, inputs_ = 0, positions_ = 0, a_stride_ = 0;
  Layer layer_{};
  bool slow_ = false;  // a shift is below 32
  size_t padded_bytes_ = 0, field_bytes_ = 0, slow_bytes_ = 0;
  std::vector<int8_t> values_;
  std::vector<int32_t> start_, start_signed_, m_, shift_;
  std::vector<int64_t> half_;
};

}  // namespace flwr_edge::integer
