"""The kernels give the bytes of plain loops on every build and any number of threads.

What was built otherwise is refused, and nothing wrong reaches C. test_keras_engine.py holds them to
Keras.
"""

import ctypes
import math
import platform
import shutil
from ctypes import byref
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from benchmarks.kernels import SANITIZERS, digests
from cnn import kernels
from cnn.kernels import Kernels, Recipe, Weights, build, lay_out, take_apart
from cnn.kernels import _Recipe as CRecipe
from cnn.kernels import _Weights as CWeights
from cnn.model.network import Network

NETWORK = Network((14, 14, 1), (8, 24), 3, "valid", (20,), 0.0, 10)


def compiled(
    compiler: tuple[list[str], bool],
    folder: Path,
    *flags: str,
    source: str | None = None,
    twin: bool = False,
) -> Path:
    """Build network.c, or other text in its place, or the twin, with more flags."""
    command, zig = compiler
    for name in build.SOURCES:
        shutil.copy(build.HERE / name, folder)
    if source:
        (folder / "network.c").write_text(source)
    target = folder / "built.so"
    file = build.HERE / "check/twin.c" if twin else folder / "network.c"
    shared = ["-shared", "-fPIC"] if twin else build.LIBRARY
    level = "plain" if twin else list(build.levels())[kernels.widest()]
    given = [*build.FLAGS, *shared, *build.level_flags(level, zig), f"-I{folder}", *flags]
    build.compiled([*command, *given], [file], target)
    return target


@pytest.fixture(scope="session")
def twin(compiler, tmp_path_factory):
    """The plain loops of twin.c."""
    library = ctypes.CDLL(str(compiled(compiler, tmp_path_factory.mktemp("twin"), twin=True)))
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
        whole(0, 2**64 - 1), whole(1, 50), 2 ** whole(0, 4), network.dropout, some(0.5), some(180),
        some(1), some(1), some(0.5), draw(st.sampled_from([0.0, 0.3, 1.0, None])), some(0.9),
        some(0.999), 1e-7, some(0.1), some(0.9),
        tuple(some(3) for _ in range(network.classes)) if whole(0, 1) else (),
    )  # fmt: skip
    return network, recipe, whole(1, 50), whole(0, 2), whole(1, 4), whole(0, 2**32)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@hypothesis.given(cases())
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
        byref(structure), byref(CRecipe.of(recipe)), byref(CWeights(*map(address, ours))),
        address(images), address(labels), address(order), ctypes.c_int64(n),
        ctypes.c_uint64(first), address(rates), address(alphas), address(losses),
    )  # fmt: skip
    twin.twin_predict(
        byref(structure), address(ours.weights), address(images), address(labels),
        ctypes.c_int64(n), address(probabilities), address(each_loss),
    )  # fmt: skip
    expected = [losses, probabilities, each_loss, *(each for each in ours if each is not None)]

    for built in builds:
        state = copied(start)
        found_losses, found_correct = built.train(
            network, recipe, state, images, labels, order, first, rates, alphas, threads
        )
        found = built.predict(network, state.weights, images, labels, threads)
        trained = [flat(network, each) for each in state if each is not None]
        assert found_correct == correct
        for a, b in zip([found_losses, *found, *trained], expected, strict=True):
            assert a.tobytes() == b.tobytes()
        # What fills up the layout is still 0, unless the training diverged, which the engine ends.
        if np.isfinite(losses).all():
            assert lay_out(network, take_apart(network, state.weights)).tobytes() == (
                state.weights.tobytes()
            )


@pytest.fixture
def given(digits) -> dict:
    """What `train` takes: two and a half batches of 16 digits."""
    images, labels = digits
    rates = np.float32([0.01, 0.02, 0.03])
    return {
        "network": NETWORK, "recipe": Recipe(batch_size=16, shards=8, weight_decay=0.1),
        "state": kernels.load().initial_weights(NETWORK, 3), "images": images, "labels": labels,
        "order": np.arange(40), "first_step": 0, "rates": rates, "alphas": rates,
    }  # fmt: skip


def copied(state: Weights) -> Weights:
    return Weights(*(None if each is None else each.copy() for each in state))


@pytest.mark.parametrize("of", [1, 2, 4, 8])
def test_workers_give_the_bytes_of_one(given, of):
    built, alone, found = kernels.load(), copied(given["state"]), []
    states = [copied(given["state"]) for _ in range(of)]
    network, recipe, rates = given["network"], given["recipe"], given["rates"]
    losses, correct = built.train(**given | {"state": alone})

    for step, batch in enumerate(np.split(given["order"], [16, 32])):
        args = given["images"], given["labels"], batch, step
        rows = np.stack(
            [
                built.shard_gradients(network, recipe, state, *args, index, of, threads=2)
                for index, state in enumerate(states)
            ]
        )
        update = step, rates[step], rates[step], rows
        found.append([built.apply(network, recipe, state, *update) for state in states][0])

    for state in states:
        assert state.weights.tobytes() == alone.weights.tobytes()
        assert state.velocities.tobytes() == alone.velocities.tobytes()
    assert [loss for loss, _ in found] == losses.tolist()
    assert sum(number for _, number in found) == correct


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


def test_dropout_drops_its_share(given):
    """By the bias of a last layer without others: its gradient does not see what is dropped."""
    built, network = (
        kernels.load(),
        NETWORK._replace(dense_units=(), filters=(8, 240), dropout=0.25),
    )
    state = built.initial_weights(network, 3)
    weights = take_apart(network, state.weights)
    weights[3][...] = 1  # every feature is above 0
    state.weights[...] = lay_out(network, weights)
    given |= {"network": network, "state": state, "order": np.zeros(1, np.int64)}
    given |= {"recipe": Recipe(5, 1, 1, 0.25, beta_1=0.0), "rates": np.zeros(1, np.float32)}

    built.train(**given | {"alphas": given["rates"]})

    gradient = take_apart(network, state.momenta)[-2][:, 0]
    share = (gradient == 0).mean()
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / len(gradient))


def test_a_momentum_without_gradients_becomes_zero(given):
    """Else most of the momenta's vectors hold some below the normal numbers, which are slow."""
    state = given["state"]
    state.momenta[...] = state.velocities[...] = np.float32(2.0**-99)  # times 0.9 and 0.999 a step
    given["images"] = np.zeros_like(given["images"])  # so that the first kernels have no gradient

    kernels.load().train(**given)  # three steps
    after_three = take_apart(NETWORK, state.momenta)[0].copy()
    for _ in range(3):
        kernels.load().train(**given)

    assert after_three.min() > 2.0**-100
    assert not take_apart(NETWORK, state.momenta)[0].any()
    assert take_apart(NETWORK, state.velocities)[0].min() > 2.0**-100


# ---- What is built otherwise, and what cannot be built -------------------------------------------


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("another tree", "part + (i + half) * stride", "part + (parts - 1 - i) * stride"),
        ("a sum begun elsewhere", "float loss = 0.0f;", "float loss = 1e-6f;"),
        ("a chain the other way", "db[o] += dz[i * d->out + o]",
         "db[o] += dz[(count - 1 - i) * d->out + o]"),
        ("a quotient in place of a product", ": 0.0f)) * weight", ": 0.0f)) / (float)batch->count"),
    ],
)  # fmt: skip
def test_another_order_is_noticed(compiler, tmp_path, monkeypatch, what, old, new):
    source = (build.HERE / "network.c").read_text()
    assert source.count(old) == 1, what
    path = compiled(compiler, tmp_path, "-O1", source=source.replace(old, new))
    monkeypatch.setattr(build, "library", lambda level: path)

    assert kernels.self_check(Kernels("plain")) != kernels.CHECKED


@pytest.mark.skipif(
    platform.machine() == "x86_64" and "fma" not in Path("/proc/cpuinfo").read_text(),
    reason="this CPU cannot contract",
)
@pytest.mark.parametrize("flag", ["-ffp-contract=fast", "-ffast-math"])
def test_a_build_with_other_arithmetic_is_refused_in_one_line(
    compiler, tmp_path, monkeypatch, refusal, flag
):
    path = compiled(compiler, tmp_path, flag)
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


def test_numbers_below_the_normal_ones_count_though_the_thread_flushes_them(compiler, tmp_path):
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
    build.compiled([*compiler[0], "-shared", "-fPIC"], [source], tmp_path / "flush.so")
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
        ({"images": lambda x: x[:39].copy()}, "order lie in"),
        ({"labels": lambda x: x + 1}, r"labels lie in \[1, 10\], not in \[0, 10\)"),
        ({"labels": lambda x: x.astype(np.int32)}, "labels: int32"),
        ({"order": lambda x: -x}, "order lie in"),
        ({"order": lambda x: x[::-1]}, "order"),
        ({"rates": lambda x: x[:-1].copy()}, "rates"),
        ({"alphas": lambda x: x.astype(np.float64)}, "alphas: float64"),
        ({"recipe": lambda x: x._replace(shards=3)}, "a batch of 16 in 3 shards"),
        ({"recipe": lambda x: x._replace(batch_size=0)}, "a batch of 0"),
        ({"network": lambda x: x._replace(filters=(8, 40))}, "weights"),
        ({"network": lambda x: x._replace(filters=(8, 1025))}, "filters"),
        ({"network": lambda x: x._replace(filters=(8,) * 7)}, "number of filters"),
        ({"network": lambda x: x._replace(filters=(8, 8, 8, 8))}, "poolings that leave nothing"),
        ({"network": lambda x: x._replace(dense_units=(1,) * 4)}, "number of dense_units"),
        ({"network": lambda x: x._replace(kernel_size=6)}, "kernel_size"),
        ({"network": lambda x: x._replace(image_shape=(14, 300, 1))}, "image_shape"),
        ({"network": lambda x: x._replace(image_shape=(14, 14, 2))}, "channels"),
        ({"state": lambda x: x._replace(momenta=x.momenta[:-1].copy())}, "momenta"),
        ({"state": lambda x: Weights(*(a[:-1].copy() for a in x[:3]), None)}, "weights"),
        ({"state": lambda x: x._replace(averages=x.weights.astype(np.float64))}, "averages"),
    ],
)
def test_what_c_cannot_take_is_refused(given, changed, message):
    given |= {"recipe": Recipe(batch_size=16)}
    given |= {name: change(given[name]) for name, change in changed.items()}

    with pytest.raises(ValueError, match=message):
        kernels.load().train(**given)


def test_weights_that_must_not_change_are_not_changed(given):
    given["state"].weights.flags.writeable = False

    with pytest.raises(ValueError, match="may not be written to"):
        kernels.load().train(**given)


def test_a_number_that_is_none_is_found():
    built, numbers = kernels.load(), np.linspace(-1e38, 1e38, 100, dtype=np.float32)
    assert built.first_not_finite(numbers) is None
    for value in (np.nan, np.inf, -np.inf):
        numbers[70] = value
        assert built.first_not_finite(numbers) == 70


def test_a_layout_keeps_every_weight():
    random = np.random.default_rng(0)
    for filters, units, side, channels in [
        ((8, 24), (20,), 3, 1),
        ((5,), (), 5, 3),
        ((17, 3, 40, 16), (9, 30, 7), 2, 3),
    ]:
        network = Network((33, 40, channels), filters, side, "same", units, 0.0, 100)
        arrays = [random.random(shape, np.float32) for shape in network.shapes()]

        found = take_apart(network, lay_out(network, arrays))

        for a, b in zip(found, arrays, strict=True):
            np.testing.assert_array_equal(a, b)


def test_nothing_reaches_memory_out_of_bounds(compiler):
    """`.ci/run` has the sanitizers try more, on other CPUs too."""
    (command, zig), level = compiler, list(build.levels().values())[kernels.widest()]
    if zig:
        pytest.skip("sanitizers need gcc or clang")

    printed = digests("sanitizers", command[0], [*level, *SANITIZERS], [], 3)

    assert len(printed.splitlines()) == 3
