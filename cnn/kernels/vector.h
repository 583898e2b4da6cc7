/* Vectors of float32 as the CPU has them. How wide they are changes no byte: see network.h. */
#ifndef VECTOR_H
#define VECTOR_H
#include <stdint.h>

/* A tile of a matrix product has ROWS rows and PANEL vectors, as many sums as registers hold. */
#if defined __AVX512F__
#include <immintrin.h>
enum { LANES = 16, ROWS = 12, PANEL = 2 };
typedef __m512 V;
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SPLAT(s) _mm512_set1_ps(s)
#elif defined __AVX2__ && defined __FMA__
#include <immintrin.h>
enum { LANES = 8, ROWS = 6, PANEL = 2 };
typedef __m256 V;
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SPLAT(s) _mm256_set1_ps(s)
#elif defined __aarch64__
#include <arm_neon.h>
enum { LANES = 4, ROWS = 6, PANEL = 4 };
typedef float32x4_t V;
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define SPLAT(s) vdupq_n_f32(s)
#else /* any CPU: libm's fmaf, number by number */
enum { LANES = 4, ROWS = 2, PANEL = 4 };
typedef float V __attribute__((vector_size(16)));
static inline V fma_each(V a, V b, V c) {
  for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
#define FMA(a, b, c) fma_each(a, b, c)
#define SPLAT(s) ((V){s, s, s, s})
#endif

typedef int32_t I __attribute__((vector_size(LANES * 4)));
/* The same in memory, where it lies anywhere. */
typedef float LooseV __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t LooseI __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
/* Unrolled for certain: else a compiler may keep the sums in memory, three times as slow. */
#define EACH(i, n) _Pragma("GCC unroll 24") for (int i = 0; i < (n); i++)

INLINE V load(const float *p) { return (V) * (const LooseV *)p; }
INLINE void store(float *p, V v) { *(LooseV *)p = (LooseV)v; }
INLINE V pick(I mask, V a, V b) { return (V)(((I)a & mask) | ((I)b & ~mask)); }
#endif
