/* The network's arithmetic: what it computes, and in which order each sum is added.

   The law. Each number's sum is one chain of IEEE 754 float32 operations in an order that is
   written down here. Vectors run over results and never over a sum, so that their width, the
   compiler, the CPU and the number of threads change no byte. A chain "of a * b" begins with 0 and
   takes fma(a, b, sum), rounded once; a chain "of a" takes sum + a. Everything else is + - * / and
   sqrt, rounded one by one: never contracted (-ffp-contract=off), no function of libm but fmaf.

   network.c computes this fast, check/twin.c in plain loops; tests hold one to the other.

   Images are (height, width, channels), kernels (ky, kx, channel, filter), dense weights (in, out),
   all row by row. For each convolution: convolution with stride 1, pooling 2 x 2, bias, ReLU. Then
   the values are flattened in the order (y, x, channel), some are dropped in training, and dense
   layers follow, ReLU after each but the last, softmax after that.

   Forwards, for each image by itself:
   - convolution: chain of x * w over ky, kx, channel. Only what pooling reads is computed. With
     `same` the image has (kernel - 1) / 2 rows and columns of zeros before it, and kernel / 2
     after it (whole numbers); they are in the chain.
   - pooling: the greatest of (0, 0), (0, 1), (1, 0), (1, 1), the first of equals; an odd last row
     or column is not read. Then + bias, and a value that is not > 0 becomes 0.
   - dropout: value * (1 / (1 - share)) where uniform(seed, DROPOUT, step, row, i) >= share, else 0;
     `row` is the image's place in its batch, i that of the value.
   - dense: chain of x * w over the inputs, then + bias; ReLU as above.
   - softmax: top = the greatest, the first of equals; e = exp(z - top); sum = chain of e over the
     classes; e / sum. The loss is log(sum) - (z[label] - top).

   A step. A batch of n images is split into `shards` parts of ceil(batch / shards) places, the last
   ones maybe short or empty. In each shard, gradients are chains that begin with 0 and run over its
   images in their order; da is the gradient of a layer's outputs, dz of what was before ReLU:
   - last layer: dz = (p - (class is label)) * s. s = 1 / n; where classes have weights, that of the
     label's class * (1 / n).
   - dense: dw = chain of x * dz over the images, db = chain of dz over the images;
     da of the layer before = chain of w * dz over the outputs. dz = da where the output is > 0,
     else 0.
   - dropout: da * (1 / (1 - share)) where it was kept, else 0.
   - convolution: g = da where the pooled output is > 0, else 0; it goes to the place that pooling
     took.
     - the first one: db = chain of g over image, y, x of the pooled outputs; dw = chain of x * dz
       over image, y, x of what pooling read, dz being g there and 0 elsewhere.
     - others: a list, for each filter, of image, y, x of the pooled outputs where g is not 0.
       db = chain of g over the list; dw = chain of g * x over the list; da of the layer before, for
       each image, = chain of g * w over filter, then list.
   - loss = chain of losses * s over the shard's images, by fma.
   The shards' gradients and losses are added in a tree: i with i + shards / 2, then with half of
   that, to one.

   Adam, for each weight, with `rate` and `alpha` of the step:
     w = w - w * (rate * weight_decay), unless weight_decay is 0
     m = m + (g - m) * (1 - beta_1), but 0 where that is nearer to 0 than 2^-100
     v = v + (g * g - v) * (1 - beta_2), likewise
     w = w - m * alpha / (sqrt(v) + epsilon)
     average = past * average + (1 - past) * w, past = averaging, 0 in the first step; unless
       averaging is 0

   uniform(seed, purpose, step, row, i): word i % 4 of Philox4x32-10 (Salmon et al. 2011) with the
   key (seed, seed >> 32) and the counter (i / 4, row, step, purpose + 256 * (step >> 32)), each
   modulo 2^32; (word >> 8) * 2^-24, in [0, 1).

   Moves (augmentation), for the image at place `row` of its batch: d[i] = 2 * uniform(seed, MOVES,
   step, row, i) - 1 for i < 6. With turn = d[0] * (rotation / 360), slant = d[1] * shear,
   wide = exp(d[2] * l), high = exp(d[3] * l), l = log(1 + scale), c = cosine(turn),
   s = cosine(turn - 0.25):
     xx = wide * c, xy = slant * c - high * s, yx = wide * s, yy = slant * s + high * c,
     x0 = (width - 1) / 2, y0 = (height - 1) / 2,
     tx = x0 + d[4] * (shift * width), ty = y0 + d[5] * (shift * height).
   The pixel (x, y) of the result lies at fma(xx, x - x0, fma(xy, y - y0, tx)) and
   fma(yx, x - x0, fma(yy, y - y0, ty)) of the source; with the whole parts i, j below these and the
   fractions fx, fy: upper = fma(fx, source(j, i + 1) - source(j, i), source(j, i)), lower the same
   at j + 1, fma(fy, lower - upper, upper). Outside of the source there is `fill`; where that
   is below 0, the nearest pixel.

   Unless elastic is 0, the image is bent besides, by uniform cubic B-splines over 4 x 4 cells, as
   smooth as the fields of Simard, Steinkraus and Platt 2003 (a B-spline of cells of 7 pixels has
   the width of their Gaussian, sigma 4). d goes on to i < 104: node k, j, i of 7 x 7 for x (k = 0)
   and for y (k = 1) is d[6 + 49 * k + 7 * j + i]. For y, and likewise for x, v = y * (4 / height),
   with the whole part cell and the fraction t, r = 1 - t, gives
     b[0] = r * r * r / 6, b[1] = 2 / 3 - t * t * (1 - t / 2),
     b[3] = t * t * t / 6, b[2] = 2 / 3 - r * r * (1 - r / 2).
   column i = chain of node k, cell of y + j, i * b of y [j] over j < 4;
   bend = chain of column (cell of x + i) * b of x [i] over i < 4. The places of the source above are
   then fma(elastic * width, bend, place) for x, and with height for y.

   exp, log and cosine are polynomials, in primitives.h; twin.c has them in the same operations. */
#ifndef NETWORK_H
#define NETWORK_H
#include <stdint.h>

enum { MOST_CONVOLUTIONS = 6, MOST_DENSE = 4, PAD = 16 };
enum { INITIAL, DROPOUT, MOVES }; /* purposes of random numbers */

typedef struct {
  int64_t height, width, channels; /* 1 or 3 channels */
  int64_t kernel, same;            /* side of every kernel; whether images are padded with zeros */
  int64_t convolutions, filters[MOST_CONVOLUTIONS];
  int64_t dense, units[MOST_DENSE]; /* with the last layer, whose units are the classes */
} Network;

typedef struct {
  uint64_t seed;
  int64_t batch, shards;
  float dropout, shift, rotation, shear, scale, elastic; /* shares; rotation: degrees */
  float fill;                                            /* in [0, 1], or below 0 */
  float beta_1, beta_2, epsilon, weight_decay, averaging;
  const float *class_weights; /* (classes,), or NULL */
} Recipe;

/* Weights and what Adam keeps, (parameters,) each, in the layout of network.c. */
typedef struct {
  float *weights, *momenta, *velocities, *averages; /* averages: NULL unless averaging */
} Weights;
#endif
