"""The stage writes what the first source has, the same bytes whatever the source, and keeps a copy.

What the sources are is tested in test_sources.py, and no test leaves this machine.
"""

import numpy as np
import pytest

from stages import fetch

pytestmark = pytest.mark.usefixtures("home")


def fetch_main(output, dataset="mnist", prepare_raw=None) -> None:
    params = output.parents[2] / "params.yaml"
    params.write_text(f"fetch: {{dataset: {dataset}}}\n")
    fetch.main([f"--params={params}", f"--raw={output}", f"--prepare-raw={prepare_raw or output}"])


@pytest.fixture
def output(home):
    return home / "data" / "raw" / "published.npz"


@pytest.fixture
def run_stage(output, raw_npz, capsys):
    """Run the stage, see that it gives the published bytes; return what it printed."""

    def call(dataset: str = "mnist") -> tuple[str, str]:
        fetch_main(output, dataset)
        assert output.read_bytes() == raw_npz.read_bytes()
        assert list(output.parent.iterdir()) == [output]
        return capsys.readouterr()

    return call


def test_the_own_cache_is_filled_by_one_run_and_read_by_the_next(
    home, named, monkeypatch, output, run_stage
):
    run_stage()
    monkeypatch.delenv("MNIST_DIR")
    output.unlink()

    assert run_stage() == (f"MNIST from {home / 'cache/mnist-reproducible'}\n", "")


def test_a_cache_that_cannot_be_written_is_a_note(home, named, run_stage):
    (home / "cache").write_text("a file where the folder should be")

    _, errors = run_stage()

    assert errors.startswith(f"note: not kept in {home / 'cache' / 'mnist-reproducible'}: ")
    assert errors.count("\n") == 1


def test_when_prepare_reads_other_data_nothing_is_fetched(output, capsys):
    fetch_main(output, prepare_raw="data/raw/mine")

    assert capsys.readouterr() == ("nothing to fetch: prepare.raw is data/raw/mine\n", "")
    with np.load(output) as arrays:
        assert list(arrays) == []


def test_fashion_mnist_has_a_variable_and_a_place_in_the_cache_of_its_own(
    home, raw_npz, named, monkeypatch, run_stage
):
    folder = home / "clothes"
    folder.mkdir()
    (folder / "fashion_mnist.npz").write_bytes(raw_npz.read_bytes())
    monkeypatch.setenv("FASHION_MNIST_DIR", str(folder))

    assert run_stage("fashion_mnist")[0] == f"Fashion-MNIST from FASHION_MNIST_DIR={folder}\n"
    assert sorted(path.name for path in (home / "cache/mnist-reproducible").iterdir()) == [
        "fashion_mnist.npz"
    ]
