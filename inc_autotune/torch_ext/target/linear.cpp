// activation((round(x) - zero_point) @ weight.T * scale + bias), with products of uint8 and int8 summed exactly in int32,
// and perhaps what follows it: the sum with a residual, normalized; or its integers for the next product.
//
// A block of rows is rounded to uint8 once and stays in the cache, as does a panel of 64 columns of the weight. What
// follows is done before a sum leaves the cache. For processors with AVX512-VNNI.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>

#include <immintrin.h>

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

namespace {

constexpr int64_t ROWS = 6;       // of a tile
constexpr int64_t COLUMNS = 64;   // of a tile: a panel of the weight
constexpr int64_t BLOCK = 96 << 10;  // bytes of rows that stay in the second cache
constexpr int64_t PIECES = 16;    // of an activation
constexpr int DEGREE = 4;         // of the polynomial in each piece

struct Problem {
  const void* input;       // float32 or uint8, [rows, depth]
  int64_t input_stride;    // in elements
  const float* multiplier; // [depth], null where the input is uint8
  const float* offset;     // [depth]
  int32_t zero_point;
  const int8_t* weight;    // [panels, padded_depth / 4, COLUMNS, 4], padded with 0
  const int32_t* weight_sum;  // [columns], as are the next ones
  const float* scale;
  const float* bias;       // or null
  const float* pieces;     // [DEGREE + 1, PIECES] of max(y, 0) - activation(y) over |y|, or null
  float end;               // of the pieces; behind it there is no difference
  const float* residual;   // [rows, columns] or null
  const float* norm_weight;  // [columns], null where nothing is normalized
  const float* norm_bias;
  float epsilon;
  const float* next_multiplier;  // [columns], null where nothing is rounded again
  const float* next_offset;
  float* output;           // [rows, columns], null where only the integers are asked for
  uint8_t* integers;       // [rows, columns] or null
  int64_t rows, depth, padded_depth, columns;
};

VNNI inline __mmask16 lanes(int64_t count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }

VNNI inline __m512 given(const float* row, int64_t column, __mmask16 mask) {
  return row ? _mm512_maskz_loadu_ps(mask, row + column) : _mm512_setzero_ps();
}

// round(x * multiplier + offset) from 0 to 255.
VNNI inline __m128i rounded(__m512 x, __m512 multiplier, __m512 offset) {
  const __m512 y = _mm512_min_ps(_mm512_fmadd_ps(x, multiplier, offset), _mm512_set1_ps(255.f));
  return _mm512_cvtusepi32_epi8(_mm512_max_epi32(_mm512_cvtps_epi32(y), _mm512_setzero_si512()));
}

VNNI void round_rows(const Problem& p, int64_t begin, int64_t end, uint8_t* integers) {
  for (int64_t row = begin; row < end; ++row, integers += p.padded_depth) {
    const float* x = static_cast<const float*>(p.input) + row * p.input_stride;
    for (int64_t i = 0; i < p.depth; i += 16) {
      const __mmask16 mask = lanes(p.depth - i);
      const __m128i each = rounded(_mm512_maskz_loadu_ps(mask, x + i), _mm512_maskz_loadu_ps(mask, p.multiplier + i),
                                   _mm512_maskz_loadu_ps(mask, p.offset + i));
      _mm_mask_storeu_epi8(integers + i, mask, each);
    }
  }
}

struct Activation {
  __m512 pieces[DEGREE + 1], end, per_piece;
};

VNNI inline Activation load_activation(const Problem& p) {
  Activation a;
  for (int i = 0; i <= DEGREE; ++i) a.pieces[i] = _mm512_loadu_ps(p.pieces + i * PIECES);
  a.end = _mm512_set1_ps(p.end);
  a.per_piece = _mm512_set1_ps(PIECES / p.end);
  return a;
}

// Of y: max(y, 0) less a polynomial in how far |y| lies in its piece.
VNNI inline __m512 activated(const Activation& a, __m512 y) {
  const __m512 size = _mm512_min_ps(a.end, _mm512_abs_ps(y));  // in this order: no number stays so
  const __m512 place = _mm512_mul_ps(size, a.per_piece);
  const __m512i piece = _mm512_min_epi32(_mm512_cvttps_epi32(place), _mm512_set1_epi32(PIECES - 1));
  const __m512 t = _mm512_sub_ps(place, _mm512_cvtepi32_ps(piece));
  __m512 sum = _mm512_permutexvar_ps(piece, a.pieces[DEGREE]);
  for (int i = DEGREE - 1; i >= 0; --i) sum = _mm512_fmadd_ps(sum, t, _mm512_permutexvar_ps(piece, a.pieces[i]));
  return _mm512_sub_ps(_mm512_max_ps(y, _mm512_setzero_ps()), sum);
}

typedef int32_t Integers __attribute__((vector_size(64)));

// `ROW_COUNT` rows of integers by one panel, into [ROW_COUNT, COLUMNS].
template <int ROW_COUNT>
VNNI __attribute__((noinline)) void product(const uint8_t* integers, int64_t stride, const int8_t* weight, int64_t depth,
                                            int32_t* output) {
  Integers sums[ROW_COUNT][4];
#pragma GCC unroll 8
  for (int i = 0; i < ROW_COUNT; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < 4; ++j) sums[i][j] = (Integers)_mm512_setzero_si512();
  for (int64_t k = 0; k < depth; k += 4, weight += 4 * COLUMNS) {
    Integers right[4];
#pragma GCC unroll 8
    for (int j = 0; j < 4; ++j) right[j] = (Integers)_mm512_loadu_si512(weight + 64 * j);
#pragma GCC unroll 8
    for (int i = 0; i < ROW_COUNT; ++i) {
      const Integers left = (Integers)_mm512_set1_epi32(*reinterpret_cast<const int32_t*>(integers + i * stride + k));
      // As the instruction itself: with its intrinsic, GCC moves sums between registers and stack at every step.
#pragma GCC unroll 8
      for (int j = 0; j < 4; ++j) __asm__("vpdpbusd %2, %1, %0" : "+v"(sums[i][j]) : "v"(left), "v"(right[j]));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROW_COUNT; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < 4; ++j) _mm512_storeu_si512(output + i * COLUMNS + 16 * j, (__m512i)sums[i][j]);
}

// What follows the product.
VNNI void finish(const Problem& p, const int32_t* sums, int64_t row, int64_t rows, int64_t panel) {
  Activation activation;
  if (p.pieces) activation = load_activation(p);
  for (int64_t column = panel * COLUMNS; column < std::min(p.columns, (panel + 1) * COLUMNS); column += 16, sums += 16) {
    const __mmask16 mask = lanes(p.columns - column);
    const __m512 scale = given(p.scale, column, mask), bias = given(p.bias, column, mask);
    const __m512 multiplier = given(p.next_multiplier, column, mask), offset = given(p.next_offset, column, mask);
    const __m512i shift =
        _mm512_mullo_epi32(_mm512_set1_epi32(p.zero_point), _mm512_maskz_loadu_epi32(mask, p.weight_sum + column));
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t place = (row + i) * p.columns + column;
      const __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(sums + i * COLUMNS), shift);
      __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, bias);
      if (p.pieces) y = activated(activation, y);
      if (p.residual) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, p.residual + place));
      if (p.output)
        _mm512_mask_storeu_ps(p.output + place, mask, y);
      else
        _mm_mask_storeu_epi8(p.integers + place, mask, rounded(y, multiplier, offset));
    }
  }
}

// Ask for what `finish` reads and writes, which is far away: it comes while the product is computed.
inline void prefetch(const Problem& p, int64_t row, int64_t rows, int64_t panel) {
  const int64_t size = p.output ? 4 : 1, bytes = std::min(COLUMNS, p.columns - panel * COLUMNS) * size;
  const char* output = p.output ? reinterpret_cast<const char*>(p.output) : reinterpret_cast<const char*>(p.integers);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t place = (row + i) * p.columns + panel * COLUMNS;
    for (int64_t byte = 0; byte < bytes; byte += 64)
      __builtin_prefetch(output + place * size + byte, 1);
    if (p.residual)
      for (int64_t column = 0; column < COLUMNS; column += 16) __builtin_prefetch(p.residual + place + column);
  }
}

// Layer normalization of rows of the output, in place, and their integers.
VNNI void normalize(const Problem& p, int64_t begin, int64_t end) {
  if (!p.norm_weight) return;
  const __m512 count = _mm512_set1_ps(p.columns);
  for (int64_t row = begin; row < end; ++row) {
    float* y = p.output + row * p.columns;
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < p.columns; i += 16) sum = _mm512_add_ps(sum, given(y, i, lanes(p.columns - i)));
    const __m512 mean = _mm512_div_ps(_mm512_set1_ps(_mm512_reduce_add_ps(sum)), count);
    for (int64_t i = 0; i < p.columns; i += 16) {
      const __mmask16 mask = lanes(p.columns - i);
      const __m512 distance = _mm512_maskz_sub_ps(mask, given(y, i, mask), mean);
      squares = _mm512_fmadd_ps(distance, distance, squares);
    }
    const __m512 factor = _mm512_set1_ps(1 / std::sqrt(_mm512_reduce_add_ps(squares) / p.columns + p.epsilon));
    for (int64_t i = 0; i < p.columns; i += 16) {
      const __mmask16 mask = lanes(p.columns - i);
      const __m512 normal = _mm512_mul_ps(_mm512_sub_ps(given(y, i, mask), mean), factor);
      const __m512 each = _mm512_fmadd_ps(normal, given(p.norm_weight, i, mask), given(p.norm_bias, i, mask));
      _mm512_mask_storeu_ps(y + i, mask, each);
      if (p.integers)
        _mm_mask_storeu_epi8(p.integers + row * p.columns + i, mask,
                             rounded(each, given(p.next_multiplier, i, mask), given(p.next_offset, i, mask)));
    }
  }
}

VNNI void multiply(const Problem& p, const uint8_t* integers, int64_t stride, int64_t begin, int64_t end, int64_t first,
                   int64_t last) {
  int32_t sums[ROWS * COLUMNS];
  for (int64_t panel = first; panel < last; ++panel)
    for (int64_t row = begin; row < end; row += ROWS) {
      const uint8_t* left = integers + (row - begin) * stride;
      const int8_t* right = p.weight + panel * COLUMNS * p.padded_depth;
      prefetch(p, row, std::min(ROWS, end - row), panel);
      switch (end - row) {
        case 1: product<1>(left, stride, right, p.padded_depth, sums); break;
        case 2: product<2>(left, stride, right, p.padded_depth, sums); break;
        case 3: product<3>(left, stride, right, p.padded_depth, sums); break;
        case 4: product<4>(left, stride, right, p.padded_depth, sums); break;
        case 5: product<5>(left, stride, right, p.padded_depth, sums); break;
        default: product<6>(left, stride, right, p.padded_depth, sums);
      }
      finish(p, sums, row, std::min(ROWS, end - row), panel);
    }
}

}  // namespace

// sizes: rows, depth, columns, stride of the input. Vectors in the order of `Problem`.
extern "C"
#ifdef _WIN32
__declspec(dllexport)
#endif
void integer_linear(const void* input, const float* multiplier, const float* offset, const int8_t* weight,
                    const int32_t* weight_sum, const float* scale, const float* bias, const float* pieces,
                    const float* residual, const float* norm_weight, const float* norm_bias, const float* next_multiplier,
                    const float* next_offset, float* output, uint8_t* integers, const int64_t* sizes, int zero_point,
                    float end, float epsilon, int threads) {
  const int64_t rows = sizes[0], depth = sizes[1], columns = sizes[2], padded_depth = (depth + 3) / 4 * 4;
  const Problem p{input,       sizes[3],  multiplier, offset,  zero_point,      weight,      weight_sum, scale,
                  bias,        pieces,    end,        residual, norm_weight,    norm_bias,   epsilon,    next_multiplier,
                  next_offset, output,    integers,   rows,    depth,           padded_depth, columns};
  const int64_t panels = (columns + COLUMNS - 1) / COLUMNS;
  const auto tiles = [](int64_t count) { return (count + ROWS - 1) / ROWS * ROWS; };
  const int64_t block = std::min(tiles((rows + threads - 1) / threads), std::max(ROWS, BLOCK / padded_depth / ROWS * ROWS));
  const int64_t blocks = (rows + block - 1) / block;
  const int64_t parts = std::min(panels, blocks < threads ? (threads + blocks - 1) / blocks : 1);
#pragma omp parallel num_threads(threads)
  {
    std::unique_ptr<uint8_t[]> rounded_rows(multiplier ? new uint8_t[block * padded_depth]() : nullptr);
#pragma omp for collapse(2) schedule(static)
    for (int64_t index = 0; index < blocks; ++index)
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t begin = index * block, until = std::min(begin + block, rows);
        const int64_t first = panels * part / parts, last = panels * (part + 1) / parts;
        if (multiplier) {
          round_rows(p, begin, until, rounded_rows.get());
          multiply(p, rounded_rows.get(), padded_depth, begin, until, first, last);
        } else {
          multiply(p, static_cast<const uint8_t*>(input) + begin * p.input_stride, p.input_stride, begin, until, first, last);
        }
        if (parts == 1) normalize(p, begin, until);
      }
    if (parts > 1) {
#pragma omp for schedule(static)
      for (int64_t row = 0; row < rows; ++row) normalize(p, row, row + 1);
    }
  }
}
