"""Real digits in MNIST's form, and what the stages make of them on a tiny configuration.

scikit-learn ships 1,797 real handwritten digits of 8 x 8 pixels; every test that needs images works
on some of them. What is expensive is made once per worker. Imports stand in the fixtures: a file
whose tests need none of them starts in a moment.
"""

import gc
import hashlib
import importlib
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml

from cnn.base.errors import UserError

ROOT = Path(__file__).parent.parent
TINY = {
    "train": {
        "filters": [8, 16],
        "dense_units": [32],
        "epochs": 1,
        "batch_size": 32,
        "learning_rate": 0.01,
        **dict.fromkeys(("shift", "rotation", "shear", "scale", "elastic"), 0.0),
    },
    "evaluate": {"calibration_bins": 5, "mistakes": 6, "suspects": 6},
}

# With TensorFlow in the process, a look through all objects takes long and finds little.
gc.set_threshold(100_000, 50, 100)
# A shell that starts a suite with '&' has Ctrl-C ignored in all of it; some tests send one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Modules that run the real `dvc`, a browser, or Keras' training and much else for seconds.
DVC = ("end_to_end/*", "faults/*", "test_offline_plots", "test_plots", "test_push_runs")
DVC += ("test_remotes", "test_repair", "test_seeds")
BROWSER = ("test_draw", "test_plots")
SLOW = ("test_fetch", "test_keras_engine", "test_machines", "test_tools_workers", "test_workers")
# What takes longest comes first, so that no worker is left alone with it.
FIRST = ("end_to_end/*", "faults/*", "test_keras_engine", "test_workers")


def pytest_collection_modifyitems(items):
    def rank(item) -> int:
        path = item.path.relative_to(ROOT / "tests").with_suffix("")
        for name, modules in {"dvc": DVC, "browser": BROWSER, "slow": SLOW}.items():
            if any(map(path.match, modules)):
                item.add_marker(name)
        return next((n for n, module in enumerate(FIRST) if path.match(module)), len(FIRST))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def params() -> dict:
    """params.yaml as it is committed."""
    from cnn.base.params import read_yaml

    return read_yaml(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def tiny(params) -> dict:
    """params.yaml with a network and a training that take a moment."""
    return {name: section | TINY.get(name, {}) for name, section in params.items()}


@pytest.fixture(scope="session")
def tiny_yaml(tiny, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump(tiny), encoding="utf-8")
    return path


@pytest.fixture
def section(tiny_yaml):
    """Return section `train` with some values changed, none of which is checked."""
    from cnn.base.params import load
    from cnn.training.params import TrainParams

    whole = load(tiny_yaml, "train", TrainParams)
    return lambda **changed: whole.model_copy(update=changed)


@pytest.fixture(scope="session")
def raw() -> dict[str, np.ndarray]:
    """500 training and 200 test digits, uint8 (n, 28, 28), light ink on black."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    enlarged = np.kron(digits.images[:700], np.ones((3, 3)))  # each pixel becomes 3 x 3
    images = np.pad(enlarged * 255 / 16, ((0, 0), (2, 2), (2, 2))).round().astype(np.uint8)
    labels = digits.target[:700].astype(np.uint8)
    return {
        "x_train": images[:500],
        "y_train": labels[:500],
        "x_test": images[500:],
        "y_test": labels[500:],
    }


@pytest.fixture(scope="session")
def digits(raw) -> tuple[np.ndarray, np.ndarray]:
    """40 images float32 (40, 14, 14, 1) and their labels, int64."""
    images = raw["x_train"][:40, ::2, ::2, np.newaxis].astype(np.float32) / 255
    return images, raw["y_train"][:40].astype(np.int64)


@pytest.fixture(scope="session")
def raw_npz(raw, tmp_path_factory) -> Path:
    from cnn.base.npz import write_arrays

    path = tmp_path_factory.mktemp("raw") / "published.npz"
    write_arrays(path, **raw)
    return path


@pytest.fixture(scope="session")
def prepared(raw_npz, tiny_yaml, tmp_path_factory) -> Path:
    """The folder with train.npz, validation.npz, test.npz and data.json.

    These digits are no published data set, so validation is drawn by class.
    """
    from stages import prepare

    folder = tmp_path_factory.mktemp("prepared")
    splits = [f"--{split}={folder / split}.npz" for split in ("train", "validation", "test")]
    summary = f"--summary={folder / 'data.json'}"
    prepare.main([f"--params={tiny_yaml}", f"--raw={raw_npz}", *splits, summary])
    return folder


@pytest.fixture(scope="session")
def run_train(prepared):
    """Call the stage with a params.yaml, and return the folder into which it wrote."""
    from stages import train

    def call(params_yaml: Path, folder: Path) -> Path:
        train.main(
            [
                f"--params={params_yaml}",
                f"--train={prepared / 'train.npz'}",
                f"--validation={prepared / 'validation.npz'}",
                f"--model={folder / 'cnn.keras'}",
                f"--history={folder / 'training.csv'}",
                f"--environment={folder / 'environment.json'}",
            ]
        )
        return folder

    return call


@pytest.fixture(scope="session")
def trained(run_train, tiny_yaml, tmp_path_factory) -> Path:
    """The folder with cnn.keras, training.csv and environment.json of the tiny training."""
    return run_train(tiny_yaml, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def reader(tmp_path_factory) -> Path:
    """A small model that has learned 150 digits of scikit-learn's, as handwriting.ink forms them.

    The tiny training leaves a model that reads no better than it should; this one reads what the
    tests of the tools show to it.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    from cnn.kernels import Recipe, load, take_apart
    from cnn.model import archive
    from cnn.model.network import Network
    from handwriting.ink import to_mnist

    digits = load_digits()
    seen = [to_mnist(Image.fromarray(np.uint8(digit * 15))) for digit in digits.images[:150]]
    images = np.stack(seen)[..., np.newaxis].astype(np.float32) / 255
    kernels, network = load(), Network((28, 28, 1), (8, 16), 3, "valid", (32,), 0.0, 10)
    recipe, steps, rate = Recipe(batch_size=10), 450, 1e-3
    shuffle = np.random.default_rng(0)
    order = np.concatenate([shuffle.permutation(150) for _ in range(30)])
    weights = kernels.initial_weights(network, seed=0)
    rates = np.full(steps, rate, np.float32)  # and sizes, uncorrected for Adam's start
    labels = digits.target[:150].astype(np.int64)
    kernels.train(network, recipe, weights, images, labels, order, 0, rates, rates)
    arrays, momenta, velocities = (take_apart(network, flat) for flat in weights[:3])
    adam = archive.Adam(rate, 0.9, 0.999, 0.0, 0.0, steps, momenta, velocities, [])
    path = tmp_path_factory.mktemp("reader") / "cnn.keras"
    archive.write(path, network, arrays, adam)
    return path


@pytest.fixture
def tf():
    """TensorFlow, in the state in which a training by Keras starts it."""
    from cnn.model import keras_runtime

    keras_runtime.start_keras(seed=42)
    return importlib.import_module("tensorflow")


@pytest.fixture(scope="session")
def browser_path() -> str:
    """A browser that starts; `make test` has seen to it that there is one."""
    from tools import browser

    path = browser.find()
    assert path, "no browser is here; 'make test' brings one"
    return path


@pytest.fixture
def home(tmp_path, monkeypatch, raw):
    """A machine with no source at all: no network, no npm, empty caches; small files as published.

    Returns the folder below which everything lies.
    """
    from cnn.published.datasets import ARRAYS, PUBLISHED, to_idx

    nobody = "http://127.0.0.1:9/"  # the discard port: refused at once
    digests = tuple(hashlib.sha256(b"".join(to_idx(raw[name]))).hexdigest() for name in ARRAYS)
    for name, published in PUBLISHED.copy().items():
        small = published._replace(
            sha256=digests,
            npz=f"{nobody}mnist.npz" if published.npz else "",
            mirrors=(f"{nobody}one/", f"{nobody}two/"),
            folder=str(tmp_path / "system" / name),
        )
        monkeypatch.setitem(PUBLISHED, name, small)
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # pooch waits between its tries
    return tmp_path


@pytest.fixture
def named(home, raw_npz, monkeypatch):
    """A folder that the user names, with mnist.npz."""
    folder = home / "named"
    folder.mkdir()
    (folder / "mnist.npz").write_bytes(raw_npz.read_bytes())
    monkeypatch.setenv("MNIST_DIR", str(folder))
    return folder


@pytest.fixture
def refusal():
    """Call a function that must refuse its input; return the message, which is one line."""

    def call(function, *args, **kwargs) -> str:
        with pytest.raises(UserError) as caught:
            function(*args, **kwargs)
        message = str(caught.value)
        assert message
        assert "\n" not in message
        return message

    return call


@pytest.fixture(scope="session")
def compiler(tmp_path_factory):
    """The command of a C compiler, and whether it is zig, brought where there is no other."""
    import shutil
    import subprocess

    from cnn.kernels import build

    source = tmp_path_factory.mktemp("compiler") / "source.c"
    source.write_text("#include <math.h>\nint one(void) { return 1; }\n")
    for path in filter(None, map(shutil.which, build.COMPILERS)):
        try:
            build.compiled([path, *build.LIBRARY], [source], source.with_name("built.so"))
        except (OSError, subprocess.CalledProcessError):
            continue
        yield [path], False
        return
    with build.ziglang() as command:
        yield command, True
