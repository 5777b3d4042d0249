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
  // Why the constants cannot be, or empty. x: what is read, at any length.
  std::string prepare(const Kernels& kernels, const Instruction& i, const Value& x,
                      const ProductConstants& constants);

  // Bytes of memory that a run needs besides its values.
  size_t scratch(const Value& x, const Value& y) const;

  // to: uint8 or uint16 as y says, or int32 accumulators. `readable`: behind x, for kMargin bytes.
  void run(const Value& x_value, const uint8_t* x, bool readable, const Value& y_value,
           uint8_t* room, void* y) const;

 private:
  std::string check_sums(const ProductConstants& constants);
  void pack(const ProductConstants& constants);
  void pack_scales(const ProductConstants& constants);
  bool conv() const { return instruction_.op == Op::kConv; }
  size_t padded_bytes(const Value& x) const;
  size_t field_bytes(const Value& x, int64_t positions) const;
  const uint8_t* field(const Value& from, const uint8_t* x, int64_t positions, uint8_t* room) const;
  void gather(const uint8_t* padded, int64_t positions, uint8_t* to) const;
  size_t sums_bytes(int64_t positions) const;
  void finish(const Value& y_value, int64_t positions, int32_t* acc, void* y) const;

  const Kernels* kernels_ = nullptr;
  Instruction instruction_{};
  int64_t zero_ = 0;  // of what is read
  int64_t channels_ = 0, inputs_ = 0, a_stride_ = 0;
  Layer layer_{};
  bool slow_ = false;  // a shift is below 32, and sums have no room to be shifted up
  std::vector<int8_t> values_;
  std::vector<int16_t> words_;  // or these
  std::vector<int32_t> start_, start_signed_, m_, shift_, left_;
  std::vector<int64_t> half_, most_;  // most_: the largest |sum| of each row
};

}  // namespace flwr_edge::integer
