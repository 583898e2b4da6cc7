/* Hold network.c to twin.c, byte for byte, on random networks, data and settings.

     check CASES [FIRST]

   Prints a digest per case, by which runs on two machines, by two compilers or for two widths of
   vectors can be compared; exit code 1, and what differs, at the first case that differs. Built
   with sanitizers it also shows that nothing reaches memory out of bounds. */
#include <stdio.h>

#include "../network.c" /* its static functions too */

int64_t twin_parameters(const Network *net);
void twin_predict(const Network *net, const float *weights, const float *images,
                  const int64_t *labels, int64_t n, float *probabilities, float *losses);
int64_t twin_train(const Network *net, const Recipe *recipe, Weights *w, const float *images,
                   const int64_t *labels, const int64_t *order, int64_t count, uint64_t first_step,
                   const float *rates, const float *alphas, float *losses);

static uint64_t state;

static float chance(void) { /* in [0, 1), the next one */
  float drawn[DRAWN];
  uniform(state++, 99, 0, 0, 0, drawn);
  return drawn[0];
}
static int64_t whole(int64_t low, int64_t high) { /* low to high */
  return low + (int64_t)(chance() * (float)(high - low + 1));
}
static float some(float most) { return chance() < 0.5f ? 0.0f : chance() * most; }

static void *array(int64_t n, int64_t size) {
  void *memory = calloc((size_t)(n ? n : 1), (size_t)size);
  if (!memory) exit(2);
  return memory;
}
static float *chances(int64_t n) {
  float *x = array(n, 4);
  for (int64_t i = 0; i < n; i++) x[i] = chance();
  return x;
}

/* Keras' arrays `from` in the layout of network.c, (ky, kx, channel, filter) and (in, out) each. */
static float *laid_out(const Plan *plan, const float *from) {
  const Network *net = plan->net;
  float *to = array(plan->parameters, 4);
  for (int64_t l = 0, in = net->channels; l < net->convolutions; in = net->filters[l++]) {
    const Convolution *c = &plan->convolution[l];
    const int64_t taps = net->kernel * net->kernel;
    for (int64_t t = 0; t < taps; t++)
      for (int64_t i = 0; i < in; i++)
        for (int64_t f = 0; f < net->filters[l]; f++, from++)
          to[c->weights + (l ? (f * taps + t) * c->channels + i : (t * in + i) * c->filters + f)] =
              *from;
    for (int64_t f = 0; f < net->filters[l]; f++) to[c->bias + f] = *from++;
  }
  const int64_t last = net->convolutions - 1, width = plan->convolution[last].filters;
  const int64_t pixels = plan->flat / width;
  for (int64_t l = 0; l < net->dense; l++) {
    const Dense *d = &plan->dense[l];
    const int64_t in = l ? net->units[l - 1] : pixels * net->filters[last];
    for (int64_t i = 0; i < in; i++) {
      const int64_t row = l ? i : i / net->filters[last] * width + i % net->filters[last];
      for (int64_t o = 0; o < net->units[l]; o++) to[d->weights + row * d->out + o] = *from++;
    }
    for (int64_t o = 0; o < net->units[l]; o++) to[d->bias + o] = *from++;
  }
  return to;
}

static uint64_t digest;

/* Compare, and take into the digest (FNV-1a). */
static int differ(const char *what, const void *fast, const void *plain, int64_t bytes) {
  const unsigned char *byte = fast;
  for (int64_t i = 0; i < bytes; i++) digest = (digest ^ byte[i]) * 0x100000001b3u;
  if (!memcmp(fast, plain, (size_t)bytes)) return 0;
  printf("%s differ\n", what);
  return 1;
}

static int differs(int64_t number) {
  state = (uint64_t)number * 1000003;
  digest = 0xcbf29ce484222325u;
  Network net = {.kernel = whole(1, 5), .same = whole(0, 1), .channels = chance() < 0.5f ? 1 : 3};
  net.dense = whole(1, 4);
  net.height = whole(8, 40), net.width = whole(8, 40);
  const int64_t most = whole(1, 4), around = net.same ? 0 : net.kernel - 1;
  for (int64_t side = least(net.height, net.width); net.convolutions < most; net.convolutions++) {
    side = (side - around) / 2;
    if (side < 1 && net.convolutions) break;
    net.filters[net.convolutions] = whole(1, 40);
  }
  for (int64_t l = 0; l < net.dense; l++)
    net.units[l] = whole(2, l && chance() < 0.3f ? 400 : 40);
  const Plan plan = plan_of(&net);
  const int moves = chance() < 0.5f;
  float *class_weights = chances(plan.classes);
  const Recipe recipe = {.seed = (uint64_t)(number * 77),
                         .batch = whole(1, 48),
                         .shards = 1 << whole(0, 4),
                         .dropout = some(0.9f),
                         .shift = (float)moves * some(0.5f),
                         .rotation = (float)moves * some(180),
                         .shear = (float)moves * some(1),
                         .scale = (float)moves * some(1),
                         .elastic = (float)moves * some(0.5f),
                         .fill = some(1) - (float)(chance() < 0.3f),
                         .beta_1 = some(0.99f),
                         .beta_2 = some(0.999f),
                         .epsilon = 1e-7f,
                         .weight_decay = some(1),
                         .averaging = some(0.99f),
                         .class_weights = chance() < 0.5f ? class_weights : NULL};
  const int64_t n = whole(1, 60), pixels = net.height * net.width * net.channels;
  const int64_t steps = (n + recipe.batch - 1) / recipe.batch, own = twin_parameters(&net);
  const uint64_t first = (uint64_t)whole(0, 2);
  float *images = chances(n * pixels), *rates = chances(steps), *alphas = chances(steps);
  int64_t *labels = array(n, 8), *order = array(n, 8);
  for (int64_t i = 0; i < n; i++)
    labels[i] = whole(0, plan.classes - 1), order[i] = whole(0, n - 1);
  for (int64_t i = 0; i < n * pixels; i += 2) images[i] = 0.0f;
  /* A short memory of the squares makes long steps; NaN has other bytes on other CPUs. */
  const float most_alpha = recipe.beta_2 > 0.9f ? 1e-2f : 1e-5f;
  for (int64_t i = 0; i < steps; i++) rates[i] *= 0.01f, alphas[i] *= most_alpha;
  Weights plain = {chances(own), array(own, 4), array(own, 4), NULL};
  const float sizes[] = {0, 0x1p-98f, 0x1p-101f, 0x1p-140f};
  for (int64_t i = 0; i < own; i++) {
    plain.weights[i] = (plain.weights[i] - 0.5f) * 0.2f;
    plain.momenta[i] = (chance() - 0.5f) * sizes[whole(0, 3)];
    plain.velocities[i] = chance() * sizes[whole(0, 3)];
  }
  if (recipe.averaging > 0) plain.averages = array(own, 4);
  Weights fast = {laid_out(&plan, plain.weights), laid_out(&plan, plain.momenta),
                  laid_out(&plan, plain.velocities), NULL};
  if (plain.averages) fast.averages = array(plan.parameters, 4);
  float *losses = array(steps * recipe.shards, 4), *plain_losses = array(steps, 4);
  const int64_t correct = train(&net, &recipe, &fast, images, labels, order, n, first, rates,
                                alphas, NULL, losses, 0, 1, whole(1, 4));
  const int64_t plain_correct = twin_train(&net, &recipe, &plain, images, labels, order, n, first,
                                           rates, alphas, plain_losses);
  float *probabilities[] = {array(n * plan.classes, 4), array(n * plan.classes, 4)};
  float *each[] = {array(n, 4), array(n, 4)};
  if (predict(&net, &fast, images, labels, n, probabilities[0], each[0], whole(1, 3))) exit(2);
  twin_predict(&net, plain.weights, images, labels, n, probabilities[1], each[1]);
  int wrong = differ("numbers of correct images", &correct, &plain_correct, 8) ||
              differ("losses of steps", losses, plain_losses, steps * 4) ||
              differ("probabilities", probabilities[0], probabilities[1], n * plan.classes * 4) ||
              differ("losses of images", each[0], each[1], n * 4);
  float *of[] = {fast.weights, fast.momenta, fast.velocities, fast.averages};
  float *plain_of[] = {plain.weights, plain.momenta, plain.velocities, plain.averages};
  for (int i = 0; i < 4; i++) {
    if (plain_of[i]) {
      float *expected = laid_out(&plan, plain_of[i]);
      const char *names[] = {"weights", "momenta", "velocities", "averages"};
      wrong = wrong || differ(names[i], of[i], expected, plan.parameters * 4);
      free(expected);
    }
    free(of[i]), free(plain_of[i]);
  }
  void *rest[] = {images,           rates,   alphas,  labels,       order,
                  losses,           each[0], each[1], plain_losses, probabilities[0],
                  probabilities[1], class_weights};
  for (unsigned i = 0; i < sizeof rest / sizeof *rest; i++) free(rest[i]);
  printf("%lld %016llx\n", (long long)number, (unsigned long long)digest);
  return wrong;
}

int main(int argc, char **argv) {
  const int64_t cases = argc > 1 ? atoll(argv[1]) : 20, first = argc > 2 ? atoll(argv[2]) : 0;
  for (int64_t i = first; i < first + cases; i++)
    if (differs(i)) return 1;
  return 0;
}
