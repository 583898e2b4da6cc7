"""The kernels give the bytes of plain loops on every build and any number of threads, and Keras'
numbers but for rounding; what was built otherwise is refused, and nothing wrong reaches C."""

import ctypes
import math
import platform
import shutil
import subprocess
import sys
from ctypes import byref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnn import kernels
from cnn.kernels import Kernels, Recipe, Weights, build, lay_out, take_apart
from cnn.kernels import _Recipe as CRecipe
from cnn.kernels import _Weights as CWeights
from cnn.network import Network

ROOT = Path(__file__).parent.parent
NETWORK = Network((14, 14, 1), (8, 24), 3, "valid", (20,), 0.0, 10)


def compiled(folder: Path, *flags: str, source: str | None = None, twin: bool = False) -> Path:
    """Build network.c, or other text in its place, or the twin, with more flags."""
    for name in build.SOURCES:
        shutil.copy(build.HERE / name, folder)
    if source:
        (folder / "network.c").write_text(source)
    target = folder / "built.so"
    file = build.HERE / "twin.c" if twin else folder / "network.c"
    level = build.levels()["plain" if twin else list(build.levels())[kernels.widest()]]
    hidden = [flag for flag in build.LIBRARY if not (twin and "visibility" in flag)]
    build.compiled(
        [shutil.which("cc"), *build.FLAGS, *hidden, *level, f"-I{folder}", *flags], [file], target
    )
    return target


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """The plain loops of twin.c."""
    library = ctypes.CDLL(str(compiled(tmp_path_factory.mktemp("twin"), twin=True)))
    library.twin_parameters.restype = library.twin_train.restype = ctypes.c_int64
    return library


@pytest.fixture(scope="session")
def builds() -> list[Kernels]:
    """Each build that this CPU can run."""
    kernels.load()
    return [Kernels(level) for level in list(build.levels())[: kernels.widest() + 1]]


def flat(network: Network, array: np.ndarray) -> np.ndarray:
    """Return weights as the twin has them: Keras' arrays one after another."""
    return np.concatenate([each.ravel() for each in take_apart(network, array)])


def address(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


@st.composite
def cases(draw):
    """Any network, data and settings, small."""
    whole = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    some = lambda most: draw(st.sampled_from([0.0, most / 3, most]))  # noqa: E731
    kernel, padding = whole(1, 5), draw(st.sampled_from(["valid", "same"]))
    sides, most = (whole(8, 40), whole(8, 40)), whole(1, 6)
    side, filters = min(sides), []
    while len(filters) < most:
        side = (side - (kernel - 1 if padding == "valid" else 0)) // 2
        if side < 1 and filters:
            break
        filters.append(whole(1, 40))
    network = Network(
        (*sides, draw(st.sampled_from([1, 3]))),
        tuple(filters),
        kernel,
        padding,
        tuple(whole(1, 40) for _ in range(whole(0, 3))),
        some(0.6),
        whole(2, 40),
    )
    recipe = Recipe(
        whole(0, 2**64 - 1), whole(1, 50), 2 ** whole(0, 4), network.dropout, some(14), some(180),
        some(1), some(1), some(1), some(0.9), some(0.999), 1e-7, some(0.1), some(0.9),
    )  # fmt: skip
    return network, recipe, whole(1, 50), whole(0, 2), whole(1, 4), whole(0, 2**32)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
def test_every_build_gives_the_bytes_of_plain_loops(twin, builds, case):
    network, recipe, n, first, threads, seed = case
    random = np.random.default_rng(seed)
    images = random.random((n, *network.image_shape), np.float32)
    images *= random.random(images.shape) > 0.5
    labels, order = random.integers(0, network.classes, n), random.integers(0, n, n)
    steps = -(-n // recipe.batch_size)
    rates, alphas = (random.uniform(0, 0.01, steps).astype(np.float32) for _ in range(2))
    start = builds[0].initial_weights(network, 1, recipe.averaging > 0)

    ours = Weights(*(None if each is None else flat(network, each) for each in start))
    losses, each_loss = np.zeros(steps, np.float32), np.zeros(n, np.float32)
    probabilities = np.zeros((n, network.classes), np.float32)
    structure = builds[0]._structure(network, len(start.weights))
    assert twin.twin_parameters(byref(structure)) == len(ours.weights)
    correct = twin.twin_train(
        byref(structure), byref(CRecipe(*recipe)), byref(CWeights(*map(address, ours))),
        address(images), address(labels), address(order), ctypes.c_int64(n),
        ctypes.c_uint64(first), address(rates), address(alphas), address(losses),
    )  # fmt: skip
    twin.twin_predict(
        byref(structure), address(ours.weights), address(images), address(labels),
        ctypes.c_int64(n), address(probabilities), address(each_loss),
    )  # fmt: skip
    expected = [losses, probabilities, each_loss, *(each for each in ours if each is not None)]

    for built in builds:
        state = Weights(*(None if each is None else each.copy() for each in start))
        found_losses, found_correct = built.train(
            network, recipe, state, images, labels, order, first, rates, alphas, threads
        )
        found = built.predict(network, state.weights, images, labels, threads)
        trained = [flat(network, each) for each in state if each is not None]
        assert found_correct == correct
        for a, b in zip([found_losses, *found, *trained], expected, strict=True):
            assert a.tobytes() == b.tobytes()
        # What fills up the layout is still 0.
        assert lay_out(network, take_apart(network, state.weights)).tobytes() == (
            state.weights.tobytes()
        )


@pytest.fixture
def digits_state(digits):
    images, labels = digits
    state = kernels.load().initial_weights(NETWORK, 3)
    return images, labels, state


def copied(state: Weights) -> Weights:
    return Weights(*(None if each is None else each.copy() for each in state))


@pytest.mark.parametrize("of", [1, 2, 4, 8])
def test_workers_give_the_bytes_of_one(digits_state, of):
    images, labels, state = digits_state
    built, recipe = kernels.load(), Recipe(batch_size=21, shards=8, weight_decay=0.1)
    alone, order = copied(state), np.arange(40)
    rates = np.float32([0.01, 0.02])
    losses, correct = built.train(NETWORK, recipe, alone, images, labels, order, 0, rates, rates)

    states = [copied(state) for _ in range(of)]
    found = []
    for step, batch in enumerate((order[:21], order[21:])):
        rows = np.stack(
            [
                built.shard_gradients(
                    NETWORK, recipe, each, images, labels, batch, step, index, of, threads=2
                )
                for index, each in enumerate(states)
            ]
        )
        found.append(
            [built.apply(NETWORK, recipe, s, step, rates[step], rates[step], rows) for s in states]
        )

    for each in states:
        assert each.weights.tobytes() == alone.weights.tobytes()
        assert each.velocities.tobytes() == alone.velocities.tobytes()
    assert [step[0][0] for step in found] == losses.tolist()
    assert sum(step[0][1] for step in found) == correct


NETWORKS = {
    "the default's layers": NETWORK,
    "one convolution, colour, no hidden layer": Network((12, 9, 3), (5,), 5, "same", (), 0.0, 3),
    "deep": Network((33, 40, 3), (17, 3, 40, 16), 2, "valid", (9, 30, 7), 0.0, 100),
    "kernels of 4, same": Network((16, 16, 1), (6, 7), 4, "same", (5,), 0.0, 2),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_probabilities_losses_and_a_step_are_those_of_keras(tf, network):
    from cnn.model import build as keras_build

    random, built = np.random.default_rng(0), kernels.load()
    images = random.random((10, *network.image_shape), np.float32)
    labels = random.integers(0, network.classes, 10)
    state = built.initial_weights(network, 2)
    state.weights[...] = lay_out(
        network, [a + random.normal(0, 0.1, a.shape) for a in take_apart(network, state.weights)]
    )
    model = keras_build(network)
    model.set_weights(take_apart(network, state.weights))
    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        each = tf.keras.losses.sparse_categorical_crossentropy(labels, outputs)
        loss = tf.reduce_mean(each)
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_variables])

    probabilities, losses = built.predict(network, state.weights, images, labels)
    recipe = Recipe(batch_size=10, shards=4, beta_1=0.0)  # so that the momenta are the gradients
    rate = np.float32([0.001])
    step_losses, correct = built.train(
        network, recipe, state, images, labels, np.arange(10), 0, rate, rate
    )

    np.testing.assert_allclose(probabilities, outputs, atol=2e-6)
    np.testing.assert_allclose(losses, each, atol=1e-5)
    assert step_losses[0] == pytest.approx(float(loss), abs=1e-5)
    assert correct == (np.asarray(outputs).argmax(axis=1) == labels).sum()
    for found, expected in zip(take_apart(network, state.momenta), gradients, strict=True):
        expected = np.asarray(expected)
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max() + 1e-9)


@pytest.mark.parametrize(
    "settings", [{}, {"weight_decay": 0.3}, {"use_ema": True, "ema_momentum": 0.7}, {"beta_1": 0.5}]
)
def test_steps_of_adam_are_those_of_keras(tf, digits_state, settings):
    from cnn.engine import OptimizerParams, sizes_of_steps
    from cnn.model import build as keras_build

    images, labels, state = digits_state
    state = state._replace(averages=np.zeros_like(state.weights) if "use_ema" in settings else None)
    model = keras_build(NETWORK)
    model.set_weights(take_apart(NETWORK, state.weights))
    optimizer = tf.keras.optimizers.Adam(0.01, **settings)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    order = np.tile(np.arange(40), 3)
    for start in range(0, 120, 16):
        places = order[start : start + 16]
        model.train_on_batch(images[places], labels[places])

    betas = {"beta_1": settings.get("beta_1", 0.9), "beta_2": 0.999}
    recipe = Recipe(
        batch_size=16,
        shards=2,
        weight_decay=settings.get("weight_decay", 0.0),
        averaging=settings.get("ema_momentum", 0.0),
        **betas,
    )
    params = OptimizerParams(
        learning_rate=0.01, schedule="constant", warmup_share=0, final_share=0, weight_decay=0,
        averaging=0, **betas,
    )  # fmt: skip
    rates = np.full(8, 0.01)
    kernels.load().train(
        NETWORK, recipe, state, images, labels, order, 0, rates.astype(np.float32),
        sizes_of_steps(params, rates, np.arange(8)).astype(np.float32),
    )  # fmt: skip

    for found, expected in zip(
        take_apart(NETWORK, state.weights), model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=2e-4)
    if state.averages is not None:
        optimizer.finalize_variable_values(model.trainable_variables)
        for found, expected in zip(
            take_apart(NETWORK, state.averages), model.get_weights(), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=2e-4)


def test_exp_log_and_cosine_are_right_to_the_last_digits():
    built = kernels.load()
    x = np.linspace(-87, 88, 100_001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(built.exp(x) / exact - 1).max() < 3e-7
    assert built.exp([-88, 89, -np.inf]).tolist() == [0, np.inf, 0]
    assert np.isnan(built.exp([np.nan]))

    x = np.geomspace(1e-37, 1e38, 100_001).astype(np.float32)
    assert np.abs(built.log(x) - np.log(x.astype(np.float64))).max() < 1e-5
    near = np.linspace(0.8, 1.25, 100_001).astype(np.float32)
    assert np.abs(built.log(near) - np.log(near.astype(np.float64))).max() < 1e-7

    x = np.linspace(-2, 2, 100_001).astype(np.float32)
    assert np.abs(built.cosine(x) - np.cos(2 * np.pi * x.astype(np.float64))).max() < 3e-7


def test_random_numbers_are_those_of_philox():
    """Known answer of Random123 (Salmon et al. 2011) for a key and a counter of zeros."""
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]

    found = kernels.load().uniform(0, 0, 0, 0, 4)

    assert found.tolist() == [(word >> 8) * 2.0**-24 for word in words]


def test_random_numbers_are_even_and_follow_every_part_of_their_counter():
    built = kernels.load()
    numbers = built.uniform(1, 2, 3, 4, 200_001)

    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, 20, (0, 1))
    assert np.abs(counts - 10_000).max() < 5 * math.sqrt(10_000)
    others = [(2, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5), (1 + 2**32, 2, 3, 4)]
    for counter in [*others, (1, 2, 3 + 2**32, 4)]:
        assert np.abs(np.corrcoef(numbers[:10_000], built.uniform(*counter, 10_000))[0, 1]) < 0.05
    assert built.uniform(1, 2, 3, 4, 10).tolist() == numbers[:10].tolist()


def test_dropout_drops_its_share_and_keeps_the_mean(digits_state):
    """By the bias of a last layer without others: its gradient does not see what is dropped."""
    images, labels, _ = digits_state
    built = kernels.load()
    network = NETWORK._replace(dense_units=(), filters=(8, 240), dropout=0.25)
    state = built.initial_weights(network, 3)
    weights = take_apart(network, state.weights)
    weights[3][...] = 1  # every feature is above 0
    state.weights[...] = lay_out(network, weights)
    rate, one = np.float32([0]), np.zeros(1, np.int64)

    built.train(
        network, Recipe(5, 1, 1, 0.25, beta_1=0.0), state, images, labels, one, 0, rate, rate
    )

    gradient = take_apart(network, state.momenta)[-2][:, 0]
    share = (gradient == 0).mean()
    n = len(gradient)
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)


# ---- What is built otherwise, and what cannot be built -------------------------------------------


def checks_of(path: Path, monkeypatch) -> str:
    monkeypatch.setattr(build, "library", lambda level: path)
    return kernels.self_check(Kernels("plain"))


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("another tree", "part + (i + half) * stride", "part + (parts - 1 - i) * stride"),
        ("a sum begun elsewhere", "float loss = 0.0f;", "float loss = 1e-6f;"),
        ("a chain the other way", "db[o] += work->dz[i * d->out + o]",
         "db[o] += work->dz[(count - 1 - i) * d->out + o]"),
        ("a quotient in place of a product", ": 0.0f)) * weight", ": 0.0f)) / (float)batch->count"),
    ],
)  # fmt: skip
def test_another_order_is_noticed(tmp_path, monkeypatch, what, old, new):
    source = (build.HERE / "network.c").read_text()
    assert source.count(old) == 1, what

    assert checks_of(compiled(tmp_path, source=source.replace(old, new)), monkeypatch) != (
        kernels.CHECKED
    )


@pytest.mark.skipif(
    platform.machine() == "x86_64" and "fma" not in Path("/proc/cpuinfo").read_text(),
    reason="this CPU cannot contract",
)
@pytest.mark.parametrize("flag", ["-ffp-contract=fast", "-ffast-math"])
def test_a_build_with_other_arithmetic_is_refused_in_one_line(tmp_path, monkeypatch, refusal, flag):
    path = compiled(tmp_path, flag)
    monkeypatch.setattr(build, "library", lambda level: path)
    monkeypatch.setattr(build, "is_built", lambda: True)
    monkeypatch.setattr(kernels, "widest", lambda: 0)

    message = refusal(kernels.load.__wrapped__)

    assert message.startswith(f"{path}: computes other numbers than it must")
    assert message.endswith("remove it and run 'make repro'")


def test_a_library_that_is_none_is_refused_in_one_line(tmp_path, monkeypatch, refusal):
    path = tmp_path / "built.so"
    path.write_bytes(b"\x7fELF")
    monkeypatch.setattr(build, "library", lambda level: path)

    assert refusal(Kernels, "plain").startswith(f"{path}: cannot be loaded (")


def test_an_unknown_level_is_refused(monkeypatch, refusal):
    monkeypatch.setenv(kernels.VARIABLE, "v5")

    message = refusal(kernels.load.__wrapped__)

    assert message == f"CNN_KERNELS is 'v5'; allowed: {', '.join(build.levels())}, or unset"


def test_numbers_below_the_normal_ones_count_though_the_thread_flushes_them(tmp_path):
    """TensorFlow's threads do, and what an older gcc linked with -ffast-math does, when loaded."""
    source = tmp_path / "flush.c"
    source.write_text(
        """#if defined __x86_64__
unsigned get(void) { return __builtin_ia32_stmxcsr(); }
void set(unsigned x) { __builtin_ia32_ldmxcsr(x); }
enum { NORMAL = 0x1f80, FLUSH = 0x8040 };
#else
unsigned get(void) { unsigned long x; __asm__("mrs %0, fpcr" : "=r"(x)); return x; }
void set(unsigned long x) { __asm__("msr fpcr, %0" :: "r"(x)); }
enum { NORMAL = 0, FLUSH = 1 << 24 };
#endif
unsigned normal(void) { set(NORMAL); return get(); }
unsigned flush(void) { set(NORMAL | FLUSH); return get(); }"""
    )
    build.compiled([shutil.which("cc"), "-shared", "-fPIC"], [source], tmp_path / "flush.so")
    thread = ctypes.CDLL(str(tmp_path / "flush.so"))
    built, network = kernels.load(), NETWORK._replace(filters=(1,), dense_units=())
    images = np.full((1, *network.image_shape), 7136, np.uint32).view(np.float32)  # 1e-41
    weights = [np.full(shape, 1, np.float32) for shape in network.shapes()]
    weights[1][...] = 0
    weights[2][...] = 1e38  # of features of 9e-41
    weights[2][:, 0] = 0
    laid = lay_out(network, weights)
    normal = thread.normal()
    expected, _ = built.predict(network, laid, images)

    flushing = thread.flush()
    found, _ = built.predict(network, laid, images)
    after = thread.get()
    thread.normal()

    assert expected[0, 0] < expected[0, 1]
    assert found.tobytes() == expected.tobytes()
    assert after == flushing != normal


# ---- Nothing reaches C that it cannot take ------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": lambda x: x.astype(np.float64)}, "images: float64"),
        ({"images": lambda x: x[:, ::2]}, r"images: float32 \(40, 7, 14, 1\), not contiguous"),
        ({"images": lambda x: x[..., 0]}, "images"),
        ({"images": lambda x: x[:39].copy()}, "order lie in"),
        ({"labels": lambda x: x + 1}, r"labels lie in \[1, 10\], not in \[0, 10\)"),
        ({"labels": lambda x: x - 1}, "labels lie in"),
        ({"labels": lambda x: x.astype(np.int32)}, "labels: int32"),
        ({"labels": lambda x: x[:-1].copy()}, "labels"),
        ({"order": lambda x: x + 1}, "order lie in"),
        ({"order": lambda x: -x}, "order lie in"),
        ({"order": lambda x: x[::-1]}, "order"),
        ({"rates": lambda x: x[:-1].copy()}, "rates"),
        ({"alphas": lambda x: x.astype(np.float64)}, "alphas: float64"),
        ({"room": lambda x: np.empty(10, np.float32)}, "room"),
        ({"recipe": lambda x: x._replace(shards=3)}, "a batch of 16 in 3 shards"),
        ({"recipe": lambda x: x._replace(batch_size=0)}, "a batch of 0"),
        ({"network": lambda x: x._replace(filters=(8, 40))}, "weights"),
        ({"network": lambda x: x._replace(filters=())}, "number of filters"),
        ({"network": lambda x: x._replace(filters=(8, 1025))}, "filters"),
        ({"network": lambda x: x._replace(filters=(8,) * 7)}, "number of filters"),
        ({"network": lambda x: x._replace(filters=(8, 8, 8, 8))}, "what the poolings leave"),
        ({"network": lambda x: x._replace(dense_units=(1,) * 4)}, "number of dense_units"),
        ({"network": lambda x: x._replace(kernel_size=6)}, "kernel_size"),
        ({"network": lambda x: x._replace(image_shape=(14, 300, 1))}, "sides"),
        ({"network": lambda x: x._replace(image_shape=(14, 14, 2))}, "2 channels"),
        ({"state": lambda x: x._replace(momenta=x.momenta[:-1].copy())}, "momenta"),
        ({"state": lambda x: Weights(*(a[:-1].copy() for a in x[:3]), None)}, "weights"),
        ({"state": lambda x: x._replace(averages=x.weights.astype(np.float64))}, "averages"),
    ],
)
def test_what_c_cannot_take_is_refused(digits_state, changed, message):
    images, labels, state = digits_state
    rates = np.float32([0.1, 0.1, 0.1])
    given = {
        "network": NETWORK, "recipe": Recipe(batch_size=16), "state": copied(state),
        "images": images, "labels": labels, "order": np.arange(40), "first_step": 0,
        "rates": rates, "alphas": rates, "room": None,
    }  # fmt: skip
    given |= {name: change(given[name]) for name, change in changed.items()}

    with pytest.raises(ValueError, match=message):
        kernels.load().train(**given)


def test_weights_that_must_not_change_are_not_changed(digits_state):
    images, labels, state = digits_state
    state.weights.flags.writeable = False
    rate = np.float32([0.1])

    with pytest.raises(ValueError, match="may not be written to"):
        kernels.load().train(NETWORK, Recipe(), state, images, labels, np.arange(40), 0, rate, rate)


def test_a_number_that_is_none_is_found():
    built, numbers = kernels.load(), np.linspace(-1e38, 1e38, 100, dtype=np.float32)
    assert built.first_not_finite(numbers) is None
    for value in (np.nan, np.inf, -np.inf):
        numbers[70] = value
        assert built.first_not_finite(numbers) == 70


def test_a_layout_keeps_every_weight():
    for network in NETWORKS.values():
        random = np.random.default_rng(0)
        arrays = [random.random(shape, np.float32) for shape in network.shapes()]

        found = take_apart(network, lay_out(network, arrays))

        for a, b in zip(found, arrays, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_check_program_agrees_under_the_sanitizers():
    """`.ci/run` has it try more, and other CPUs."""
    command = [sys.executable, "-m", "benchmarks.kernels", "--cases", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("3 cases: the same bytes") == kernels.widest() + 2
    assert "sanitizers" in done.stdout
