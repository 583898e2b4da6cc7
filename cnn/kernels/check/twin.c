/* What network.h defines, in plain loops: one number after the other, nothing made fast. Tests hold
   the fast kernels to these bytes. Weights have the layout of Keras, without padding: each layer's
   kernel, then its bias. Compile with -ffp-contract=off. */
#include "../network.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  int64_t height, width, channels; /* of the inputs */
  int64_t rows, columns, filters;  /* of the pooled outputs */
  int64_t kernel, bias;            /* where these begin among the parameters */
} Convolution;

typedef struct {
  int64_t inputs, units, kernel, bias;
} Dense;

/* A network, and one image on its way through it. */
typedef struct {
  int64_t side, before; /* of a kernel; zeros before the image */
  int64_t convolutions, dense, flat, classes, parameters;
  Convolution convolution[MOST_CONVOLUTIONS];
  Dense layer[MOST_DENSE];
  const float *weights;
  float dropout;
  float *maps[MOST_CONVOLUTIONS + 1];   /* inputs of each convolution; outputs of the last */
  int8_t *taken[MOST_CONVOLUTIONS + 1]; /* which of its four values pooling took */
  float *values[MOST_DENSE + 1];        /* inputs of each dense layer; outputs of the last */
  float *probabilities, *chance;        /* chance: dropout's random numbers */
} Run;

static void *room(int64_t count, size_t size) {
  void *zeros = calloc((size_t)count, size);
  if (!zeros && count) abort(); /* tests alone call this */
  return zeros;
}

static uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Adding and subtracting 1.5 * 2^23 leaves no room for a fraction. */
static float nearest_whole(float x) { return (x + 12582912.0f) - 12582912.0f; }

float twin_exp(float x) {
  static const float terms[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  if (x != x) return x;
  if (x < -87.0f) return 0;
  if (x > 88.0f) return float_of(0x7f800000u);
  const float n = nearest_whole(x * 1.44269504f);
  const float r = fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145752f, x));
  float p = 1.0f / 720;
  for (int i = 0; i < 6; i++) p = fmaf(p, r, terms[i]);
  return p * float_of((uint32_t)((int32_t)n + 127) << 23);
}

float twin_log(float x) {
  static const float terms[] = {1.0f / 7, 1.0f / 5, 1.0f / 3};
  if (x != x) return x;
  if (x < 0) return 0;
  if (x > FLT_MAX) return x;
  if (x < FLT_MIN) x = FLT_MIN;
  const uint32_t bits = bits_of(x);
  const int32_t e = (int32_t)(bits - 0x3f3504f3u) >> 23; /* m lies in [sqrt(1/2), sqrt(2)) */
  const float m = float_of(bits - ((uint32_t)e << 23));
  const float s = (m - 1) / (m + 1), z = s * s;
  float p = 1.0f / 9;
  for (int i = 0; i < 3; i++) p = fmaf(p, z, terms[i]);
  return fmaf((float)e, 0.69314718f, 2.0f * fmaf(p * z, s, s));
}

float twin_cosine(float turns) {
  static const float terms[] = {-1.0f / 3628800, 1.0f / 40320, -1.0f / 720, 1.0f / 24, -0.5f, 1.0f};
  const float t = turns - nearest_whole(turns), positive = t < 0 ? -t : t;
  const int past_quarter = positive > 0.25f;
  const float y = (past_quarter ? 0.5f - positive : positive) * 6.28318531f, z = y * y;
  float p = 1.0f / 479001600;
  for (int i = 0; i < 6; i++) p = fmaf(p, z, terms[i]);
  return past_quarter ? -p : p;
}

/* Philox4x32-10: turns a counter of four words into four random words. */
static void philox(uint32_t key_0, uint32_t key_1, uint32_t word[4]) {
  for (int i = 0; i < 10; i++) {
    const uint64_t a = (uint64_t)0xd2511f53u * word[0], b = (uint64_t)0xcd9e8d57u * word[2];
    word[0] = (uint32_t)(b >> 32) ^ word[1] ^ key_0;
    word[2] = (uint32_t)(a >> 32) ^ word[3] ^ key_1;
    word[1] = (uint32_t)b;
    word[3] = (uint32_t)a;
    key_0 += 0x9e3779b9u;
    key_1 += 0xbb67ae85u;
  }
}

void twin_uniform(uint64_t seed, uint32_t purpose, uint64_t step, uint32_t row, int64_t n,
                  float *out) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t word[] = {(uint32_t)(i / 4), row, (uint32_t)step,
                       purpose + 256u * (uint32_t)(step >> 32)};
    philox((uint32_t)seed, (uint32_t)(seed >> 32), word);
    out[i] = (float)(word[i % 4] >> 8) * (1.0f / 16777216);
  }
}

static int32_t whole_below(float x) {
  const int32_t i = (int32_t)x;
  return (float)i > x ? i - 1 : i;
}

static int64_t clamped(int64_t i, int64_t n) { return i < 0 ? 0 : i < n ? i : n - 1; }

/* How far the pixel is bent along axis k, -1 to 1. */
static float bend(const float *d, int k, int64_t x, int64_t width, int64_t y, int64_t height) {
  int32_t cell[2];
  float b[2][4];
  for (int axis = 0; axis < 2; axis++) {
    const float v = axis ? (float)y * (4.0f / (float)height) : (float)x * (4.0f / (float)width);
    const float t = v - (float)(cell[axis] = whole_below(v)), r = 1.0f - t;
    b[axis][0] = r * r * r / 6.0f;
    b[axis][1] = 2.0f / 3.0f - t * t * (1.0f - t / 2.0f);
    b[axis][2] = 2.0f / 3.0f - r * r * (1.0f - r / 2.0f);
    b[axis][3] = t * t * t / 6.0f;
  }
  float sum = 0.0f;
  for (int i = 0; i < 4; i++) {
    float column = 0.0f;
    for (int j = 0; j < 4; j++)
      column = fmaf(d[6 + 49 * k + 7 * (cell[1] + j) + cell[0] + i], b[1][j], column);
    sum = fmaf(column, b[0][i], sum);
  }
  return sum;
}

void twin_move(const Network *net, const Recipe *recipe, uint64_t step, int64_t row,
               const float *image, float *out) {
  const int64_t height = net->height, width = net->width, channels = net->channels;
  if (recipe->shift == 0 && recipe->rotation == 0 && recipe->shear == 0 && recipe->scale == 0 &&
      recipe->elastic == 0) {
    memcpy(out, image, (size_t)(height * width * channels) * sizeof(float));
    return;
  }
  float d[104];
  twin_uniform(recipe->seed, MOVES, step, (uint32_t)row, 104, d);
  for (int i = 0; i < 104; i++) d[i] = 2.0f * d[i] - 1.0f;
  const float turn = d[0] * (recipe->rotation / 360.0f), slant = d[1] * recipe->shear;
  const float l = twin_log(1.0f + recipe->scale);
  const float wide = twin_exp(d[2] * l), high = twin_exp(d[3] * l);
  const float c = twin_cosine(turn), s = twin_cosine(turn - 0.25f);
  const float xx = wide * c, xy = slant * c - high * s;
  const float yx = wide * s, yy = slant * s + high * c;
  const float x0 = ((float)width - 1.0f) / 2.0f, y0 = ((float)height - 1.0f) / 2.0f;
  const float tx = x0 + d[4] * (recipe->shift * (float)width);
  const float ty = y0 + d[5] * (recipe->shift * (float)height);

  for (int64_t y = 0; y < height; y++)
    for (int64_t x = 0; x < width; x++) {
      const float across = (float)x - x0, down = (float)y - y0;
      float from_x = fmaf(xx, across, fmaf(xy, down, tx));
      float from_y = fmaf(yx, across, fmaf(yy, down, ty));
      if (recipe->elastic != 0) {
        from_x = fmaf(recipe->elastic * (float)width, bend(d, 0, x, width, y, height), from_x);
        from_y = fmaf(recipe->elastic * (float)height, bend(d, 1, x, width, y, height), from_y);
      }
      const int32_t i = whole_below(from_x), j = whole_below(from_y);
      const float fx = from_x - (float)i, fy = from_y - (float)j;
      for (int64_t channel = 0; channel < channels; channel++) {
        float corner[4];
        for (int k = 0; k < 4; k++) {
          const int64_t at_y = (int64_t)j + k / 2, at_x = (int64_t)i + k % 2;
          const int64_t y_in = clamped(at_y, height), x_in = clamped(at_x, width);
          const int outside = at_y != y_in || at_x != x_in;
          corner[k] = image[(y_in * width + x_in) * channels + channel];
          if (outside && !(recipe->fill < 0)) corner[k] = recipe->fill;
        }
        const float upper = fmaf(fx, corner[1] - corner[0], corner[0]);
        const float lower = fmaf(fx, corner[3] - corner[2], corner[2]);
        out[(y * width + x) * channels + channel] = fmaf(fy, lower - upper, upper);
      }
    }
}

static Run shape_of(const Network *net) {
  Run run = {.side = net->kernel, .convolutions = net->convolutions, .dense = net->dense};
  const int64_t lost = net->same ? 0 : net->kernel - 1;
  int64_t height = net->height, width = net->width, channels = net->channels, at = 0;
  run.before = net->same ? (net->kernel - 1) / 2 : 0;
  for (int64_t l = 0; l < net->convolutions; l++) {
    const int64_t rows = (height - lost) / 2, columns = (width - lost) / 2;
    const int64_t filters = net->filters[l];
    const int64_t bias = at + net->kernel * net->kernel * channels * filters;
    run.convolution[l] = (Convolution){height, width, channels, rows, columns, filters, at, bias};
    height = rows, width = columns, channels = filters, at = bias + filters;
  }
  run.flat = run.classes = height * width * channels;
  for (int64_t l = 0; l < net->dense; l++) {
    const int64_t units = net->units[l], bias = at + run.classes * units;
    run.layer[l] = (Dense){run.classes, units, at, bias};
    run.classes = units, at = bias + units;
  }
  run.parameters = at;
  return run;
}

int64_t twin_parameters(const Network *net) { return shape_of(net).parameters; }

static Run begin(const Network *net, const float *weights, float dropout) {
  Run run = shape_of(net);
  run.weights = weights, run.dropout = dropout;
  for (int64_t l = 0; l < run.convolutions; l++) {
    const Convolution *c = &run.convolution[l];
    run.maps[l] = room(c->height * c->width * c->channels, sizeof(float));
    run.taken[l] = room(c->rows * c->columns * c->filters, 1);
  }
  run.maps[run.convolutions] = room(run.flat, sizeof(float));
  for (int64_t l = 0; l < run.dense; l++) run.values[l] = room(run.layer[l].inputs, sizeof(float));
  run.values[run.dense] = room(run.classes, sizeof(float));
  run.probabilities = room(run.classes, sizeof(float));
  run.chance = room(run.flat, sizeof(float));
  return run;
}

static void end(Run *run) {
  for (int l = 0; l <= MOST_CONVOLUTIONS; l++) free(run->maps[l]), free(run->taken[l]);
  for (int l = 0; l <= MOST_DENSE; l++) free(run->values[l]);
  free(run->probabilities);
  free(run->chance);
}

/* Where (y, x, channel) lies among a convolution's inputs; -1 among the zeros around them. */
static int64_t place(const Convolution *c, int64_t y, int64_t x, int64_t channel) {
  const int inside = y >= 0 && y < c->height && x >= 0 && x < c->width;
  return inside ? (y * c->width + x) * c->channels + channel : -1;
}

static float convolve(const Run *run, int64_t l, int64_t top, int64_t left, int64_t filter) {
  const Convolution *c = &run->convolution[l];
  const float *w = run->weights + c->kernel + filter;
  float sum = 0;
  for (int64_t ky = 0; ky < run->side; ky++)
    for (int64_t kx = 0; kx < run->side; kx++)
      for (int64_t ch = 0; ch < c->channels; ch++, w += c->filters) {
        const int64_t from = place(c, top + ky, left + kx, ch);
        sum = fmaf(from < 0 ? 0 : run->maps[l][from], *w, sum);
      }
  return sum;
}

static void convolution_forwards(Run *run, int64_t l) {
  const Convolution *c = &run->convolution[l];
  for (int64_t i = 0; i < c->rows * c->columns * c->filters; i++) {
    const int64_t filter = i % c->filters, spot = i / c->filters;
    const int64_t top = spot / c->columns * 2 - run->before;
    const int64_t left = spot % c->columns * 2 - run->before;
    float best = 0;
    for (int8_t k = 0; k < 4; k++) {
      const float z = convolve(run, l, top + k / 2, left + k % 2, filter);
      if (k == 0 || z > best) best = z, run->taken[l][i] = k;
    }
    best = best + run->weights[c->bias + filter];
    run->maps[l + 1][i] = best > 0 ? best : 0;
  }
}

static void dense_forwards(Run *run, int64_t l) {
  const Dense *d = &run->layer[l];
  for (int64_t unit = 0; unit < d->units; unit++) {
    float sum = 0;
    for (int64_t i = 0; i < d->inputs; i++)
      sum = fmaf(run->values[l][i], run->weights[d->kernel + i * d->units + unit], sum);
    sum = sum + run->weights[d->bias + unit];
    run->values[l + 1][unit] = l == run->dense - 1 || sum > 0 ? sum : 0;
  }
}

/* From maps[0], the image, and `chance` to the probabilities. Returns the class that has the
   greatest; sets the loss unless `label` is negative. */
static int64_t forwards(Run *run, int64_t label, float *loss) {
  for (int64_t l = 0; l < run->convolutions; l++) convolution_forwards(run, l);
  const float more = 1.0f / (1.0f - run->dropout), *z = run->values[run->dense];
  for (int64_t i = 0; i < run->flat; i++) {
    const float value = run->maps[run->convolutions][i];
    const float dropped = run->chance[i] >= run->dropout ? value * more : 0;
    run->values[0][i] = run->dropout == 0 ? value : dropped;
  }
  for (int64_t l = 0; l < run->dense; l++) dense_forwards(run, l);

  int64_t top = 0;
  for (int64_t i = 1; i < run->classes; i++) top = z[i] > z[top] ? i : top;
  float *p = run->probabilities, sum = 0;
  for (int64_t i = 0; i < run->classes; i++) {
    p[i] = twin_exp(z[i] - z[top]);
    sum = sum + p[i];
  }
  for (int64_t i = 0; i < run->classes; i++) p[i] = p[i] / sum;
  if (label >= 0) *loss = twin_log(sum) - (z[label] - z[top]);
  return top;
}

void twin_predict(const Network *net, const float *weights, const float *images,
                  const int64_t *labels, int64_t n, float *probabilities, float *losses) {
  Run run = begin(net, weights, 0);
  const int64_t pixels = net->height * net->width * net->channels;
  for (int64_t i = 0; i < n; i++) {
    memcpy(run.maps[0], images + i * pixels, (size_t)pixels * sizeof(float));
    forwards(&run, labels ? labels[i] : -1, labels ? losses + i : NULL);
    memcpy(probabilities + i * run.classes, run.probabilities, (size_t)run.classes * sizeof(float));
  }
  end(&run);
}

/* This and the next two add an image to a layer's gradients. From dz; returns da of its inputs. */
static float *dense_backwards(const Run *run, int64_t l, const float *dz, float *gradients) {
  const Dense *d = &run->layer[l];
  float *da = room(d->inputs, sizeof(float));
  for (int64_t unit = 0; unit < d->units; unit++) gradients[d->bias + unit] += dz[unit];
  for (int64_t i = 0; i < d->inputs; i++)
    for (int64_t unit = 0; unit < d->units; unit++) {
      const int64_t at = d->kernel + i * d->units + unit;
      gradients[at] = fmaf(run->values[l][i], dz[unit], gradients[at]);
      da[i] = fmaf(run->weights[at], dz[unit], da[i]);
    }
  return da;
}

static void first_backwards(const Run *run, const float *g, float *gradients) {
  const Convolution *c = &run->convolution[0];
  for (int64_t i = 0; i < c->rows * c->columns * c->filters; i++)
    gradients[c->bias + i % c->filters] += g[i];
  float *dw = gradients + c->kernel;
  for (int64_t ky = 0; ky < run->side; ky++)
    for (int64_t kx = 0; kx < run->side; kx++)
      for (int64_t ch = 0; ch < c->channels; ch++)
        for (int64_t filter = 0; filter < c->filters; filter++, dw++)
          for (int64_t y = 0; y < 2 * c->rows; y++)
            for (int64_t x = 0; x < 2 * c->columns; x++) {
              const int64_t i = (y / 2 * c->columns + x / 2) * c->filters + filter;
              const float dz = run->taken[0][i] == y % 2 * 2 + x % 2 ? g[i] : 0;
              const int64_t from = place(c, y + ky - run->before, x + kx - run->before, ch);
              *dw = fmaf(from < 0 ? 0 : run->maps[0][from], dz, *dw);
            }
}

static float *later_backwards(const Run *run, int64_t l, const float *g, float *gradients) {
  const Convolution *c = &run->convolution[l];
  float *da = room(c->height * c->width * c->channels, sizeof(float));
  for (int64_t filter = 0; filter < c->filters; filter++)
    for (int64_t spot = 0; spot < c->rows * c->columns; spot++) {
      const int64_t i = spot * c->filters + filter;
      if (g[i] == 0) continue;
      gradients[c->bias + filter] += g[i];
      const int64_t top = spot / c->columns * 2 + run->taken[l][i] / 2 - run->before;
      const int64_t left = spot % c->columns * 2 + run->taken[l][i] % 2 - run->before;
      int64_t at = c->kernel + filter;
      for (int64_t ky = 0; ky < run->side; ky++)
        for (int64_t kx = 0; kx < run->side; kx++)
          for (int64_t ch = 0; ch < c->channels; ch++, at += c->filters) {
            const int64_t from = place(c, top + ky, left + kx, ch);
            gradients[at] = fmaf(g[i], from < 0 ? 0 : run->maps[l][from], gradients[at]);
            if (from >= 0) da[from] = fmaf(g[i], run->weights[at], da[from]);
          }
    }
  return da;
}

/* Adds one image's gradients, after `forwards`. A shard's images come in their order, so that each
   sum in `gradients` is one chain over all of them. `part` is 1 / n. */
static void backwards(const Run *run, int64_t label, float part, float *gradients) {
  float *da = room(run->classes, sizeof(float)), *next;
  for (int64_t i = 0; i < run->classes; i++)
    da[i] = (run->probabilities[i] - (i == label ? 1.0f : 0.0f)) * part;
  for (int64_t l = run->dense - 1; l >= 0; l--, free(da), da = next) {
    for (int64_t i = 0; l < run->dense - 1 && i < run->layer[l].units; i++)
      da[i] = run->values[l + 1][i] > 0 ? da[i] : 0;
    next = dense_backwards(run, l, da, gradients);
  }
  const float more = 1.0f / (1.0f - run->dropout);
  for (int64_t i = 0; run->dropout != 0 && i < run->flat; i++)
    da[i] = run->chance[i] >= run->dropout ? da[i] * more : 0;
  for (int64_t l = run->convolutions - 1; l >= 0; l--, free(da), da = next) {
    const Convolution *c = &run->convolution[l];
    for (int64_t i = 0; i < c->rows * c->columns * c->filters; i++)
      da[i] = run->maps[l + 1][i] > 0 ? da[i] : 0;
    next = l > 0 ? later_backwards(run, l, da, gradients) : NULL;
    if (l == 0) first_backwards(run, da, gradients);
  }
  free(da);
}

static float tiny_is_zero(float x) { return fabsf(x) < ldexpf(1, -100) ? 0 : x; }

static void adam(const Recipe *recipe, int64_t n, const float *gradients, float rate, float alpha,
                 float past, Weights *all) {
  for (int64_t i = 0; i < n; i++) {
    const float g = gradients[i];
    float w = all->weights[i], m = all->momenta[i], v = all->velocities[i];
    if (recipe->weight_decay != 0) w = w - w * (rate * recipe->weight_decay);
    m = tiny_is_zero(m + (g - m) * (1.0f - recipe->beta_1));
    v = tiny_is_zero(v + (g * g - v) * (1.0f - recipe->beta_2));
    w = w - m * alpha / (sqrtf(v) + recipe->epsilon);
    if (recipe->averaging != 0) all->averages[i] = past * all->averages[i] + (1.0f - past) * w;
    all->weights[i] = w, all->momenta[i] = m, all->velocities[i] = v;
  }
}

int64_t twin_train(const Network *net, const Recipe *recipe, Weights *w, const float *images,
                   const int64_t *labels, const int64_t *order, int64_t count, uint64_t first_step,
                   const float *rates, const float *alphas, float *losses) {
  Run run = begin(net, w->weights, recipe->dropout);
  const int64_t pixels = net->height * net->width * net->channels, batch = recipe->batch;
  const int64_t shards = recipe->shards, size = (batch + shards - 1) / shards;
  const int64_t length = run.parameters + 1; /* a shard's gradients, then its loss */
  int64_t correct = 0;
  for (int64_t s = 0; s * batch < count; s++) {
    const int64_t *chosen = order + s * batch, left = count - s * batch;
    const int64_t n = left < batch ? left : batch;
    const uint64_t step = first_step + (uint64_t)s;
    float *sums = room(shards * length, sizeof(float));
    for (int64_t row = 0; row < n; row++) {
      float *sum = sums + row / size * length, loss;
      const int64_t label = labels[chosen[row]];
      twin_move(net, recipe, step, row, images + chosen[row] * pixels, run.maps[0]);
      twin_uniform(recipe->seed, DROPOUT, step, (uint32_t)row, run.flat, run.chance);
      correct += forwards(&run, label, &loss) == label;
      float weight = 1.0f / (float)n;
      if (recipe->class_weights) weight = recipe->class_weights[label] * weight;
      sum[run.parameters] = fmaf(loss, weight, sum[run.parameters]);
      backwards(&run, label, weight, sum);
    }
    for (int64_t half = shards / 2; half >= 1; half /= 2)
      for (int64_t i = 0; i < half * length; i++) sums[i] += sums[half * length + i];
    losses[s] = sums[run.parameters];
    const float past = step == 0 ? 0 : recipe->averaging;
    adam(recipe, run.parameters, sums, rates[s], alphas[s], past, w);
    free(sums);
  }
  end(&run);
  return correct;
}
