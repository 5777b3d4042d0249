// Many rows of activations: unpack a tile of weights to int8, then an int8 product. Part of
// avx512_kernels.h.
#pragma once

namespace flwr_edge {
namespace {

// Bytes of a plane's line so that dword i holds rows i, 16 + i, 32 + i, 48 + i (see plane_row).
FLWR_INLINE __m512i rows_in_dwords(__m512i line) {
  return _mm512_shuffle_epi8(
      line, _mm512_set4_epi32(0x0f070e06, 0x0d050c04, 0x0b030a02, 0x09010800));
}

// Sixteen dwords: entry n has plane's value in byte i if bit i of n is set.
FLWR_INLINE __m512i bit_table(int value) {
  const __m512i n = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i spread = _mm512_mullo_epi32(n, _mm512_set1_epi32(0x00204081));
  const __m512i bits = _mm512_and_si512(spread, _mm512_set1_epi32(0x01010101));
  return _mm512_mullo_epi32(bits, _mm512_set1_epi32(value));
}

// Writes values step by step, with padded inputs zeroed, and sums them.
struct Unpacked {
  int8_t* values;
  int64_t valid;         // inputs of this tile that are no padding
  __m512i sums[2][kRowVectors];
  int half_steps;        // steps that count to half 0

  FLWR_INLINE void put(int step, int r, __m512i v) {
    if (valid < kTile) {
      const int64_t left = valid - 4 * step;
      const uint32_t keep = left >= 4 ? ~0u : left <= 0 ? 0 : (1u << 8 * left) - 1;
      v = _mm512_and_si512(v, _mm512_set1_epi32(int(keep)));
    }
    _mm512_storeu_si512(values + (step * kRowVectors + r) * kLine, v);
    __m512i& sum = sums[step >= half_steps][r];
    const __m512i ones = _mm512_set1_epi8(1);
#ifdef __AVX512VNNI__
    sum = _mm512_dpbusd_epi32(sum, ones, v);
#else
    sum = _mm512_add_epi32(
        sum, _mm512_madd_epi16(_mm512_maddubs_epi16(ones, v), _mm512_set1_epi16(1)));
#endif
  }
};

// Codes of eight inputs of all 64 rows, and their values.
template <int kBits>
struct Decoder {
  __m512i table[kBits == 4 ? 2 : kBits];  // 4 bits: what a code is masked with, and what it loses
  __m512i line[kBits == 4 ? kRowVectors : kBits];

  FLWR_INLINE explicit Decoder(const Weights& w) {
    const __m512i lost = _mm512_set1_epi8(char(fixed_zero(w)));
    if constexpr (kBits == 4) {
      table[0] = _mm512_set1_epi8(15);
      table[1] = lost;
    } else {
      const int factor = kBits == 1 && w.values != Values::kZeroPoints ? 2 : 1;
      FLWR_UNROLL
      for (int p = 0; p < kBits; ++p) table[p] = bit_table(factor << p);
      // The zero once, in the lowest plane; modulo 256 in each byte.
      table[0] = _mm512_sub_epi8(table[0], lost);
    }
  }

  FLWR_INLINE void read(const uint8_t* tile, int j) {
    if constexpr (kBits == 4) {
      FLWR_UNROLL
      for (int r = 0; r < kRowVectors; ++r) line[r] = load(tile + (4 * j + r) * kLine);
    } else {
      FLWR_UNROLL
      for (int p = 0; p < kBits; ++p) line[p] = rows_in_dwords(load(tile + (8 * p + j) * kLine));
    }
  }

  // Of inputs 8j + 4n and the three after it.
  FLWR_INLINE __m512i values(int r, int n) const {
    if constexpr (kBits == 4) {
      const __m512i codes = n ? _mm512_srli_epi16(line[r], 4) : line[r];
      return _mm512_sub_epi8(_mm512_and_si512(codes, table[0]), table[1]);
    } else {
      __m512i v = _mm512_permutexvar_epi32(_mm512_srli_epi32(line[0], 8 * r + 4 * n), table[0]);
      FLWR_UNROLL
      for (int p = 1; p < kBits; ++p) {
        v = _mm512_add_epi8(
            v, _mm512_permutexvar_epi32(_mm512_srli_epi32(line[p], 8 * r + 4 * n), table[p]));
      }
      return v;
    }
  }
};

template <int kBits>
FLWR_INLINE void unpack_codes(const Weights& w, const uint8_t* tile, Unpacked& out) {
  Decoder<kBits> decoder(w);
  FLWR_UNROLL
  for (int j = 0; j < 8; ++j) {
    decoder.read(tile, j);
    FLWR_UNROLL
    for (int r = 0; r < kRowVectors; ++r) {
      FLWR_UNROLL
      for (int n = 0; n < 2; ++n) out.put(2 * j + n, r, decoder.values(r, n));
    }
  }
}

FLWR_INLINE void prefetch_tile(const uint8_t* tile, const Strides& strides) {
  for (size_t at = 0; at < strides.code + strides.scale; at += kLine) prefetch(tile + at);
}

void unpack(const Weights& w, int64_t row_tile, int64_t t, int8_t* values, int32_t* value_sums) {
  const Strides strides(w);
  const uint8_t* tile =
      w.tiles + size_t(row_tile) * strides.offset(w.input_tiles) + strides.offset(t);
  prefetch_tile(tile + strides.offset(kUnpackedAhead), strides);
  Unpacked out;
  out.values = values;
  out.valid = w.inputs - t * kTile;
  out.half_steps = w.group == 32 ? kSteps / 2 : kSteps;
  FLWR_UNROLL
  for (auto& half : out.sums) {
    FLWR_UNROLL
    for (__m512i& sum : half) sum = _mm512_setzero_si512();
  }
  switch (w.bits) {
    case 1: unpack_codes<1>(w, tile, out); break;
    case 2: unpack_codes<2>(w, tile, out); break;
    case 3: unpack_codes<3>(w, tile, out); break;
    default: unpack_codes<4>(w, tile, out);
  }
  FLWR_UNROLL
  for (int h = 0; h < 2; ++h) {
    FLWR_UNROLL
    for (int r = 0; r < kRowVectors; ++r) {
      _mm512_storeu_si512(value_sums + h * kTile + 16 * r, out.sums[h][r]);
    }
  }
}

#ifdef __AVX512VNNI__
constexpr int kGemmRows = 6;
#else
constexpr int kGemmRows = 3;  // each needs sums of 16 and of 32 bits
#endif

// Of one type with the results of vpdpbusd: GCC copies and spills a loop's __m512i sums.
typedef int32_t Ints __attribute__((vector_size(64)));
typedef int16_t Shorts __attribute__((vector_size(64)));

// Steps that a row of activations takes alone, before its sums become floats: those of one row are
// then made while the next one multiplies. All at once, the products would wait for them.
#ifdef __AVX512VNNI__
constexpr int kLastSteps = 2;

// Adds four inputs of one row of activations times a step.
FLWR_INLINE void multiply_step(const uint8_t* four, const int8_t* values,
                               Ints (&sum)[kRowVectors]) {
  const __m512i inputs = broadcast(four);
  FLWR_UNROLL
  for (int r = 0; r < kRowVectors; ++r) {
    sum[r] = Ints(_mm512_dpbusd_epi32(__m512i(sum[r]), inputs, load(values + r * kLine)));
  }
}
#else
constexpr int kLastSteps = 0;
FLWR_INLINE void multiply_step(const uint8_t*, const int8_t*, Ints (&)[kRowVectors]) {}
#endif

// Adds kRows rows of activations times `kCount` steps.
template <int kRows, int kCount>
FLWR_INLINE void multiply(const uint8_t* a, int64_t a_stride, const int8_t* values,
                          Ints (&sum)[kRows][kRowVectors]) {
#ifdef __AVX512VNNI__
  for (int step = 0; step < kCount; ++step) {
    __m512i v[kRowVectors];
    FLWR_UNROLL
    for (int r = 0; r < kRowVectors; ++r) v[r] = load(values + (step * kRowVectors + r) * kLine);
    FLWR_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const __m512i inputs = broadcast(a + i * a_stride + 4 * step);
      FLWR_UNROLL
      for (int r = 0; r < kRowVectors; ++r) {
        sum[i][r] = Ints(_mm512_dpbusd_epi32(__m512i(sum[i][r]), inputs, v[r]));
      }
    }
  }
#else
  // |values| are at most 15, so four products of pairs (2 * 15 * 255 each) fit int16.
  for (int first = 0; first < kCount; first += 4) {
    Shorts words[kRows][kRowVectors];
    FLWR_UNROLL
    for (auto& row : words) {
      FLWR_UNROLL
      for (Shorts& word : row) word = Shorts{};
    }
    for (int step = first; step < first + 4; ++step) {
      __m512i v[kRowVectors];
      FLWR_UNROLL
      for (int r = 0; r < kRowVectors; ++r) v[r] = load(values + (step * kRowVectors + r) * kLine);
      FLWR_UNROLL
      for (int i = 0; i < kRows; ++i) {
        const __m512i inputs = broadcast(a + i * a_stride + 4 * step);
        FLWR_UNROLL
        for (int r = 0; r < kRowVectors; ++r) {
          words[i][r] += Shorts(_mm512_maddubs_epi16(inputs, v[r]));
        }
      }
    }
    FLWR_UNROLL
    for (int i = 0; i < kRows; ++i) {
      FLWR_UNROLL
      for (int r = 0; r < kRowVectors; ++r) {
        sum[i][r] += Ints(_mm512_madd_epi16(__m512i(words[i][r]), _mm512_set1_epi16(1)));
      }
    }
  }
#endif
}

// Of half h, or the whole, of tile t: rows of weights as floats.
template <int kGroup, bool kZeros>
struct Scales {
  __m512 scale[kRowVectors], zero[kRowVectors];

  FLWR_INLINE Scales(const Gemm& job, const Strides& strides, int64_t t, int h) {
    constexpr int kHalves = kGroup == 32 ? 2 : 1;
    const Weights& w = *job.weights;
    const uint8_t* scales = nullptr;
    const uint8_t* zeros = nullptr;
    if (kGroup != 0) {
      const int64_t carrier = strides.carries(t) ? t : t - 1;
      scales = w.tiles + size_t(job.row_tile) * strides.offset(w.input_tiles) +
               strides.offset(carrier) + strides.code + 128 * h;
      zeros = scales + kHalves * kTile * 2;
    } else if (kZeros) {
      zeros = reinterpret_cast<const uint8_t*>(w.row_zeros + job.row_tile * kTile);
    }
    FLWR_UNROLL
    for (int r = 0; r < kRowVectors; ++r) {
      if (kGroup != 0) scale[r] = load_halves(scales + 32 * r);
      if (kZeros) {
        zero[r] = kGroup == 0 ? _mm512_loadu_ps(zeros + 64 * r) : load_halves(zeros + 32 * r);
      }
    }
  }
};

// acc of isa.h, one scale further, of one row of activations.
template <int kGroup, bool kZeros>
FLWR_INLINE void add_row(const Gemm& job, int64_t row, int64_t t, int h,
                         const Ints (&sum)[kRowVectors], const Scales<kGroup, kZeros>& by) {
  const __m512 sa = _mm512_set1_ps(job.scale[row * job.scale_stride + t * job.scale_step]);
  __m512 total;
  if (kZeros) {
    const int32_t* halves = job.sums + (row * job.weights->input_tiles + t) * 2;
    total = _mm512_set1_ps(float(kGroup == 32 ? halves[h] : halves[0] + halves[1]));
  }
  FLWR_UNROLL
  for (int r = 0; r < kRowVectors; ++r) {
    __m512 u = _mm512_cvtepi32_ps(__m512i(sum[r]));
    if (kZeros) u = _mm512_fnmadd_ps(by.zero[r], total, u);
    float* to = job.acc + row * kTile + 16 * r;
    const __m512 acc = _mm512_loadu_ps(to);
    _mm512_storeu_ps(to, kGroup == 0 ? _mm512_fmadd_ps(u, sa, acc)
                                     : _mm512_fmadd_ps(_mm512_mul_ps(u, sa), by.scale[r], acc));
  }
}

template <int kRows, int kGroup, bool kZeros>
FLWR_INLINE void gemm_half(const Gemm& job, const Strides& strides, int64_t first, int64_t t,
                           int h) {
  constexpr int kCount = kGroup == 32 ? kSteps / 2 : kSteps, kTogether = kCount - kLastSteps;
  const int64_t tile = t - job.begin;
  const int8_t* values = job.values + tile * kTile * kTile + h * kCount * kRowVectors * kLine;
  const int32_t* value_sums = job.value_sums + (tile * 2 + h) * kTile;
  Ints sum[kRows][kRowVectors];
  FLWR_UNROLL
  for (int r = 0; r < kRowVectors; ++r) {
    const Ints start = -128 * Ints(load(value_sums + 16 * r));
    FLWR_UNROLL
    for (int i = 0; i < kRows; ++i) sum[i][r] = start;
  }
  const uint8_t* a = job.a + first * job.a_stride + t * kTile + 32 * h;
  multiply<kRows, kTogether>(a, job.a_stride, values, sum);
  const Scales<kGroup, kZeros> by(job, strides, t, h);
  FLWR_UNROLL
  for (int i = 0; i < kRows; ++i) {
    FLWR_UNROLL
    for (int step = kTogether; step < kCount; ++step) {
      multiply_step(a + i * job.a_stride + 4 * step, values + step * kRowVectors * kLine, sum[i]);
    }
    add_row(job, first + i, t, h, sum[i], by);
  }
}

template <int kRows, int kGroup, bool kZeros>
void gemm_rows(const Gemm& shared, int64_t first) {
  const Gemm job = shared;  // no store can change a copy
  const Strides strides(*job.weights);
  for (int64_t t = job.begin; t < job.end; ++t) {
    FLWR_UNROLL
    for (int h = 0; h < (kGroup == 32 ? 2 : 1); ++h) {
      gemm_half<kRows, kGroup, kZeros>(job, strides, first, t, h);
    }
  }
}

// The rows that whole blocks leave over.
template <int kRows, int kGroup, bool kZeros>
void gemm_rest(const Gemm& job, int64_t first) {
  if constexpr (kRows > 0) {
    if (job.m - first == kRows) return gemm_rows<kRows, kGroup, kZeros>(job, first);
    gemm_rest<kRows - 1, kGroup, kZeros>(job, first);
  }
}

template <int kGroup, bool kZeros>
void gemm_all(const Gemm& job) {
  int64_t first = 0;
  for (; first + kGemmRows <= job.m; first += kGemmRows) {
    gemm_rows<kGemmRows, kGroup, kZeros>(job, first);
  }
  gemm_rest<kGemmRows - 1, kGroup, kZeros>(job, first);
}

template <int kGroup>
void gemm_values(const Gemm& job) {
  if (job.weights->values == Values::kZeroPoints) return gemm_all<kGroup, true>(job);
  gemm_all<kGroup, false>(job);
}

void gemm(const Gemm& job) {
  if (job.weights->group == 0) return gemm_values<0>(job);
  if (job.weights->group == 32) return gemm_values<32>(job);
  gemm_values<64>(job);  // and 128
}

}  // namespace
}  // namespace flwr_edge
