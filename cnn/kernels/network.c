/* The network, a step of training, and the threads that share it; the law is in network.h.

   Weights lie one layer after another, filled up with zeros to multiples of PAD: of the first
   convolution (ky, kx, channel, filter), of others (filter, ky, kx, channel), since their gradients
   are taken filter by filter, of dense layers (in, out); after each its bias. */
#include "network.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#if defined __x86_64__
#include <cpuid.h>
#endif

#include "primitives.h"

#define EXPORT __attribute__((visibility("default")))
/* BLOCK: images that a thread takes through the layers at once; its chains go on from block to
   block. PIECE: parameters that it updates at once, about as many. */
enum { BLOCK = 16, PIECE = 2048 };

/* ---- What follows from a network ------------------------------------------------------------- */

typedef struct { /* a convolution, and the pooling after it */
  int64_t rows, columns, channels,
      before; /* of its input, with `before` zeros above and left of it */
  int64_t pooled_rows, pooled_columns, filters;
  int64_t strip; /* pooled rows computed at once, few enough to stay in the first cache */
  int64_t weights, bias, size; /* where they lie; of an input */
} Convolution;

typedef struct {
  int64_t in, out, weights, bias;
  int64_t stored; /* where the gradients of its bias lie among those that are stored */
} Dense;

typedef struct {
  const Network *net;
  Convolution convolution[MOST_CONVOLUTIONS];
  Dense dense[MOST_DENSE];
  int64_t flat, classes, parameters, widest; /* values after flattening; outputs of a dense layer */
  int64_t stored; /* gradients of a shard: of the convolutions, and of the dense layers' biases */
} Plan;

static Plan plan_of(const Network *net) {
  Plan plan = {.net = net};
  int64_t rows = net->height, columns = net->width, channels = net->channels, at = 0;
  const int64_t around = net->same ? net->kernel - 1 : 0;
  for (int64_t l = 0; l < net->convolutions; l++) {
    Convolution *c = &plan.convolution[l];
    c->rows = rows + around, c->columns = columns + around, c->channels = channels;
    c->before = around / 2;
    c->pooled_rows = (c->rows - net->kernel + 1) / 2;
    c->pooled_columns = (c->columns - net->kernel + 1) / 2;
    c->filters = padded(net->filters[l]);
    c->strip = least(c->pooled_rows, 1 + 96 / (4 * c->pooled_columns));
    c->size = c->rows * c->columns * c->channels;
    c->weights = at;
    c->bias = at += net->kernel * net->kernel * channels * c->filters;
    at += c->filters;
    rows = c->pooled_rows, columns = c->pooled_columns, channels = c->filters;
  }
  plan.flat = rows * columns * channels;
  plan.stored = at;
  for (int64_t l = 0, in = plan.flat; l < net->dense; l++) {
    Dense *d = &plan.dense[l];
    *d = (Dense){in, padded(net->units[l]), at, at + in * padded(net->units[l]), plan.stored};
    at = d->bias + d->out;
    plan.stored += d->out;
    in = d->out;
    if (in > plan.widest) plan.widest = in;
  }
  plan.classes = net->units[net->dense - 1];
  plan.parameters = at;
  return plan;
}

/* Of the dense layers, a row for each image: x[0] the flattened values that they are given,
   x[l + 1] what layer l gives, and dz[l], the gradient of that before ReLU. */
typedef struct {
  float *x[MOST_DENSE + 1], *dz[MOST_DENSE];
} Factors;

/* A thread's memory. Activations are the inputs of the layer after, with its zeros around them. */
typedef struct {
  void *all[64];
  int count, failed;
  const float *image[BLOCK];
  float *moved, *strip, *activation[MOST_CONVOLUTIONS], *gradient[MOST_CONVOLUTIONS];
  float *packed[MOST_CONVOLUTIONS];
  int32_t *taken[MOST_CONVOLUTIONS], *patches[MOST_CONVOLUTIONS], *taps, *rows;
  Entry *list;
  int32_t *begins; /* of each filter's and image's part of the list */
  Factors factors; /* of the block; in training they lie among the batch's */
  float *drawn, *turned, *da, *bordered, *parts;
} Work;

static void *room(Work *work, int64_t n, int64_t size) {
  /* Zeros, and a vector's more, on a cache line of its own. */
  const size_t bytes = ((size_t)(n * size) + 127) / 64 * 64;
  void *memory = aligned_alloc(64, bytes);
  if (memory)
    memset(memory, 0, bytes), work->all[work->count++] = memory;
  else
    work->failed = 1;
  return memory;
}

static Factors make_factors(const Plan *plan, int64_t images, int training, Work *work) {
  Factors made = {.x = {room(work, images * plan->flat, 4)}};
  for (int64_t l = 0; l < plan->net->dense; l++) {
    made.x[l + 1] = room(work, images * plan->dense[l].out, 4);
    if (training) made.dz[l] = room(work, images * plan->dense[l].out, 4);
  }
  return made;
}

/* Entries between one filter's list and the next: as many as a block may have, and a cache line,
   so that sixteen lists do not begin in the same place of the cache. */
static int64_t list_room(const Convolution *c) {
  return BLOCK * c->pooled_rows * c->pooled_columns + 8;
}

/* Where the activations of convolution l begin, and how far it is from row to row and from image
   to image. */
static int64_t inside(const Plan *plan, int64_t l, int64_t *row, int64_t *image) {
  const Convolution *c = &plan->convolution[l], *next = c + 1;
  const int last = l + 1 == plan->net->convolutions;
  *row = (last ? c->pooled_columns : next->columns) * c->filters;
  *image = last ? plan->flat : next->size;
  return last ? 0 : (next->before * next->columns + next->before) * c->filters;
}

static int drops(const Recipe *recipe) { return recipe && recipe->dropout > 0.0f; }

/* Let the block's factors be those from a row on. Where nothing is dropped, the last activations
   are x[0]. */
static void take_factors(const Plan *plan, const Recipe *recipe, Work *work, const Factors *of,
                         int64_t row) {
  work->factors.x[0] = of->x[0] + row * plan->flat;
  for (int64_t l = 0; l < plan->net->dense; l++) {
    work->factors.x[l + 1] = of->x[l + 1] + row * plan->dense[l].out;
    if (recipe) work->factors.dz[l] = of->dz[l] + row * plan->dense[l].out;
  }
  if (!drops(recipe)) work->activation[plan->net->convolutions - 1] = work->factors.x[0];
}

/* How many rows of a dense layer's weights are updated at once: whole tiles. */
static int64_t rows_at_once(const Dense *d) {
  const int64_t tiles = PIECE / (ROWS * d->out);
  return ROWS * (tiles ? tiles : 1);
}

/* own: how many shards of a batch are computed here. */
static void make_work(const Plan *plan, const Recipe *recipe, int64_t own, Work *work) {
  const Network *net = plan->net;
  const int training = recipe != NULL;
  int64_t strip = 0, list = 0, filters = 0;
  *work = (Work){.count = 0};
  for (int64_t l = 0; l < net->convolutions; l++) {
    const Convolution *c = &plan->convolution[l];
    const int64_t places = c->pooled_rows * c->pooled_columns;
    int64_t row, size;
    inside(plan, l, &row, &size);
    if (l + 1 < net->convolutions || drops(recipe))
      work->activation[l] = room(work, BLOCK * size, 4);
    work->taken[l] = room(work, BLOCK * places * c->filters, 4);
    work->patches[l] = room(work, c->strip * 4 * c->pooled_columns, 4);
    for (int64_t i = 0; work->patches[l] && i < c->strip * 4 * c->pooled_columns; i++)
      work->patches[l][i] =
          (int32_t)((i / (2 * c->pooled_columns) * c->columns + i % (2 * c->pooled_columns)) *
                    c->channels);
    const int64_t outputs = c->strip * 4 * c->pooled_columns * c->filters;
    if (outputs > strip) strip = outputs;
    if (l) work->packed[l] = room(work, c->bias - c->weights, 4);
    if (training) {
      const int64_t image = net->height * net->width * net->channels; /* see take_images */
      work->gradient[l] = room(work, l ? BLOCK * size : image > size ? image : size, 4);
    }
    if (l && list_room(c) * c->filters > list) list = list_room(c) * c->filters;
    if (l && c->filters > filters) filters = c->filters;
  }
  const Convolution *first = &plan->convolution[0];
  work->moved = room(work, BLOCK * first->size, 4);
  work->strip = room(work, strip, 4);
  const int64_t rows = plan->flat > plan->widest ? plan->flat : plan->widest;
  work->rows = room(work, rows, 4);
  if (training) {
    work->list = room(work, list, sizeof(Entry));
    work->begins = room(work, filters * (BLOCK + 1), 4);
    work->taps = room(work, net->kernel * net->kernel * net->channels, 4);
    for (int64_t i = 0; work->taps && i < net->kernel * net->kernel * net->channels; i++)
      work->taps[i] = (int32_t)(i / (net->kernel * net->channels) * first->columns * net->channels +
                                i % (net->kernel * net->channels));
    work->drawn = room(work, plan->flat + DRAWN, 4);
    work->bordered = room(work, bordered_size(net), 4);
    work->parts = room(work, own * (PIECE + ROWS * plan->widest), 4);
    work->turned = room(work, BLOCK * plan->widest, 4);
    work->da = room(work, BLOCK * rows, 4);
  } else {
    const Factors factors = make_factors(plan, BLOCK, 0, work);
    take_factors(plan, NULL, work, &factors, 0);
  }
}

static void free_work(Work *work) {
  while (work->count) free(work->all[--work->count]);
}

static const int32_t *rows_of(Work *work, int64_t n, int64_t stride) {
  for (int64_t i = 0; i < n; i++) work->rows[i] = (int32_t)(i * stride);
  return work->rows;
}

/* Filters lie one after another; `product` wants them side by side. */
static void pack_filters(const Plan *plan, const float *weights, Work *work) {
  for (int64_t l = 1; l < plan->net->convolutions; l++) {
    const Convolution *c = &plan->convolution[l];
    const int64_t length = (c->bias - c->weights) / c->filters;
    pack(weights + c->weights, 1, length, length, c->filters, work->packed[l]);
  }
}

/* ---- Forwards -------------------------------------------------------------------------------- */

/* Take up a block's images: moved, if recipe says so, and with zeros around them, where needed. */
static void take_images(const Plan *plan, const Recipe *recipe, Work *work, const float *images,
                        const int64_t *order, int64_t count, uint64_t step, int64_t place) {
  const Network *net = plan->net;
  const Convolution *first = &plan->convolution[0];
  const int64_t line = net->width * net->channels, row = first->columns * net->channels;
  const int moves = recipe && (recipe->shift != 0.0f || recipe->rotation != 0.0f ||
                               recipe->shear != 0.0f || recipe->scale != 0.0f ||
                               recipe->elastic != 0.0f);
  for (int64_t i = 0; i < count; i++) {
    const float *image = images + (order ? order[i] : i) * net->height * line;
    float *to = work->moved + i * first->size;
    if (moves) {
      float *here = net->same ? work->gradient[0] : to; /* not in use yet */
      move(net, recipe, step, place + i, image, work->bordered, here);
      image = here;
    }
    work->image[i] = net->same ? to : image;
    for (int64_t y = 0; net->same && y < net->height; y++)
      memcpy(to + (first->before + y) * row + first->before * net->channels, image + y * line,
             (size_t)line * 4);
  }
}

static void convolve(const Plan *plan, const float *weights, Work *work, int64_t l, int64_t i) {
  const Network *net = plan->net;
  const Convolution *c = &plan->convolution[l];
  const int64_t row = c->columns * c->channels;
  const float *x = l ? work->activation[l - 1] + i * c->size : work->image[i];
  int64_t out_row, out_size;
  float *out = work->activation[l] + inside(plan, l, &out_row, &out_size);
  out += i * out_size;
  for (int64_t y = 0, n; y < c->pooled_rows; y += n) {
    n = least(c->strip, c->pooled_rows - y);
    const Left patches = {
        x + 2 * y * row, work->patches[l], net->kernel, row, net->kernel * c->channels, 1};
    product(&patches, n * 4 * c->pooled_columns, l ? work->packed[l] : weights + c->weights,
            l ? 0 : c->filters, c->filters, work->strip, c->filters, 0);
    for (int64_t j = 0; j < n; j++)
      pool(work->strip + j * 4 * c->pooled_columns * c->filters, c->pooled_columns, c->filters,
           weights + c->bias, out + (y + j) * out_row,
           work->taken[l] + (i * c->pooled_rows + y + j) * c->pooled_columns * c->filters);
  }
}

/* What the dense layers are given for the image i of the block: some of what its convolutions gave.
   A value's number counts filters as the network has them, without the zeros that fill them up. */
static void drop(const Plan *plan, const Recipe *recipe, Work *work, int64_t i, uint64_t step,
                 int64_t place) {
  const int64_t last = plan->net->convolutions - 1, filters = plan->net->filters[last];
  const int64_t width = plan->convolution[last].filters, pixels = plan->flat / width;
  const float scale = 1.0f / (1.0f - recipe->dropout), share = recipe->dropout;
  const float *value = work->activation[last] + i * plan->flat, *drawn = work->drawn;
  float *to = work->factors.x[0] + i * plan->flat;
  for (int64_t k = 0; k < pixels * filters; k += DRAWN)
    uniform(recipe->seed, DROPOUT, step, (uint32_t)(place + i), k, work->drawn + k);
  for (int64_t k = 0; k < pixels; k++, value += width, to += width, drawn += filters)
    for (int64_t f = 0; f < filters; f++) to[f] = drawn[f] >= share ? value[f] * scale : 0.0f;
}

/* From a block's images to the values of the last layer, before softmax. */
static void forward(const Plan *plan, const Recipe *recipe, const float *weights, Work *work,
                    int64_t count, uint64_t step, int64_t place) {
  const Network *net = plan->net;
  for (int64_t i = 0; i < count; i++) {
    for (int64_t l = 0; l < net->convolutions; l++) convolve(plan, weights, work, l, i);
    if (drops(recipe)) drop(plan, recipe, work, i, step, place);
  }
  for (int64_t l = 0; l < net->dense; l++) {
    const Dense *d = &plan->dense[l];
    const float *bias = weights + d->bias;
    float *z = work->factors.x[l + 1];
    const Left left = {work->factors.x[l], rows_of(work, count, d->in), 1, 0, d->in, 1};
    product(&left, count, weights + d->weights, d->out, d->out, z, d->out, 0);
    for (int64_t i = 0; i < count * d->out; i += d->out)
      for (int64_t o = 0; o < d->out; o++) {
        const float value = z[i + o] + bias[o];
        z[i + o] = l + 1 == net->dense || value > 0.0f ? value : 0.0f;
      }
  }
}

/* ---- Backwards ------------------------------------------------------------------------------- */

/* The dense layers' gradients of a block, but those of their weights; the last layer's dz is there.
   da (flat, BLOCK) is left in work->da. */
static void dense_backward(const Plan *plan, const float *weights, Work *work, int64_t count,
                           float *g) {
  for (int64_t l = plan->net->dense - 1; l >= 0; l--) {
    const Dense *d = &plan->dense[l];
    const float *x = work->factors.x[l], *dz = work->factors.dz[l];
    float *db = g + d->stored;
    for (int64_t i = 0; i < count; i++)
      for (int64_t o = 0; o < d->out; o++) db[o] += dz[i * d->out + o];
    /* Vectors run over the images here, so that the weights stay as they lie. */
    for (int64_t o = 0; o < d->out; o++)
      for (int64_t i = 0; i < BLOCK; i++)
        work->turned[o * BLOCK + i] = i < count ? dz[i * d->out + o] : 0.0f;
    const Left rows = {weights + d->weights, rows_of(work, d->in, d->out), 1, 0, d->out, 1};
    product(&rows, d->in, work->turned, BLOCK, BLOCK, work->da, BLOCK, 0);
    for (int64_t i = 0; l && i < count; i++)
      for (int64_t o = 0; o < d->in; o++)
        work->factors.dz[l - 1][i * d->in + o] =
            x[i * d->in + o] > 0.0f ? work->da[o * BLOCK + i] : 0.0f;
  }
}

/* A gradient of activations, wherever it lies: da of (image, y, x, filter), times `scale`. */
typedef struct {
  const float *base;
  int64_t image, row, column, filter;
  float scale;
} Gradient;

/* The gradients of the first convolution from an image of the block; da as activations lie. */
static void first_backward(const Plan *plan, Work *work, const float *da, int64_t i, float *g) {
  const Network *net = plan->net;
  const Convolution *c = &plan->convolution[0];
  const int64_t row = c->columns * c->channels, pooled = c->pooled_columns * c->filters;
  int64_t out_row, out_size;
  const int64_t begin = inside(plan, 0, &out_row, &out_size);
  const float *out = work->activation[0] + begin + i * out_size;
  const int32_t *taken = work->taken[0] + i * c->pooled_rows * pooled;
  for (int64_t y = 0, n; y < c->pooled_rows; y += n) {
    n = least(c->strip, c->pooled_rows - y);
    for (int64_t j = y; j < y + n; j++)
      unpool(da + begin + j * out_row, out + j * out_row, taken + j * pooled, c->pooled_columns,
             c->filters, work->strip + (j - y) * 4 * pooled, g + c->bias);
    const Left patches = {work->image[i] + 2 * y * row, work->taps, 2 * n, row,
                          2 * c->pooled_columns,        c->channels};
    product(&patches, net->kernel * net->kernel * c->channels, work->strip, c->filters, c->filters,
            g + c->weights, c->filters, 1);
  }
}

/* Add a place to the lists of PAD filters. The entry is written in any case, and kept if it
   counts: a branch would be foreseen badly. */
INLINE void list_place(Entry *ends[PAD], const int32_t *taken, const float *value,
                       const float *from, int64_t filter, float scale, const int32_t pixel[4]) {
  EACH(f, PAD) {
    const float g = from[f * filter] * scale;
    *ends[f] = (Entry){pixel[taken[f]], g};
    ends[f] += (value[f] > 0.0f) & (g != 0.0f);
  }
}

/* For each filter of convolution l: where its gradient is not 0, and its bias' and weights'. `out`
   tells where outputs are > 0: after dropout, so that what was dropped is not. */
static void listed_backward(const Plan *plan, Work *work, int64_t l, const float *out, Gradient da,
                            int64_t count, float *g) {
  const Convolution *c = &plan->convolution[l];
  const int64_t kernel = plan->net->kernel, row = c->columns * c->channels;
  const int64_t length = kernel * kernel * c->channels, width = c->filters;
  const int64_t columns = c->pooled_columns, most = list_room(c);
  int64_t out_row, out_size;
  out += inside(plan, l, &out_row, &out_size);
  for (int64_t o = 0; o < width; o += PAD) {
    Entry *ends[PAD];
    for (int64_t f = 0; f < PAD; f++) ends[f] = work->list + (o + f) * most;
    for (int64_t i = 0; i < count; i++) {
      for (int64_t f = 0; f < PAD; f++)
        work->begins[(o + f) * (BLOCK + 1) + i] = (int32_t)(ends[f] - work->list);
      const int32_t *taken = work->taken[l] + i * c->pooled_rows * columns * width + o;
      for (int64_t y = 0; y < c->pooled_rows; y++)
        for (int64_t x = 0; x < columns; x++, taken += width) {
          const int64_t at = i * c->size + 2 * y * row + 2 * x * c->channels;
          const int32_t pixel[] = {(int32_t)at, (int32_t)(at + c->channels), (int32_t)(at + row),
                                   (int32_t)(at + row + c->channels)};
          list_place(ends, taken, out + i * out_size + y * out_row + x * width + o,
                     da.base + i * da.image + y * da.row + x * da.column + o * da.filter, da.filter,
                     da.scale, pixel);
        }
    }
    for (int64_t f = 0; f < PAD; f++) {
      const Entry *begin = work->list + (o + f) * most;
      float sum = g[c->bias + o + f];
      for (const Entry *at = begin; at < ends[f]; at++) sum += at->g;
      g[c->bias + o + f] = sum;
      work->begins[(o + f) * (BLOCK + 1) + count] = (int32_t)(ends[f] - work->list);
      weights_gradient(work->activation[l - 1], row, begin, ends[f] - begin,
                       g + c->weights + (o + f) * length, kernel, c->channels);
    }
  }
}

/* From the lists of convolution l: the gradient of its input, for an image of the block. */
static void input_backward(const Plan *plan, const float *weights, Work *work, int64_t l, int64_t i,
                           float *dx) {
  const Convolution *c = &plan->convolution[l];
  const int64_t kernel = plan->net->kernel, length = kernel * kernel * c->channels;
  memset(dx, 0, (size_t)c->size * 4);
  for (int64_t o = 0; o < plan->net->filters[l]; o++) {
    const int32_t *begins = work->begins + o * (BLOCK + 1) + i;
    inputs_gradient(dx, i * c->size, c->columns * c->channels, work->list + begins[0],
                    begins[1] - begins[0], weights + c->weights + o * length, kernel, c->channels);
  }
}

static void backward(const Plan *plan, const Recipe *recipe, const float *weights, Work *work,
                     int64_t count, float *g) {
  const int64_t last = plan->net->convolutions - 1;
  const Convolution *c = &plan->convolution[last];
  const float *out = work->factors.x[0];
  dense_backward(plan, weights, work, count, g);
  Gradient da = {work->da,           1,     c->pooled_columns * c->filters * BLOCK,
                 c->filters * BLOCK, BLOCK, 1.0f / (1.0f - recipe->dropout)};
  for (int64_t l = last; l > 0; l--) {
    listed_backward(plan, work, l, out, da, count, g);
    int64_t row, size;
    const int64_t begin = inside(plan, l - 1, &row, &size);
    for (int64_t i = 0; i < count; i++) {
      float *dx = work->gradient[l - 1] + (l > 1 ? i * size : 0);
      input_backward(plan, weights, work, l, i, dx);
      if (l == 1) first_backward(plan, work, dx, i, g); /* while it is in the first cache */
    }
    da = (Gradient){work->gradient[l - 1] + begin,    size, row,
                    plan->convolution[l - 1].filters, 1,    1.0f};
    out = work->activation[l - 1];
  }
  for (int64_t i = 0; last == 0 && i < count; i++) {
    for (int64_t o = 0; o < plan->flat; o++)
      work->gradient[0][o] =
          out[i * plan->flat + o] > 0.0f ? work->da[o * BLOCK + i] * da.scale : 0.0f;
    first_backward(plan, work, work->gradient[0], i, g);
  }
}

/* ---- A step ---------------------------------------------------------------------------------- */

typedef struct {
  const Plan *plan;
  const Recipe *recipe;
  const float *images;
  const int64_t *labels, *order; /* of a batch: its places in `images` */
  int64_t count;                 /* images in the batch */
  uint64_t step;
  int64_t index, of, own; /* of several machines: `own` shards index, index + of, ... are ours */
  Factors factors;        /* of the images of our shards */
} Batch;

static int64_t shard_size(const Recipe *recipe) {
  return (recipe->batch + recipe->shards - 1) / recipe->shards;
}

/* The images of a shard of ours: places of the batch, and where their rows of factors begin. */
typedef struct {
  int64_t begin, end, row;
} Shard;

static Shard shard_of(const Batch *batch, int64_t i) {
  const int64_t size = shard_size(batch->recipe), begin = (batch->index + i * batch->of) * size;
  const int64_t end = least(begin + size, batch->count);
  return (Shard){least(begin, end), end, i * size};
}

/* The gradients of a shard that are stored, (stored,), and its factors; returns its share of the
   loss. */
static float shard_gradient(const Batch *batch, const float *weights, Work *work, Shard shard,
                            float *g, int64_t *correct) {
  const Plan *plan = batch->plan;
  const Network *net = plan->net;
  const int64_t width = padded(plan->classes);
  const float share = 1.0f / (float)batch->count, *weights_of = batch->recipe->class_weights;
  float loss = 0.0f;
  memset(g, 0, (size_t)plan->stored * 4);
  for (int64_t place = shard.begin, n; place < shard.end; place += n) {
    n = least(BLOCK, shard.end - place);
    take_factors(plan, batch->recipe, work, &batch->factors, shard.row + place - shard.begin);
    take_images(plan, batch->recipe, work, batch->images, batch->order + place, n, batch->step,
                place);
    forward(plan, batch->recipe, weights, work, n, batch->step, place);
    for (int64_t i = 0; i < n; i++) {
      const int64_t label = batch->labels[batch->order[place + i]];
      float *p = work->factors.x[net->dense] + i * width;
      float *dz = work->factors.dz[net->dense - 1] + i * width;
      const float weight = weights_of ? weights_of[label] * share : share;
      int64_t best;
      loss = __builtin_fmaf(softmax(p, plan->classes, label, &best), weight, loss);
      *correct += best == label;
      for (int64_t o = 0; o < width; o++)
        dz[o] = o < plan->classes ? (p[o] - (o == label ? 1.0f : 0.0f)) * weight : 0.0f;
    }
    backward(plan, batch->recipe, weights, work, n, g);
  }
  return loss;
}

/* part[i] += part[i + half], then with half of that, to one; `stride` lies between two parts. */
static void add_tree(float *part, int64_t stride, int64_t parts, int64_t n) {
  for (int64_t half = parts / 2; half; half /= 2)
    for (int64_t i = 0; i < half; i++) {
      float *restrict to = part + i * stride, *restrict from = part + (i + half) * stride;
      for (int64_t k = 0; k < n; k++) to[k] += from[k];
    }
}

/* Parameters that are updated at once: `n` of them from `at` on. Those whose gradients are stored
   have them at `stored`; else they are weights of layer `dense`. */
typedef struct {
  int64_t at, n, stored;
  const Dense *dense;
} Piece;

/* Find piece `i`; returns 0 where there are no more. First come those of the convolutions, then of
   each dense layer those of its weights and its bias. */
static int find_piece(const Plan *plan, int64_t i, Piece *piece) {
  const int64_t convolutions = plan->dense[0].weights;
  if (i * PIECE < convolutions) {
    *piece = (Piece){i * PIECE, least(PIECE, convolutions - i * PIECE), i * PIECE, NULL};
    return 1;
  }
  i -= (convolutions + PIECE - 1) / PIECE;
  for (const Dense *d = plan->dense; d < plan->dense + plan->net->dense; d++) {
    const int64_t rows = rows_at_once(d), pieces = (d->in + rows - 1) / rows;
    if (i < pieces)
      *piece = (Piece){d->weights + i * rows * d->out, least(rows, d->in - i * rows) * d->out, 0,
                       d};
    else if (i == pieces)
      *piece = (Piece){d->bias, d->out, d->stored, NULL};
    if (i <= pieces) return 1;
    i -= pieces + 1;
  }
  return 0;
}

/* The shards' gradients of a piece of a dense layer's weights, (own, n). They are computed when it
   is updated: in a near cache, and not to memory and back. */
static float *dense_gradients(const Batch *batch, Work *work, const Piece *piece) {
  const Dense *d = piece->dense;
  const int64_t l = d - batch->plan->dense, rows = piece->n / d->out;
  const float *x = batch->factors.x[l] + (piece->at - d->weights) / d->out;
  rows_of(work, rows, 1);
  for (int64_t i = 0; i < batch->own; i++) {
    const Shard shard = shard_of(batch, i);
    const Left inputs = {x + shard.row * d->in, work->rows, 1, 0, shard.end - shard.begin, d->in};
    product(&inputs, rows, batch->factors.dz[l] + shard.row * d->out, d->out, d->out,
            work->parts + i * piece->n, d->out, 0);
  }
  return work->parts;
}

static void update(const Recipe *recipe, Weights *w, uint64_t step, float rate, float alpha,
                   const float *g, int64_t at, int64_t n) {
  adam(recipe, step == 0, rate, alpha, n, g, w->weights + at, w->momenta + at, w->velocities + at,
       w->averages ? w->averages + at : NULL);
}

/* ---- Threads --------------------------------------------------------------------------------- */

/* Numbers as IEEE 754 has them: TensorFlow's threads, and a library that was linked with
   -ffast-math, take what is smaller than normal for 0. */
static uint64_t ieee(void) {
#if defined __x86_64__
  const uint64_t before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(0x1f80);
#elif defined __aarch64__
  uint64_t before;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)0));
#else
  const uint64_t before = 0;
#endif
  return before;
}
static void as_before(uint64_t before) {
#if defined __x86_64__
  __builtin_ia32_ldmxcsr((uint32_t)before);
#elif defined __aarch64__
  __asm__ volatile("msr fpcr, %0" ::"r"(before));
#else
  (void)before;
#endif
}

typedef struct Team Team;
typedef void Part(Team *, Work *);
struct Team {
  Part *part;
  const Plan *plan;
  const Recipe *recipe; /* NULL: for predictions */
  const float *images;
  const int64_t *labels, *order;
  int64_t count, steps, threads;
  uint64_t first_step;
  int64_t index, of, own;
  Weights *weights;
  const float *rates, *alphas;
  float *stored, *sum, *losses, *probabilities; /* stored: (own, stored) gradients */
  Factors factors;
  atomic_llong correct, next[2];
  atomic_int failed;
  pthread_mutex_t mutex;
  pthread_cond_t all;
  int64_t waiting, round;
};

/* Wait for the other threads. The counter that nobody looks at now begins again. */
static void meet(Team *team, int next) {
  pthread_mutex_lock(&team->mutex);
  const int64_t round = team->round;
  if (++team->waiting >= team->threads) {
    atomic_store(&team->next[next], 0);
    team->waiting = 0, team->round++;
    pthread_cond_broadcast(&team->all);
  }
  while (round == team->round) pthread_cond_wait(&team->all, &team->mutex);
  pthread_mutex_unlock(&team->mutex);
}

static void *thread(void *argument) {
  Team *team = argument;
  const uint64_t before = ieee();
  Work work;
  make_work(team->plan, team->recipe, team->own, &work);
  if (work.failed) atomic_store(&team->failed, 1);
  meet(team, 0); /* all are here, and whether one has failed is known to all */
  if (!atomic_load(&team->failed)) team->part(team, &work);
  free_work(&work);
  as_before(before);
  return NULL;
}

/* Let threads do a part each; returns 0, or 1 where there was not enough memory. */
static int together(Team *team, int64_t threads) {
  enum { MOST = 256 };
  pthread_t id[MOST];
  int64_t started = 0;
  pthread_mutex_init(&team->mutex, NULL);
  pthread_cond_init(&team->all, NULL);
  team->threads = INT64_MAX; /* nobody passes until it is known how many there are */
  while (started < least(threads, MOST) - 1 &&
         pthread_create(&id[started], NULL, thread, team) == 0)
    started++;
  pthread_mutex_lock(&team->mutex);
  team->threads = started + 1;
  pthread_mutex_unlock(&team->mutex);
  thread(team);
  while (started) pthread_join(id[--started], NULL);
  pthread_cond_destroy(&team->all);
  pthread_mutex_destroy(&team->mutex);
  return atomic_load(&team->failed);
}

static void train_part(Team *team, Work *work) {
  const Plan *plan = team->plan;
  const int64_t own = team->own, size = team->recipe->batch;
  for (int64_t s = 0; s < team->steps; s++) {
    const Batch batch = {plan,
                         team->recipe,
                         team->images,
                         team->labels,
                         team->order + s * size,
                         least(size, team->count - s * size),
                         team->first_step + (uint64_t)s,
                         team->index,
                         team->of,
                         own,
                         team->factors};
    pack_filters(plan, team->weights->weights, work);
    int64_t correct = 0;
    for (int64_t i; (i = atomic_fetch_add(&team->next[0], 1)) < own;)
      team->losses[s * own + i] =
          shard_gradient(&batch, team->weights->weights, work, shard_of(&batch, i),
                         team->stored + i * plan->stored, &correct);
    atomic_fetch_add(&team->correct, correct);
    meet(team, 1);
    for (Piece piece; find_piece(plan, atomic_fetch_add(&team->next[1], 1), &piece);) {
      float *g = piece.dense ? dense_gradients(&batch, work, &piece) : team->stored + piece.stored;
      add_tree(g, piece.dense ? piece.n : plan->stored, own, piece.n);
      if (team->rates)
        update(team->recipe, team->weights, batch.step, team->rates[s], team->alphas[s], g,
               piece.at, piece.n);
      else
        memcpy(team->sum + piece.at, g, (size_t)piece.n * 4);
    }
    meet(team, 0);
  }
}

static void predict_part(Team *team, Work *work) {
  const Plan *plan = team->plan;
  const int64_t width = padded(plan->classes),
                pixels = plan->net->height * plan->net->width * plan->net->channels;
  pack_filters(plan, team->weights->weights, work);
  for (int64_t i; (i = atomic_fetch_add(&team->next[0], 1) * BLOCK) < team->count;) {
    const int64_t n = least(BLOCK, team->count - i);
    take_images(plan, NULL, work, team->images + i * pixels, NULL, n, 0, 0);
    forward(plan, NULL, team->weights->weights, work, n, 0, 0);
    for (int64_t k = i; k < i + n; k++) {
      float *p = work->factors.x[plan->net->dense] + (k - i) * width;
      int64_t best;
      const float loss = softmax(p, plan->classes, team->labels ? team->labels[k] : -1, &best);
      if (team->losses) team->losses[k] = loss;
      memcpy(team->probabilities + k * plan->classes, p, (size_t)plan->classes * 4);
    }
  }
}

/* ---- What Python calls (cnn/kernels/__init__.py checks all that comes here) ------------------ */

/* The widest build that this CPU and the system can run: 0 any, 1 AVX2 and FMA, 2 AVX-512. Asked
   of the CPU itself: what an emulator shows as /proc/cpuinfo is another one's. */
EXPORT int64_t level(void) {
#if defined __x86_64__
  uint32_t a, b, c, d, b7;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (1u << 27)) == 0) return 0; /* no xgetbv */
  const uint32_t wanted = 1u << 12 | 1u << 22 | 1u << 28 | 1u << 29; /* FMA, MOVBE, AVX, F16C */
  uint32_t saved, unused;
  __asm__ volatile("xgetbv" : "=a"(saved), "=d"(unused) : "c"(0));
  const int fma = (c & wanted) == wanted && (saved & 6) == 6;
  if (!__get_cpuid(0x80000001u, &a, &b, &c, &d) || (c & 1u << 5) == 0) return 0; /* LZCNT */
  if (!fma || !__get_cpuid_count(7, 0, &a, &b7, &c, &d)) return 0;
  if ((b7 & (1u << 3 | 1u << 5 | 1u << 8)) != (1u << 3 | 1u << 5 | 1u << 8)) return 0;
  const uint32_t wide = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31; /* F DQ CD BW VL */
  return (b7 & wide) == wide && (saved & 0xe6) == 0xe6 ? 2 : 1;
#else
  return 0;
#endif
}

EXPORT int64_t parameters(const Network *net) { return plan_of(net).parameters; }

/* Train the steps of `count` places of `order`, in batches; `losses` (steps,) are those of the
   trees. Without `rates` it is one step, of which the shards index, index + of, ... are computed:
   the sum of their tree is left in `sum` (parameters,) and `losses`, and nothing is updated.
   losses: (steps, shards / of). Returns how many images were classified correctly, or -1 where
   there was not enough memory. */
EXPORT int64_t train(const Network *net, const Recipe *recipe, Weights *weights,
                     const float *images, const int64_t *labels, const int64_t *order,
                     int64_t count, uint64_t first_step, const float *rates, const float *alphas,
                     float *sum, float *losses, int64_t index, int64_t of, int64_t threads) {
  const Plan plan = plan_of(net);
  const int64_t own = recipe->shards / of, images_of = least(own * shard_size(recipe), count);
  Work shared = {.count = 0};
  Team team = {.part = train_part,
               .plan = &plan,
               .recipe = recipe,
               .images = images,
               .labels = labels,
               .order = order,
               .count = count,
               .steps = (count + recipe->batch - 1) / recipe->batch,
               .first_step = first_step,
               .index = index,
               .of = of,
               .own = own,
               .weights = weights,
               .rates = rates,
               .alphas = alphas,
               .stored = room(&shared, own * plan.stored, 4),
               .sum = sum,
               .losses = losses,
               .factors = make_factors(&plan, images_of, 1, &shared)};
  const int failed = shared.failed || together(&team, threads);
  free_work(&shared);
  if (failed) return -1;
  const uint64_t before = ieee();
  for (int64_t s = 0; s < team.steps; s++) {
    add_tree(losses + s * own, 1, own, 1);
    losses[s] = losses[s * own];
  }
  as_before(before);
  return atomic_load(&team.correct);
}

/* Add the sums (of, row) of several machines and update the weights; a row is a gradient and its
   loss. */
EXPORT void apply(const Network *net, const Recipe *recipe, Weights *weights, uint64_t step,
                  float rate, float alpha, float *rows, int64_t of, int64_t row) {
  const uint64_t before = ieee();
  add_tree(rows, row, of, row);
  update(recipe, weights, step, rate, alpha, rows, 0, plan_of(net).parameters);
  as_before(before);
}

/* probabilities (n, classes), and losses (n,) unless labels is NULL; -1 for want of memory. */
EXPORT int64_t predict(const Network *net, const Weights *weights, const float *images,
                       const int64_t *labels, int64_t n, float *probabilities, float *losses,
                       int64_t threads) {
  const Plan plan = plan_of(net);
  Team team = {.part = predict_part,
               .plan = &plan,
               .images = images,
               .labels = labels,
               .count = n,
               .weights = (Weights *)weights,
               .probabilities = probabilities,
               .losses = losses};
  return -together(&team, threads);
}

/* out (n, height, width, channels): the images of the places row, row + 1, ... moved. */
EXPORT int64_t moved(const Network *net, const Recipe *recipe, uint64_t step, int64_t row,
                     const float *images, int64_t n, float *out) {
  float *bordered = malloc((size_t)bordered_size(net) * 4);
  if (!bordered) return -1;
  const uint64_t before = ieee();
  const int64_t pixels = net->height * net->width * net->channels;
  for (int64_t i = 0; i < n; i++)
    move(net, recipe, step, row + i, images + i * pixels, bordered, out + i * pixels);
  as_before(before);
  free(bordered);
  return 0;
}

EXPORT void uniforms(uint64_t seed, uint32_t purpose, uint64_t step, uint32_t row, int64_t n,
                     float *out) {
  float drawn[DRAWN];
  for (int64_t i = 0; i < n; i += DRAWN) {
    uniform(seed, purpose, step, row, i, drawn);
    memcpy(out + i, drawn, (size_t)least(DRAWN, n - i) * 4);
  }
}

/* function: 0 exp, 1 log, 2 cosine of turns; in place. */
EXPORT void elementwise(int64_t function, float *x, int64_t n) {
  const uint64_t before = ieee();
  for (int64_t i = 0; i < n; i++)
    x[i] = function == 0 ? exponential(x[i]) : function == 1 ? logarithm(x[i]) : cosine(x[i]);
  as_before(before);
}

/* The place of the first number that is not finite, or -1. Also what -ffast-math cannot hide. */
EXPORT int64_t first_not_finite(const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if ((bits_of(x[i]) & 0x7f800000u) == 0x7f800000u) return i;
  return -1;
}
