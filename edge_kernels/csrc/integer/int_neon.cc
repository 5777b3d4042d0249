#include "int_neon.h"

namespace flwr_edge::integer {

const Kernels* neon() {
  static const Kernels kernels{false, product<false, 2>, scalar()->transpose, table_rows,
                               add_rows,          rescale_rows,        norm_rows,
                               exponential_rows,  weighted_rows,
                               multiply_rows, lstm_cell<sigmoid_rows>,
                               gru_cell<sigmoid_rows>};
  return &kernels;
}

}  // namespace flwr_edge::integer
