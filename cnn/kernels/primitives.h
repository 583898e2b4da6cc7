/* What networks are made of. Each function says in which order it adds; the law is in network.h.

   Channels, filters and units are filled up with zeros to a multiple of PAD, so that rows of them
   are whole vectors on every CPU. */
#ifndef PRIMITIVES_H
#define PRIMITIVES_H
#include <string.h>

#include "network.h"
#include "vector.h"

INLINE int64_t padded(int64_t n) { return (n + PAD - 1) / PAD * PAD; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- Functions, of + - * / and fma alone ----------------------------------------------------- */

INLINE float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
INLINE float nearest_whole(float x) { return (x + 12582912.0f) - 12582912.0f; } /* |x| < 2^22 */

/* e^x = 2^n e^r with |r| <= ln 2 / 2, Taylor's series to the sixth power; ln 2 in two parts. */
static float exponential(float x) {
  if (x < -87.0f) return 0.0f;
  if (!(x <= 88.0f)) return x > 88.0f ? float_of(0x7f800000u) : x; /* a NaN stays one */
  const float n = nearest_whole(x * 1.44269504f);
  const float r = __builtin_fmaf(n, -1.42860677e-6f, __builtin_fmaf(n, -0.693145752f, x));
  const float c[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  float p = 1.0f / 720;
  for (int i = 0; i < 6; i++) p = __builtin_fmaf(p, r, c[i]);
  return p * float_of((uint32_t)((int32_t)n + 127) << 23);
}

/* ln x = e ln 2 + 2 artanh((m - 1) / (m + 1)) with x = 2^e m, sqrt(1/2) <= m < sqrt(2). */
static float logarithm(float x) {
  if (x < 0.0f) return 0.0f;
  if (!(x < float_of(0x7f800000u))) return x; /* infinity or NaN */
  if (x < 1.17549435e-38f) x = 1.17549435e-38f;
  const int32_t e = (int32_t)(bits_of(x) - 0x3f3504f3u) >> 23;
  const float m = float_of(bits_of(x) - ((uint32_t)e << 23)), s = (m - 1.0f) / (m + 1.0f);
  const float z = s * s, c[] = {1.0f / 7, 1.0f / 5, 1.0f / 3};
  float p = 1.0f / 9;
  for (int i = 0; i < 3; i++) p = __builtin_fmaf(p, z, c[i]);
  return __builtin_fmaf((float)e, 0.69314718f, 2.0f * __builtin_fmaf(p * z, s, s));
}

/* cos(2 pi turns): Taylor's series to the twelfth power on a quarter of a turn. */
static float cosine(float turns) {
  float q = turns - nearest_whole(turns);
  q = q < 0.0f ? -q : q;
  const int negative = q > 0.25f;
  if (negative) q = 0.5f - q;
  const float y = q * 6.28318531f, z = y * y;
  const float c[] = {-1.0f / 3628800, 1.0f / 40320, -1.0f / 720, 1.0f / 24, -0.5f, 1.0f};
  float p = 1.0f / 479001600;
  for (int i = 0; i < 6; i++) p = __builtin_fmaf(p, z, c[i]);
  return negative ? -p : p;
}

/* ---- Random numbers: Philox4x32-10 (Salmon et al. 2011), of a counter ------------------------ */

enum { DRAWN = 64 }; /* numbers at once, so that the compiler takes vectors for them */

/* out[j] = uniform(seed, purpose, step, row, first + j); first is a multiple of DRAWN. */
static void uniform(uint64_t seed, uint32_t purpose, uint64_t step, uint32_t row, int64_t first,
                    float out[DRAWN]) {
  enum { N = DRAWN / 4 };
  uint32_t a[N], b[N], c[N], d[N];
  for (int j = 0; j < N; j++) {
    a[j] = (uint32_t)(first / 4 + j);
    b[j] = row;
    c[j] = (uint32_t)step;
    d[j] = purpose + 256u * (uint32_t)(step >> 32);
  }
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
    for (int j = 0; j < N; j++) {
      const uint64_t p = (uint64_t)a[j] * 0xD2511F53u, q = (uint64_t)c[j] * 0xCD9E8D57u;
      a[j] = (uint32_t)(q >> 32) ^ b[j] ^ k0;
      c[j] = (uint32_t)(p >> 32) ^ d[j] ^ k1;
      b[j] = (uint32_t)q;
      d[j] = (uint32_t)p;
    }
  for (int j = 0; j < N; j++) {
    const uint32_t words[] = {a[j], b[j], c[j], d[j]};
    for (int i = 0; i < 4; i++) out[4 * j + i] = (float)(words[i] >> 8) * 0x1p-24f;
  }
}

/* ---- Product of matrices: c[m][n] = chain over k of a[m][k] * b[k][n] ------------------------ */

/* The left matrix, where it lies: a[m][s * length + i] is base[rows[m] + s * segment + i * stride],
   so that the patches of an image need no copying. */
typedef struct {
  const float *base;
  const int32_t *rows;
  int64_t segments, segment, length, stride;
} Left;

INLINE void tile(const Left *a, const int32_t *rows, const float *b, int64_t b_row, float *c,
                 int64_t c_row, int add, const int height, const int vectors) {
  V sum[ROWS][PANEL];
  EACH(m, height)
  EACH(v, vectors) sum[m][v] = add ? load(c + m * c_row + v * LANES) : SPLAT(0.0f);
  for (int64_t s = 0; s < a->segments; s++) {
    const float *from[ROWS];
    EACH(m, height) from[m] = a->base + rows[m] + s * a->segment;
    const int64_t end = a->length * a->stride, stride = a->stride;
    for (int64_t k = 0; k < end; k += stride, b += b_row) {
      V w[PANEL];
      EACH(v, vectors) w[v] = load(b + v * LANES);
      EACH(m, height) {
        const V x = SPLAT(from[m][k]);
        EACH(v, vectors) sum[m][v] = FMA(x, w[v], sum[m][v]);
      }
    }
  }
  EACH(m, height)
  EACH(v, vectors) store(c + m * c_row + v * LANES, sum[m][v]);
}

/* Panels of columns one below the other: c has as many rows as `a` and one panel's columns. */
#define CASE(height, vectors)                                                              \
  case height:                                                                             \
    tile(a, a->rows + m, b, b_row, c + m * c_row, c_row, add, height <= ROWS ? height : 1, \
         vectors);                                                                         \
    break;
#define COLUMNS(name, vectors)                                                                     \
  static void name(const Left *a, int64_t rows, const float *b, int64_t b_row, float *c,           \
                   int64_t c_row, int add) {                                                       \
    for (int64_t m = 0, height; m < rows; m += height) {                                           \
      const int64_t tiles = (rows - m + ROWS - 1) / ROWS;                                          \
      height = (rows - m + tiles - 1) / tiles;                                                     \
      switch (height) {                                                                            \
        CASE(1, vectors)                                                                           \
        CASE(2, vectors) CASE(3, vectors) CASE(4, vectors) CASE(5, vectors) CASE(6, vectors)       \
            CASE(7, vectors) CASE(8, vectors) CASE(9, vectors) CASE(10, vectors) CASE(11, vectors) \
                CASE(12, vectors)                                                                  \
      }                                                                                            \
    }                                                                                              \
  }
COLUMNS(wide_columns, PANEL)
COLUMNS(narrow_columns, PAD / LANES < PANEL ? PAD / LANES : PANEL)

INLINE int64_t panel_width(int64_t left) { return left >= PANEL * LANES ? PANEL * LANES : PAD; }

/* With `add` the chains go on from what is in c. b_row 0: b is packed by `pack`. Columns are a
   multiple of PAD. */
static void product(const Left *a, int64_t rows, const float *b, int64_t b_row, int64_t columns,
                    float *c, int64_t c_row, int add) {
  const int64_t length = a->segments * a->length;
  for (int64_t n = 0, width; n < columns; n += width) {
    width = panel_width(columns - n);
    const float *panel = b_row ? b + n : b + length * n;
    (width > PAD ? wide_columns : narrow_columns)(a, rows, panel, b_row ? b_row : width, c + n,
                                                  c_row, add);
  }
}

/* b (k, n) panel by panel, each contiguous; b[k][n] is from[k * row + n * column]. */
static void pack(const float *from, int64_t row, int64_t column, int64_t length, int64_t columns,
                 float *out) {
  for (int64_t n = 0, width; n < columns; n += width) {
    width = panel_width(columns - n);
    for (int64_t k = 0; k < length; k++)
      for (int64_t i = 0; i < width; i++) *out++ = from[k * row + (n + i) * column];
  }
}

/* ---- Pooling, then bias and ReLU ------------------------------------------------------------- */

/* One row of pooled outputs: y holds two rows of `columns` pairs of pixels. `taken` is 0 to 3. */
static void pool(const float *y, int64_t columns, int64_t filters, const float *bias, float *out,
                 int32_t *taken) {
  const V zero = SPLAT(0.0f);
  for (int64_t x = 0; x < columns; x++, y += 2 * filters, out += filters, taken += filters)
    for (int64_t f = 0; f < filters; f += LANES) {
      const float *below = y + 2 * columns * filters;
      const V of[] = {load(y + f), load(y + filters + f), load(below + f),
                      load(below + filters + f)};
      V best = of[0];
      I at = (I)zero;
      EACH(t, 4) {
        const I more = (I)(of[t] > best);
        best = pick(more, of[t], best);
        at = (at & ~more) | (((I)zero + t) & more);
      }
      best = best + load(bias + f);
      store(out + f, pick((I)(best > zero), best, zero));
      *(LooseI *)(taken + f) = (LooseI)at;
    }
}

/* The way back for one row: dy of its two rows of pixels; db goes on, over x. */
static void unpool(const float *da, const float *out, const int32_t *taken, int64_t columns,
                   int64_t filters, float *dy, float *db) {
  const V zero = SPLAT(0.0f);
  for (int64_t x = 0; x < columns; x++, dy += 2 * filters)
    for (int64_t f = 0; f < filters; f += LANES) {
      const int64_t i = x * filters + f;
      const V g = pick((I)(load(out + i) > zero), load(da + i), zero);
      const I at = (I) * (const LooseI *)(taken + i);
      store(db + f, load(db + f) + g);
      EACH(t, 4)
      store(dy + f + (t / 2 * 2 * columns + t % 2) * filters,
            pick((I)(at == (I)zero + t), g, zero));
    }
}

/* ---- The gradients of a convolution whose outputs were pooled: over a list of what is not 0 -- */

typedef struct {
  int32_t patch; /* where in the input the patch of the place begins that pooling took */
  float g;
} Entry;

INLINE void add_to_weights(const float *x, int64_t row, const Entry *list, int64_t n, float *dw,
                           int64_t dw_row, const int rows, const int vectors) {
  V sum[3][12];
  EACH(i, rows)
  EACH(v, vectors) sum[i][v] = load(dw + i * dw_row + v * LANES);
  for (int64_t e = 0; e < n; e++) {
    const float *from = x + list[e].patch;
    const V g = SPLAT(list[e].g);
    EACH(i, rows)
    EACH(v, vectors) sum[i][v] = FMA(g, load(from + i * row + v * LANES), sum[i][v]);
  }
  EACH(i, rows)
  EACH(v, vectors) store(dw + i * dw_row + v * LANES, sum[i][v]);
}

/* dw (kernel, kernel * channels) of one filter goes on: chain of g * x over the list. */
static void weights_gradient(const float *x, int64_t row, const Entry *list, int64_t n, float *dw,
                             int64_t kernel, int64_t channels) {
  const int64_t width = kernel * channels;
  int64_t i = 0;
  if (LANES == 16 && width == 6 * LANES)
    for (; i + 3 <= kernel; i += 3)
      add_to_weights(x + i * row, row, list, n, dw + i * width, width, 3, 6);
  for (; i < kernel; i++)
    for (int64_t v = 0, block; v < width; v += block * LANES) {
      const int64_t left = (width - v) / LANES;
      const float *from = x + i * row + v;
      float *to = dw + i * width + v;
      block = left >= 12 ? 12 : left >= 6 ? 6 : left >= 3 ? 3 : 1;
      if (block == 12)
        add_to_weights(from, row, list, n, to, width, 1, 12);
      else if (block == 6)
        add_to_weights(from, row, list, n, to, width, 1, 6);
      else if (block == 3)
        add_to_weights(from, row, list, n, to, width, 1, 3);
      else
        add_to_weights(from, row, list, n, to, width, 1, 1);
    }
}

INLINE void add_patches(float *restrict dx, int64_t begin, int64_t row, const Entry *restrict list,
                        int64_t n, const float *restrict w, const int64_t kernel,
                        const int64_t vectors) {
  for (int64_t e = 0; e < n; e++) {
    float *to = dx + (list[e].patch - begin);
    const V g = SPLAT(list[e].g);
    EACH(i, kernel) {
      EACH(v, vectors) {
        float *at = to + v * LANES;
        store(at, FMA(g, load(w + (i * vectors + v) * LANES), load(at)));
      }
      to += row;
    }
  }
}

/* dx (rows, columns, channels) goes on: chain of g * w over the list, w (kernel, kernel * channels)
   of one filter; what `patch` counts from is `begin`. A whole patch at a time: were it parted,
   where would change the order. */
static void inputs_gradient(float *dx, int64_t begin, int64_t row, const Entry *list, int64_t n,
                            const float *w, int64_t kernel, int64_t channels) {
  if (kernel == 3 && channels == 32)
    add_patches(dx, begin, row, list, n, w, 3, 3 * 32 / LANES);
  else
    add_patches(dx, begin, row, list, n, w, kernel, kernel * channels / LANES);
}

/* ---- Softmax and loss, Adam, moves ----------------------------------------------------------- */

/* z (n,) becomes probabilities. Returns the loss if `label` is a class, else 0. */
static float softmax(float *z, int64_t n, int64_t label, int64_t *best) {
  const float at = label >= 0 ? z[label] : 0.0f;
  float top = z[0], sum = 0.0f;
  *best = 0;
  for (int64_t i = 1; i < n; i++)
    if (z[i] > top) top = z[i], *best = i;
  for (int64_t i = 0; i < n; i++) sum += z[i] = exponential(z[i] - top);
  for (int64_t i = 0; i < n; i++) z[i] = z[i] / sum;
  return label >= 0 ? logarithm(sum) - (at - top) : 0.0f;
}

/* Else the momentum of a weight whose gradients have become 0 shrinks until it is smaller than
   normal numbers are, and stays so; many CPUs are slow with such a one. */
INLINE float tiny_is_zero(float x) { return __builtin_fabsf(x) < 0x1p-100f ? 0.0f : x; }

/* Adam (Kingma and Ba 2015, algorithm 1), weight decay as Loshchilov and Hutter 2019 decouple
   it. */
static void adam(const Recipe *recipe, int first, float rate, float alpha, int64_t n,
                 const float *restrict g, float *restrict w, float *restrict m, float *restrict v,
                 float *restrict average) {
  const float decay = rate * recipe->weight_decay, epsilon = recipe->epsilon;
  const float new_m = 1.0f - recipe->beta_1, new_v = 1.0f - recipe->beta_2;
  const float past = first ? 0.0f : recipe->averaging, present = 1.0f - past;
  if (recipe->weight_decay != 0.0f)
    for (int64_t i = 0; i < n; i++) w[i] = w[i] - w[i] * decay;
  for (int64_t i = 0; i < n; i++) {
    m[i] = tiny_is_zero(m[i] + (g[i] - m[i]) * new_m);
    v[i] = tiny_is_zero(v[i] + (g[i] * g[i] - v[i]) * new_v);
    w[i] = w[i] - m[i] * alpha / (__builtin_sqrtf(v[i]) + epsilon);
  }
  if (average)
    for (int64_t i = 0; i < n; i++) average[i] = past * average[i] + present * w[i];
}

INLINE int64_t bordered_size(const Network *net) {
  return (net->height + 3) * (net->width + 3) * net->channels;
}

enum { MOST_SIDE = 256, CELLS = 4, NODES = CELLS + 3 };

/* Where a pixel lies in the grid of cells along its side: its cell's first node, whose four nodes
   count by `b`. */
static int32_t in_cells(int64_t at, int64_t side, float b[4]) {
  const float v = (float)at * ((float)CELLS / (float)side);
  const int32_t cell = (int32_t)v;
  const float t = v - (float)cell, r = 1.0f - t;
  b[0] = r * r * r / 6.0f;
  b[1] = 2.0f / 3.0f - t * t * (1.0f - t / 2.0f);
  b[2] = 2.0f / 3.0f - r * r * (1.0f - r / 2.0f);
  b[3] = t * t * t / 6.0f;
  return cell;
}

/* How far the pixels of row y are bent along one axis, -1 to 1; those of cell c begin at begin[c],
   and weight four nodes by `b`. After them there is room for a vector more. */
static void bend(const float nodes[NODES * NODES], int64_t y, int64_t height,
                 const int32_t begin[CELLS + 1], float (*b)[MOST_SIDE + PAD], float *out) {
  float column[NODES] = {0}, down[4];
  const int32_t first = in_cells(y, height, down);
  for (int j = 0; j < 4; j++)
    for (int i = 0; i < NODES; i++)
      column[i] = __builtin_fmaf(nodes[(first + j) * NODES + i], down[j], column[i]);
  for (int c = 0; c < CELLS; c++) /* what is written beyond a cell is written anew by the next */
    for (int32_t x = begin[c]; x < begin[c + 1]; x += LANES) {
      V sum = SPLAT(0.0f);
      EACH(i, 4) sum = FMA(SPLAT(column[c + i]), load(b[i] + x), sum);
      store(out + x, sum);
    }
}

/* Whole parts of places along one axis, clamped to -1 to `side` and counted from -1 on; their
   fractions are stored. */
INLINE I whole_part(V place, float side, float *fraction) {
  const V low = SPLAT(-1.0f), high = SPLAT(side);
  place = pick((I)(place < low), low, pick((I)(place > high), high, place));
  I at = __builtin_convertvector(place, I);
  at += (I)(__builtin_convertvector(at, V) > place); /* a true one is -1 */
  store(fraction, place - __builtin_convertvector(at, V));
  return at + 1;
}

/* Row y of an image, or of what is outside, with one pixel before it and two after. */
static void surround(const float *image, int64_t y, int64_t height, int64_t width,
                     int64_t channels, float fill, float *restrict out) {
  const int64_t line = width * channels;
  const float *row = image + least(y < 0 ? 0 : y, height - 1) * line;
  const int inside = y >= 0 && y < height, nearest = fill < 0.0f;
  if (!inside && !nearest) {
    for (int64_t i = 0; i < line + 3 * channels; i++) out[i] = fill;
    return;
  }
  memcpy(out + channels, row, (size_t)line * 4);
  for (int64_t c = 0; c < channels; c++) {
    out[c] = nearest ? row[c] : fill;
    for (int64_t x = width + 1; x < width + 3; x++)
      out[x * channels + c] = nearest ? row[line - channels + c] : fill;
  }
}

/* An image at random moved, turned, slanted, resized and bent, by one interpolation.
   `bordered` has room for it with what is outside around it, one row and column before and two
   after: what lies farther off is clamped to there, and comes out the same. */
static void move(const Network *net, const Recipe *recipe, uint64_t step, int64_t row,
                 const float *image, float *restrict bordered, float *restrict out) {
  const int64_t height = net->height, width = net->width, channels = net->channels;
  const int64_t line = (width + 3) * channels;
  const int bent = recipe->elastic != 0.0f;
  float d[2 * DRAWN] = {0};
  for (int i = 0; i <= bent; i++)
    uniform(recipe->seed, MOVES, step, (uint32_t)row, i * DRAWN, d + i * DRAWN);
  for (int i = 0; i < 2 * DRAWN; i++) d[i] = 2.0f * d[i] - 1.0f;
  const float turn = d[0] * (recipe->rotation / 360.0f), slant = d[1] * recipe->shear;
  const float l = logarithm(1.0f + recipe->scale);
  const float wide = exponential(d[2] * l), high = exponential(d[3] * l);
  const float c = cosine(turn), s = cosine(turn - 0.25f);
  const float xx = wide * c, xy = slant * c - high * s, yx = wide * s, yy = slant * s + high * c;
  const float x0 = ((float)width - 1.0f) / 2.0f, y0 = ((float)height - 1.0f) / 2.0f;
  const float right = (float)width, bottom = (float)height;
  const float tx = x0 + d[4] * (recipe->shift * right), ty = y0 + d[5] * (recipe->shift * bottom);
  const float bend_x = recipe->elastic * right, bend_y = recipe->elastic * bottom;
  for (int64_t y = 0; y < height + 3; y++)
    surround(image, y - 1, height, width, channels, recipe->fill, bordered + y * line);
  int32_t begin[CELLS + 1] = {0};
  float b[4][MOST_SIDE + PAD] = {0}, number[MOST_SIDE + PAD] = {0};
  float across[MOST_SIDE + PAD] = {0}, down[MOST_SIDE + PAD] = {0};
  for (int32_t x = 0; x < (int32_t)width; x++) {
    float four[4];
    const int32_t cell = in_cells(x, width, four);
    for (int i = 0; i < 4; i++) b[i][x] = four[i];
    for (int c = cell; c < CELLS; c++) begin[c + 1] = x + 1;
    number[x] = (float)x - x0;
  }
  for (int64_t y = 0; y < height; y++, out += width * channels) {
    const V ax = SPLAT(__builtin_fmaf(xy, (float)y - y0, tx));
    const V ay = SPLAT(__builtin_fmaf(yy, (float)y - y0, ty));
    if (bent) {
      bend(d + 6, y, height, begin, b, across);
      bend(d + 6 + NODES * NODES, y, height, begin, b, down);
    }
    int32_t at[MOST_SIDE + PAD];
    float fx[MOST_SIDE + PAD], fy[MOST_SIDE + PAD];
    for (int64_t x = 0; x < width; x += LANES) {
      const V n = load(number + x);
      const V sx = FMA(SPLAT(bend_x), load(across + x), FMA(SPLAT(xx), n, ax));
      const V sy = FMA(SPLAT(bend_y), load(down + x), FMA(SPLAT(yx), n, ay));
      const I i = whole_part(sx, right, fx + x), j = whole_part(sy, bottom, fy + x);
      *(LooseI *)(at + x) = j * (int32_t)line + i * (int32_t)channels;
    }
    for (int64_t ch = 0; ch < channels; ch++) {
      const float *above = bordered + ch, *below = above + line;
      for (int32_t x = 0; x < (int32_t)width; x++) {
        const float a = above[at[x]], b = above[at[x] + channels];
        const float p = below[at[x]], q = below[at[x] + channels];
        const float upper = __builtin_fmaf(fx[x], b - a, a);
        const float lower = __builtin_fmaf(fx[x], q - p, p);
        out[x * channels + ch] = __builtin_fmaf(fy[x], lower - upper, upper);
      }
    }
  }
}
#endif
