// IntSequential's LSTM and GRU: edge_kernels/integer/recurrent.py's Recurrent.
#pragma once

#include <string>
#include <vector>

#include "int_kernels.h"
#include "int_product.h"
#include "int_program.h"

namespace flwr_edge::integer {

// What one direction reads of the node's constants.
struct WayConstants {
  const int8_t* weights;  // [gates * width][width]
  const int32_t *bias, *m;
};

class Recurrence {
 public:
  // Why the constants cannot be, or empty. Their memory, and the table's, must outlive this.
  std::string prepare(const Kernels& kernels, const Instruction& i, const int32_t* logistic,
                      const std::vector<WayConstants>& ways);

  // Bytes of memory that a run needs besides its values.
  size_t scratch() const;

  // x by rows, to y by rows; behind y kMargin bytes are readable.
  void run(const Value& x_value, const uint8_t* x, uint8_t* room, uint8_t* y) const;

 private:
  struct Way {
    Product product;
    const int32_t* m;
    bool reverse;
  };
  int64_t rows() const { return gates_of(instruction_) * instruction_.rows; }
  Value hidden() const;  // one position's state, in and out
  Value sums() const;
  void run_way(size_t number, const Value& x_value, const uint8_t* x, uint8_t* room,
               uint8_t* y) const;

  const Kernels* kernels_ = nullptr;
  Instruction instruction_{};
  std::vector<uint32_t> logistic_;  // as Cell has it
  std::vector<Way> ways_;
};

}  // namespace flwr_edge::integer
