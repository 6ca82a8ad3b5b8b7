// softmax(scale * query @ key.T + mask) @ value, with products of bfloat16 and sums, maxima and exponentials of float32.
//
// The keys and values of one head are rounded and packed once, and 12 rows of queries at a time have all their scores in
// the cache, so that the softmax is exact and written nowhere. For processors with AVX512-BF16.

#include <cmath>
#include <cstdint>
#include <memory>

#include <immintrin.h>

#define BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

namespace {

constexpr int64_t ROWS = 12;    // queries at a time
constexpr int64_t KEYS = 32;    // keys are padded to a multiple of this
constexpr int64_t DEPTH = 32;   // elements of a head are padded to a multiple of this
constexpr int64_t CHUNK = 96;   // least queries of one thread's task

struct Strided {
  const float* data;
  const int64_t* strides;  // of batch, head and row, in elements; the last dimension is contiguous

  const float* row(int64_t batch, int64_t head, int64_t index) const {
    return data + batch * strides[0] + head * strides[1] + index * strides[2];
  }
};

// e ** x to three decimals, which is more than bfloat16 has. Not a number stays so; below -100 nothing is left.
BF16 inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-100.f), x);  // in this order: the second one is returned if it is not a number
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  const __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693147182f), x);
  __m512 y = _mm512_set1_ps(1.f / 24);
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.f / 6));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(.5f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.f));
  return _mm512_scalef_ps(y, n);
}

BF16 inline __mmask16 lanes(int64_t count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }

// 32 elements in a row, those from `count` on 0.
BF16 inline __m512i pairs_of(const float* row, int64_t count, __m512 factor) {
  const __m512 low = _mm512_maskz_loadu_ps(lanes(count), row), high = _mm512_maskz_loadu_ps(lanes(count - 16), row + 16);
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, factor), _mm512_mul_ps(low, factor));
}

// 16 elements of two rows, in turn.
BF16 inline __m512i interleaved(const float* even, const float* odd, __mmask16 mask) {
  const __m512 zero = _mm512_setzero_ps();
  const __m512 first = even ? _mm512_maskz_loadu_ps(mask, even) : zero;
  const __m512 second = odd ? _mm512_maskz_loadu_ps(mask, odd) : zero;
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// Rows and columns of 32-bit elements change places.
BF16 inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// c[ROW_COUNT, 16 * VECTORS] = a @ b of pairs of bfloat16: a [ROW_COUNT, steps], b [steps, 16 * VECTORS].
template <int ROW_COUNT, int VECTORS>
BF16 inline void product(const uint32_t* a, int64_t a_stride, const uint32_t* b, int64_t b_stride, int64_t steps, float* c,
                         int64_t c_stride) {
  __m512 sums[ROW_COUNT][VECTORS];
  for (int i = 0; i < ROW_COUNT; ++i)
    for (int j = 0; j < VECTORS; ++j) sums[i][j] = _mm512_setzero_ps();
  for (int64_t step = 0; step < steps; ++step) {
    __m512bh right[VECTORS];
    for (int j = 0; j < VECTORS; ++j) right[j] = (__m512bh)_mm512_loadu_si512(b + step * b_stride + 16 * j);
    for (int i = 0; i < ROW_COUNT; ++i) {
      const __m512bh left = (__m512bh)_mm512_set1_epi32(a[i * a_stride + step]);
      for (int j = 0; j < VECTORS; ++j) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], left, right[j]);
    }
  }
  for (int i = 0; i < ROW_COUNT; ++i)
    for (int j = 0; j < VECTORS; ++j) _mm512_storeu_ps(c + i * c_stride + 16 * j, sums[i][j]);
}

struct Problem {
  Strided query, key, value;
  const void* mask;          // null, bytes (0: not attended to) or floats that are added
  const int64_t* mask_strides;  // of batch, head and query, in elements; keys are contiguous
  bool mask_is_boolean, causal;
  float scale;
  float* output;  // [batch, query, head, depth], contiguous
  int64_t batches, heads, key_heads, queries, keys, depth;
};

// What one thread needs for one head.
struct Workspace {
  int64_t padded_keys, padded_depth;
  std::unique_ptr<uint32_t[]> keys, values, queries, weights;
  std::unique_ptr<float[]> scores, sums;

  Workspace(int64_t key_count, int64_t depth)
      : padded_keys((key_count + KEYS - 1) / KEYS * KEYS),
        padded_depth((depth + DEPTH - 1) / DEPTH * DEPTH),
        keys(new uint32_t[padded_depth / 2 * padded_keys]),
        values(new uint32_t[padded_keys / 2 * padded_depth]),
        queries(new uint32_t[ROWS * padded_depth / 2]),
        weights(new uint32_t[ROWS * padded_keys / 2]),
        scores(new float[ROWS * padded_keys]),
        sums(new float[ROWS * padded_depth]) {}
};

BF16 void pack_keys(const Problem& p, Workspace& w, int64_t batch, int64_t head) {
  const __m512 one = _mm512_set1_ps(1.f);
  for (int64_t key = 0; key < w.padded_keys; key += 16)
    for (int64_t depth = 0; depth < w.padded_depth; depth += DEPTH) {
      __m512i rows[16];
      for (int i = 0; i < 16; ++i)
        rows[i] = key + i < p.keys ? pairs_of(p.key.row(batch, head, key + i) + depth, p.depth - depth, one)
                                   : _mm512_setzero_si512();
      transpose(rows);
      for (int i = 0; i < 16; ++i)
        _mm512_storeu_si512(w.keys.get() + (depth / 2 + i) * w.padded_keys + key, rows[i]);
    }
}

BF16 void pack_values(const Problem& p, Workspace& w, int64_t batch, int64_t head) {
  for (int64_t key = 0; key < w.padded_keys; key += 2)
    for (int64_t depth = 0; depth < w.padded_depth; depth += 16) {
      const float* even = key < p.keys ? p.value.row(batch, head, key) + depth : nullptr;
      const float* odd = key + 1 < p.keys ? p.value.row(batch, head, key + 1) + depth : nullptr;
      _mm512_storeu_si512(w.values.get() + key / 2 * w.padded_depth + depth,
                          interleaved(even, odd, lanes(p.depth - depth)));
    }
}

// Whether some of the bytes are 0.
BF16 bool has_zeros(const uint8_t* bytes, int64_t count) {
  __mmask64 zeros = 0;
  for (int64_t i = 0; i < count; i += 64) {
    const __mmask64 mask = count - i >= 64 ? ~0ull : (1ull << (count - i)) - 1;
    const __m512i each = _mm512_maskz_loadu_epi8(mask, bytes + i);
    zeros |= mask & ~_mm512_test_epi8_mask(each, each);
  }
  return zeros != 0;
}

// Masked scores of one query; those of no key are infinitely small.
BF16 void mask_row(const Problem& p, float* row, int64_t batch, int64_t head, int64_t query, int64_t width) {
  const int64_t end = p.causal ? (query + 1 < p.keys ? query + 1 : p.keys) : p.keys;
  if (p.mask) {
    const int64_t start = batch * p.mask_strides[0] + head * p.mask_strides[1] + query * p.mask_strides[2];
    const uint8_t* kept = static_cast<const uint8_t*>(p.mask) + start;
    const float* added = static_cast<const float*>(p.mask) + start;
    const __m512 none = _mm512_set1_ps(-INFINITY);
    const bool is_whole = p.mask_is_boolean && !has_zeros(kept, end);
    for (int64_t key = is_whole ? end : 0; key < end; key += 16) {
      const __mmask16 there = lanes(end - key);
      const __m512 scores = _mm512_loadu_ps(row + key);
      if (p.mask_is_boolean) {
        const __m128i bytes = _mm_maskz_loadu_epi8(there, kept + key);
        _mm512_storeu_ps(row + key, _mm512_mask_mov_ps(none, _mm_test_epi8_mask(bytes, bytes), scores));
      } else {
        _mm512_storeu_ps(row + key, _mm512_add_ps(scores, _mm512_maskz_loadu_ps(there, added + key)));
      }
    }
  }
  for (int64_t key = end; key < width; ++key) row[key] = -INFINITY;
}

// Exponentials of one row of scores, as pairs; returns what their sum is to be multiplied by, 0 where no key is seen.
BF16 float exponentials(const float* row, uint32_t* weights, int64_t width) {
  __m512 first = _mm512_loadu_ps(row), second = first;
  for (int64_t key = 0; key < width; key += 32) {
    first = _mm512_max_ps(first, _mm512_loadu_ps(row + key));
    second = _mm512_max_ps(second, _mm512_loadu_ps(row + key + 16));
  }
  const float largest = _mm512_reduce_max_ps(_mm512_max_ps(first, second));
  const bool sees_none = largest == -INFINITY;  // or what is no number, which maxima pass over
  const __m512 top = _mm512_set1_ps(sees_none ? 0 : largest);
  first = second = _mm512_setzero_ps();
  for (int64_t key = 0; key < width; key += 32) {
    const __m512 low = exponential(_mm512_sub_ps(_mm512_loadu_ps(row + key), top));
    const __m512 high = exponential(_mm512_sub_ps(_mm512_loadu_ps(row + key + 16), top));
    first = _mm512_add_ps(first, low);
    second = _mm512_add_ps(second, high);
    _mm512_storeu_si512(weights + key / 2, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
  const float sum = _mm512_reduce_add_ps(_mm512_add_ps(first, second));
  return sees_none && sum < 1 ? 0 : 1 / sum;
}

BF16 void attend(const Problem& p, Workspace& w, int64_t batch, int64_t head, int64_t begin, int64_t end) {
  const int64_t half = w.padded_depth / 2;
  const __m512 scale = _mm512_set1_ps(p.scale);
  for (int64_t query = begin; query < end; query += ROWS) {
    const int64_t rows = end - query < ROWS ? end - query : ROWS;
    for (int64_t i = 0; i < ROWS; ++i)
      for (int64_t depth = 0; depth < w.padded_depth; depth += DEPTH) {
        const float* row = p.query.row(batch, head, query + (i < rows ? i : 0)) + depth;
        _mm512_storeu_si512(w.queries.get() + i * half + depth / 2, pairs_of(row, p.depth - depth, scale));
      }
    const int64_t seen = p.causal && query + ROWS < p.keys ? query + ROWS : p.keys;
    const int64_t width = (seen + KEYS - 1) / KEYS * KEYS;
    for (int64_t i = 0; i < ROWS; i += 6)
      for (int64_t key = 0; key < width; key += 64) {
        const auto multiply = key + 64 <= width ? product<6, 4> : product<6, 2>;
        multiply(w.queries.get() + i * half, half, w.keys.get() + key, w.padded_keys, half,
                 w.scores.get() + i * w.padded_keys + key, w.padded_keys);
      }
    float factors[ROWS];
    for (int64_t i = 0; i < rows; ++i) {
      float* row = w.scores.get() + i * w.padded_keys;
      mask_row(p, row, batch, head, query + i, width);
      factors[i] = exponentials(row, w.weights.get() + i * w.padded_keys / 2, width);
    }
    for (int64_t i = rows; i < ROWS; ++i)
      for (int64_t key = 0; key < width / 2; ++key) w.weights[i * w.padded_keys / 2 + key] = 0;
    for (int64_t depth = 0; depth < w.padded_depth; depth += 32)
      product<ROWS, 2>(w.weights.get(), w.padded_keys / 2, w.values.get() + depth, w.padded_depth, width / 2,
                       w.sums.get() + depth, w.padded_depth);
    for (int64_t i = 0; i < rows; ++i) {
      float* output = p.output + ((batch * p.queries + query + i) * p.heads + head) * p.depth;
      const __m512 factor = _mm512_set1_ps(factors[i]);
      for (int64_t depth = 0; depth < p.depth; depth += 16)
        _mm512_mask_storeu_ps(output + depth, lanes(p.depth - depth),
                              _mm512_mul_ps(_mm512_loadu_ps(w.sums.get() + i * w.padded_depth + depth), factor));
    }
  }
}

}  // namespace

// sizes: batches, heads of queries, heads of keys, queries, keys, depth. strides: of query, key, value and mask, three each.
extern "C"
#ifdef _WIN32
__declspec(dllexport)
#endif
void bf16_attention(const float* query, const float* key, const float* value, const void* mask, float* output,
                    const int64_t* sizes, const int64_t* strides, float scale, int mask_is_boolean, int causal, int threads) {
  const Problem p{{query, strides},         {key, strides + 3}, {value, strides + 6}, mask,     strides + 9,
                  mask_is_boolean != 0,     causal != 0,        scale,                output,   sizes[0],
                  sizes[1],                 sizes[2],           sizes[3],             sizes[4], sizes[5]};
  const int64_t together = p.batches * p.heads;
  int64_t parts = together < threads ? (threads + together - 1) / together : 1;
  if (parts > p.queries / CHUNK) parts = p.queries / CHUNK < 1 ? 1 : p.queries / CHUNK;
  const int64_t part = ((p.queries + parts - 1) / parts + ROWS - 1) / ROWS * ROWS;
#pragma omp parallel num_threads(threads)
  {
    Workspace workspace(p.keys, p.depth);
#pragma omp for collapse(2) schedule(static)
    for (int64_t index = 0; index < together; ++index)
      for (int64_t chunk = 0; chunk < parts; ++chunk) {
        const int64_t batch = index / p.heads, head = index % p.heads, key_head = head / (p.heads / p.key_heads);
        const int64_t begin = chunk * part, end = begin + part < p.queries ? begin + part : p.queries;
        if (begin >= end) continue;
        pack_keys(p, workspace, batch, key_head);
        pack_values(p, workspace, batch, key_head);
        attend(p, workspace, batch, head, begin, end);
      }
  }
}
