"""A training that was killed goes on to the bytes of one that nobody disturbed."""

import numpy as np
import pytest
import yaml

from cnn.base.params import load as load_params
from cnn.data.sets import Data
from cnn.training import checkpoint, engine
from cnn.training.checkpoint import Checkpointer, State, checkpoint_path
from stages import train
from tests.test_train import WRITTEN, flags, splits

FINGERPRINT = {"train.seed": "42", "cnn.training.engine": "0a1b", "numpy": "3"}
STATE = State(
    epochs=2,
    start=64,
    loss_sum=0.1,
    correct=7,
    history=[{"epoch": 1, "loss": 1 / 3}, {"epoch": 2, "loss": 0.1}],
    variables=[np.float32([1, 2, 3, 4]), np.float32([-0.0, 1e-45, 3e38]), np.zeros(0, np.float32)],
)


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(
        (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
        for x, y in zip(a, b, strict=True)
    )


@pytest.fixture
def saved(tmp_path):
    path = checkpoint_path(tmp_path / "cnn.keras")
    checkpoint.save(path, FINGERPRINT, STATE)
    return path


def test_a_state_is_read_as_it_was_saved(saved):
    state = checkpoint.load(saved, FINGERPRINT)

    assert state[:5] == STATE[:5]
    assert [type(value) for value in state[:4]] == [int, int, float, int]
    assert same(state.variables, STATE.variables)
    assert str(state) == "epoch 2 and 64 images of the next"


def test_there_is_none_at_first(tmp_path, capsys):
    assert checkpoint.load(tmp_path / "none", FINGERPRINT) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"train.seed": "43"}, "train.seed was 42, is 43"),
        ({"numpy": "4", "train.seed": "43"}, "numpy was 3, is 4; train.seed was 42, is 43"),
        ({"more": "1"}, "more was None, is 1"),
        (
            dict.fromkeys("abcde", "1"),
            "a was None, is 1; b was None, is 1; c was None, is 1, and 2",
        ),
    ],
)
def test_another_training_does_not_go_on_from_it_and_says_why(saved, capsys, changed, named):
    assert checkpoint.load(saved, FINGERPRINT | changed) is None
    printed = capsys.readouterr().err
    assert printed.startswith(f"note: {saved}: the saved state is another training's ({named}")
    assert printed.endswith("); starting from the beginning\n")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_state_that_is_cut_off_is_not_resumed(saved, capsys, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])

    assert checkpoint.load(saved, FINGERPRINT) is None
    printed = capsys.readouterr().err
    assert printed.startswith(f"note: {saved}: the saved state is damaged (")
    assert printed.count("\n") == 1


def test_no_flipped_bit_goes_unnoticed(saved, capsys):
    content = saved.read_bytes()
    for place in np.random.default_rng(0).integers(len(content), size=100):
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        saved.write_bytes(flipped)
        state = checkpoint.load(saved, FINGERPRINT)
        # A zip's dates and the like may change; what is read of it may not.
        assert state is None or (state[:5] == STATE[:5] and same(state.variables, STATE.variables))


def test_saving_takes_a_hundredth_of_the_time_at_most(monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])

    def write(state):
        written.append((now[0], state.epochs))
        now[0] += 0.25

    checkpointer = Checkpointer(write, [])
    for epoch in range(1, 101):
        now[0] += 1
        checkpointer.maybe_save(State(epoch))
    assert [epoch for _, epoch in written] == [1, 26, 51, 76]

    written.clear()
    for seen in range(1, 101):
        now[0] += 1
        checkpointer.maybe_save(State(100, seen), checkpoint.INTERVAL)
    times = [time for time, _ in written]
    assert min(np.diff(times)) >= 30
    assert len(times) == 4


def test_from_wherever_it_goes_on_the_bytes_are_the_same(tiny_yaml, digits, monkeypatch):
    """With all that depends on the step: dropout, moves, rates, the average of the weights."""
    monkeypatch.setattr(checkpoint, "INTERVAL", 0)
    monkeypatch.setattr(checkpoint, "SHARE", np.inf)
    monkeypatch.setattr(engine, "CHUNK", 0)  # a state after each step
    changed = {"dropout": 0.3, "averaging": 0.9, "shift": 0.1, "weight_decay": 0.1}
    changed |= {"epochs": 3, "batch_size": 12}
    params = load_params(tiny_yaml, "train", train.TrainParams).model_copy(update=changed)
    data = Data(*digits, np.array([*"0123456789"]))
    network = params.network((14, 14, 1), 10)

    def trained(state=None):
        states, histories = [], []

        def save(state):  # its arrays go on to change
            states.append(checkpoint.pack(state, FINGERPRINT))

        weights = engine.train(
            params, network, data, data, histories.append, state=state, save_state=save
        )
        return list(weights), histories[-1] if histories else None, states

    weights, history, states = trained()

    found = [checkpoint.unpack(state)[0] for state in states]
    assert [(state.epochs, state.start) for state in found] == [
        place for epoch in range(3) for place in
        [(epoch, 12), (epoch, 24), (epoch, 36), (epoch, 40), (epoch + 1, 0)]
    ]  # fmt: skip
    for number, state in enumerate(found, 1):
        assert (len(state.history), len(state.variables)) == (state.epochs, 4)
        again, gone_on, rest = trained(state)
        assert same(again, weights)
        assert gone_on == (history if state.epochs < 3 else None)
        assert rest == states[number:]


def test_the_state_of_a_training_without_averages_has_none(tiny_yaml, digits):
    params = load_params(tiny_yaml, "train", train.TrainParams)
    data = Data(*digits, np.array([*"0123456789"]))
    network, states = params.network((14, 14, 1), 10), []

    weights = engine.train(params, network, data, data, save_state=states.append)
    again = engine.train(params, network, data, data, state=states[-1])

    assert len(states[-1].variables) == 3
    assert again.averages is None
    assert same(again[:3], weights[:3])


def test_the_stage_goes_on_and_leaves_no_state_behind(
    trained, tiny_yaml, prepared, tmp_path, monkeypatch, capsys
):
    """Killed between its last epoch and the model."""
    words = flags(tiny_yaml, *splits(prepared), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(train.engine, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train.main(words)
    assert checkpoint_path(tmp_path / "cnn.keras").is_file()
    (tmp_path / "training.csv").unlink()  # as DVC does before it runs the stage
    capsys.readouterr()

    train.main(words)

    assert capsys.readouterr().out == "going on after epoch 1\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(WRITTEN.values())
    for name in WRITTEN.values():
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_with_resume_turned_off_no_state_is_saved_or_resumed(
    trained, tiny, prepared, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"train": tiny["train"] | {"resume": False}}))
    other = checkpoint_path(tmp_path / "cnn.keras")
    monkeypatch.setattr(checkpoint, "load", None)
    monkeypatch.setattr(checkpoint, "save", None)

    train.main(flags(path, *splits(prepared), tmp_path))

    assert not other.exists()
    assert "going on" not in capsys.readouterr().out
    for name in WRITTEN.values():
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()
