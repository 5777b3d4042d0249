// Work in pieces that are worth a thread's while.
#pragma once

#include <algorithm>

#include "pool.h"

namespace flwr_edge {

// Calls body(begin, end) for pieces of [0, count), `grain` or more each. What is worth less than
// two pieces runs here and now, without the pool's cost.
template <typename Body>
void spread(const Pool& pool, int64_t count, int64_t grain, const Body& body) {
  // Four pieces a thread: one that is late costs a quarter of its share.
  const int64_t most = pool.threads() > 1 ? 4 * int64_t(pool.threads()) : 1;
  const int64_t pieces = std::min(count / std::max<int64_t>(grain, 1), most);
  if (pieces <= 1) {
    if (count > 0) body(int64_t(0), count);
    return;
  }
  const int64_t each = count / pieces, longer = count % pieces;
  pool.run(pieces, [&](int64_t piece) {
    const int64_t begin = piece * each + std::min(piece, longer);
    body(begin, begin + each + (piece < longer ? 1 : 0));
  });
}

}  // namespace flwr_edge
