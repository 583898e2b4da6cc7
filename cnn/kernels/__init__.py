"""The network's arithmetic, to the same bytes on every CPU: the C of this folder, called by ctypes.

network.h says what is computed and in which order. Nothing reaches C here whose shape, dtype, order
in memory or range it cannot take: a wrong one is a ValueError, a bug of the caller's.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
from ctypes import POINTER, Structure, byref, c_float, c_int64, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError
from cnn.base.program import cores
from cnn.kernels import build
from cnn.model.network import Network

Floats = NDArray[np.float32]
VARIABLE = "CNN_KERNELS"  # a level to use instead of the widest one; it changes no byte
PAD = 16  # filters and units are padded with zeros to a multiple of this
MOST_PARAMETERS = 2**31  # so that the place of one is an int32 in C
INITIAL, MOVES = 0, 2  # purposes of random numbers, as network.h has them
# Of `self_check`, on every machine.
CHECKED = "5d65b4ba45ef22b2"


class Recipe(NamedTuple):
    """How a step is taken; numbers as in section `train` of params.yaml."""

    seed: int = 0
    batch_size: int = 64
    shards: int = 4
    dropout: float = 0.0
    shift: float = 0.0
    rotation: float = 0.0
    shear: float = 0.0
    scale: float = 0.0
    elastic: float = 0.0
    fill: float | None = 0.0  # None is the nearest pixel
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    weight_decay: float = 0.0
    averaging: float = 0.0
    class_weights: tuple[float, ...] = ()  # by which a class' images count; () is 1 for each


class Weights(NamedTuple):
    """The weights and what Adam keeps of each, float32 (p,) each, as the kernels lay them out.

    averages : of the weights; None unless they are averaged.
    """

    weights: Floats
    momenta: Floats
    velocities: Floats
    averages: Floats | None


class _Network(Structure):
    _fields_ = [
        *(
            (name, c_int64)
            for name in ["height", "width", "channels", "kernel", "same", "convolutions"]
        ),
        ("filters", c_int64 * 6),
        ("dense", c_int64),
        ("units", c_int64 * 4),
    ]


class _Recipe(Structure):
    _fields_ = [
        ("seed", c_uint64),
        ("batch_size", c_int64),
        ("shards", c_int64),
        *((name, c_float) for name in Recipe._fields[3:-1]),
        ("class_weights", c_void_p),
    ]

    @classmethod
    def of(cls, recipe: Recipe) -> _Recipe:
        filled = recipe if recipe.fill is not None else recipe._replace(fill=-1)
        made = cls(*filled[:-1])
        if recipe.class_weights:
            made.kept = np.array(recipe.class_weights, np.float32)  # for as long as C may read it
            made.class_weights = made.kept.ctypes.data
        return made


class _Weights(Structure):
    _fields_ = [(name, c_void_p) for name in Weights._fields]


# {function: its arguments, its result}; arrays and structures go by address.
_SIGNATURES = {
    "level": ([], c_int64),
    "parameters": ([POINTER(_Network)], c_int64),
    "train": (
        [POINTER(_Network), POINTER(_Recipe), POINTER(_Weights), c_void_p, c_void_p, c_void_p]
        + [c_int64, c_uint64, c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64],
        c_int64,
    ),
    "apply": (
        [POINTER(_Network), POINTER(_Recipe), POINTER(_Weights), c_uint64, c_float, c_float]
        + [c_void_p, c_int64, c_int64],
        None,
    ),
    "predict": (
        [POINTER(_Network), POINTER(_Weights), c_void_p, c_void_p, c_int64, c_void_p, c_void_p]
        + [c_int64],
        c_int64,
    ),
    "moved": (
        [POINTER(_Network), POINTER(_Recipe), c_uint64, c_int64, c_void_p, c_int64, c_void_p],
        c_int64,
    ),
    "uniforms": ([c_uint64, c_uint32, c_uint64, c_uint32, c_int64, c_void_p], None),
    "elementwise": ([c_int64, c_void_p, c_int64], None),
    "first_not_finite": ([c_void_p, c_int64], c_int64),
}


# ---- The library ---------------------------------------------------------------------------------


@cache
def load() -> Kernels:
    """Return the widest build that this CPU and system can run, once it has proved itself.

    Raises
    ------
    UserError
        It cannot be built, or computes other numbers than it must.
    """
    if not build.is_built() and build.build() is None:
        raise UserError("the kernels are not built; run 'make repro', which brings a compiler")
    known = list(build.levels())
    level = os.environ.get(VARIABLE) or known[widest()]
    if level not in known:
        raise UserError(f"{VARIABLE} is {level!r}; allowed: {', '.join(known)}, or unset")
    kernels = Kernels(level)
    if (found := self_check(kernels)) != CHECKED:
        raise UserError(
            f"{build.library(level)}: computes other numbers than it must ({found}, not "
            f"{CHECKED}): it was built otherwise; remove it and run 'make repro'"
        )
    return kernels


def widest() -> int:
    """Return the place in `build.levels()` of the widest build that runs here."""
    return min(Kernels("plain").widest, len(build.levels()) - 1)


def probabilities(network: Network, arrays: list[Floats], images: Floats) -> Floats:
    """Return the probabilities, float32 (n, k), of images, float32 (n, h, w, c), on all cores.

    arrays : the network's weights, of the shapes `network.shapes()`.
    """
    return load().predict(network, lay_out(network, arrays), images, threads=cores())[0]


def self_check(kernels: Kernels) -> str:
    """Return a digest of what a few steps of a small network with every option give."""
    network = Network((12, 11, 3), (5, 17), 3, "same", (9,), 0.25, 4)
    weights = (0.5, 1.0, 2.0, 0.75)
    recipe = Recipe(7, 24, 4, 0.25, 0.1, 20, 0.2, 0.1, 0.2, 0.5, 0.8, 0.99, 1e-7, 0.1, 0.9, weights)
    images = kernels.uniform(1, INITIAL, 1, 0, 40 * 12 * 11 * 3).reshape(40, 12, 11, 3)
    state = kernels.initial_weights(network, seed=3, averaged=True)
    state.momenta[...] = state.velocities[...] = 2.0**-100  # becomes 0, where no gradient is
    rates = np.array([0.01, 0.02], np.float32)
    labels, order = np.arange(40) % 4, np.arange(40)[::-1].copy()
    losses, _ = kernels.train(network, recipe, state, images, labels, order, 0, rates, rates)
    probabilities, _ = kernels.predict(network, state.weights, images)
    found = hashlib.sha256()
    for array in (losses, probabilities, *state):
        found.update(array.tobytes())
    return found.hexdigest()[:16]


class Kernels:
    """The functions of one build, "plain", "v3" or "v4"; `load` gives the one to use."""

    def __init__(self, level: str):
        path = build.library(level)
        try:
            self._c = ctypes.CDLL(str(path))
            for name, (arguments, result) in _SIGNATURES.items():
                function = getattr(self._c, name)
                function.argtypes, function.restype = arguments, result
        except (OSError, AttributeError) as error:
            raise UserError(
                f"{path}: cannot be loaded ({error}); remove it and run 'make repro'"
            ) from None

    @property
    def widest(self) -> int:
        """The place in `build.levels()` of the widest build that this CPU and system can run."""
        return self._c.level()

    def initial_weights(self, network: Network, seed: int, averaged: bool = False) -> Weights:
        """Return weights to begin with: kernels as Glorot and Bengio 2010 draw them, else zeros.

        Uniform within +- sqrt(6 / (fan in + fan out)), Keras' default, from the seed and a counter.
        """
        arrays = []
        for number, shape in enumerate(network.shapes()):
            if len(shape) == 1:
                arrays.append(np.zeros(shape, np.float32))
                continue
            limit = np.float32(math.sqrt(6 / (math.prod(shape[:-2]) * sum(shape[-2:]))))
            drawn = self.uniform(seed, INITIAL, number, 0, math.prod(shape)).reshape(shape)
            arrays.append((np.float32(2) * drawn - np.float32(1)) * limit)
        weights = lay_out(network, arrays)
        zeros = [np.zeros_like(weights) for _ in range(3 if averaged else 2)]
        return Weights(weights, *zeros, *([] if averaged else [None]))

    def train(
        self,
        network: Network,
        recipe: Recipe,
        state: Weights,
        images: Floats,
        labels: NDArray[np.int64],
        order: NDArray[np.int64],
        first_step: int,
        rates: Floats,
        alphas: Floats,
        threads: int = 1,
    ) -> tuple[Floats, int]:
        """Train the steps of some images, batch after batch; `state` changes in place.

        Python's lock is free meanwhile. The number of threads changes no byte.

        Parameters
        ----------
        images : float32 (n, h, w, c).
        labels : int64 (n,), index into classes.
        order : int64 (m,), places in `images`; the last batch may be short.
        first_step : number of the first step in the whole training, from 0 on.
        rates, alphas : float32 (steps,) each: the learning rate, and Adam's size of a step.

        Returns
        -------
        The mean loss of each batch before its step, float32 (steps,), and how many images were
        classified correctly then.
        """
        given = self._step(network, recipe, state, images, labels, order)
        steps = -(-len(order) // recipe.batch_size)
        losses = np.zeros(max(steps, 1) * recipe.shards, np.float32)
        correct = self._c.train(
            *given,
            first_step,
            _address(rates, np.float32, (steps,), "rates"),
            _address(alphas, np.float32, (steps,), "alphas"),
            None,
            losses.ctypes.data,
            0,
            1,
            min(threads, recipe.shards),
        )
        if correct < 0:
            raise MemoryError("for the activations of a training")
        return losses[:steps].copy(), correct

    def _step(self, network, recipe, state, images, labels, order) -> list:
        """Check what the functions that train are given first, and return it for C."""
        n, size = len(images), len(state.weights)
        if recipe.batch_size < 1 or recipe.shards not in {2**i for i in range(7)}:
            raise ValueError(f"a batch of {recipe.batch_size} in {recipe.shards} shards")
        if len(recipe.class_weights) not in (0, network.classes):
            raise ValueError(f"{len(recipe.class_weights)} weights of {network.classes} classes")
        if not all(array is None or array.flags.writeable for array in state):
            raise ValueError("weights that may not be written to")
        _check_range(order, n, "order")
        _check_range(labels, network.classes, "labels")
        return [
            byref(self._structure(network, size)),
            byref(_Recipe.of(recipe)),
            byref(_addresses(state)),
            _address(images, np.float32, (n, *network.image_shape), "images"),
            _address(labels, np.int64, (n,), "labels"),
            _address(order, np.int64, (len(order),), "order"),
            len(order),
        ]

    def _structure(self, network: Network, size: int | None = None) -> _Network:
        if problem := network.problem():
            raise ValueError(problem)
        units = (*network.dense_units, network.classes)
        structure = _Network(
            *network.image_shape,
            network.kernel_size,
            network.padding == "same",
            len(network.filters),
            (c_int64 * 6)(*network.filters),
            len(units),
            (c_int64 * 4)(*units),
        )
        needed = self._c.parameters(byref(structure))
        if size not in (None, needed) or needed >= MOST_PARAMETERS:
            raise ValueError(f"{size} weights, not {needed}, for {network}")
        return structure

    def shard_gradients(
        self,
        network: Network,
        recipe: Recipe,
        state: Weights,
        images: Floats,
        labels: NDArray[np.int64],
        batch: NDArray[np.int64],
        step: int,
        index: int,
        of: int,
        threads: int = 1,
    ) -> Floats:
        """Return worker `index`'s part of a step, of `of`: its shards' sum as a row for `apply`.

        It computes the shards index, index + of and so on of one batch.
        """
        if len(batch) > recipe.batch_size or recipe.shards % of or not 0 <= index < of:
            raise ValueError(f"worker {index} of {of}, {len(batch)} images")
        own, size = recipe.shards // of, len(state.weights)
        gradient, losses = np.empty(size, np.float32), np.zeros(own, np.float32)
        correct = self._c.train(
            *self._step(network, recipe, state, images, labels, batch),
            step,
            None,
            None,
            gradient.ctypes.data,
            losses.ctypes.data,
            index,
            of,
            min(threads, own),
        )
        if correct < 0:
            raise MemoryError("for the activations of a training")
        # A number of images is exact in float32 up to 2 ** 24.
        return np.concatenate([gradient, losses[:1], np.float32([correct])])

    def apply(
        self,
        network: Network,
        recipe: Recipe,
        state: Weights,
        step: int,
        rate: np.float32,
        alpha: np.float32,
        rows: Floats,
    ) -> tuple[np.float32, int]:
        """Add the workers' rows, float32 (of, p + 2), in a tree and update the weights in place.

        Returns the mean loss and how many images were classified correctly, as `train` does.
        """
        size, rows = len(state.weights), rows.copy()
        if rows.ndim != 2 or len(rows) not in {2**i for i in range(7)}:
            raise ValueError(f"rows: {rows.shape}")
        self._c.apply(
            byref(self._structure(network, size)),
            byref(_Recipe.of(recipe)),
            byref(_addresses(state)),
            step,
            rate,
            alpha,
            _address(rows, np.float32, (len(rows), size + 2), "rows"),
            *rows.shape,
        )
        return rows[0, -2], int(rows[0, -1])

    def predict(
        self,
        network: Network,
        weights: Floats,
        images: Floats,
        labels: NDArray[np.int64] | None = None,
        threads: int = 1,
    ) -> tuple[Floats, Floats | None]:
        """Return the probabilities, float32 (n, k), of n images, and their losses, float32 (n,).

        weights : float32 (p,), as `lay_out` gives them. Without labels there are no losses.
        """
        n = len(images)
        probabilities = np.empty((n, network.classes), np.float32)
        losses = None if labels is None else np.empty(n, np.float32)
        if labels is not None:
            _check_range(labels, network.classes, "labels")
        state = Weights(weights, weights, weights, None)
        if self._c.predict(
            byref(self._structure(network, len(weights))),
            byref(_addresses(state)),
            _address(images, np.float32, (n, *network.image_shape), "images"),
            None if labels is None else _address(labels, np.int64, (n,), "labels"),
            n,
            probabilities.ctypes.data,
            None if losses is None else losses.ctypes.data,
            max(1, min(threads, n // PAD)),
        ):
            raise MemoryError("for the activations of a prediction")
        return probabilities, losses

    def moved(
        self, network: Network, recipe: Recipe, images: Floats, step: int, row: int = 0
    ) -> Floats:
        """Return images, float32 (n, h, w, c), moved as at places row, row + 1, ... of a step.

        How far each is moved, turned, slanted and resized comes from the seed and these numbers.
        """
        n, out = len(images), np.empty_like(images)
        if self._c.moved(
            byref(self._structure(network)),
            byref(_Recipe.of(recipe)),
            step,
            row,
            _address(images, np.float32, (n, *network.image_shape), "images"),
            n,
            out.ctypes.data,
        ):
            raise MemoryError("for images that are moved")
        return out

    def uniform(self, seed: int, purpose: int, step: int, row: int, n: int) -> Floats:
        """Return n random numbers in [0, 1), float32, each made from its counter alone."""
        drawn = np.empty(n, np.float32)
        self._c.uniforms(seed, purpose, step, row, n, drawn.ctypes.data)
        return drawn

    def exp(self, x: NDArray) -> Floats:
        """Return e ** x, float32, the same on every machine, where numpy's differ."""
        return self._elementwise(0, x)

    def log(self, x: NDArray) -> Floats:
        """Return the natural logarithm, float32, of numbers above 0."""
        return self._elementwise(1, x)

    def cosine(self, turns: NDArray) -> Floats:
        """Return cos(2 pi turns), float32."""
        return self._elementwise(2, turns)

    def _elementwise(self, function: int, x: NDArray) -> Floats:
        out = np.array(x, np.float32, order="C")
        self._c.elementwise(function, out.ctypes.data, out.size)
        return out

    def first_not_finite(self, flat: Floats) -> int | None:
        """Return the place of the first number of (n,) that is NaN or infinite, None if none is."""
        at = self._c.first_not_finite(_address(flat, np.float32, (flat.size,), "flat"), flat.size)
        return None if at < 0 else at


# ---- Weights in C's layout, and checks -----------------------------------------------------------


class _Place(NamedTuple):
    """How one array of weights is laid out.

    shape : with which it is padded; the first dense kernel's is (y, x, filter, unit).
    padded : that, each number of filters or units raised to a multiple of PAD.
    by_filter : whether the filters, the last axis, come first.
    """

    shape: tuple[int, ...]
    padded: tuple[int, ...]
    by_filter: bool


def _layout(network: Network) -> list[_Place]:
    """Return the places of the arrays of the shapes `network.shapes()`, in their order."""
    places, flattened = [], ()
    for layer in network.layers():
        if layer.kind == "Flatten":
            flattened = layer.input_shape
        for shape in layer.weights.values():
            if flattened and len(shape) == 2:
                shape, flattened = (*flattened, shape[1]), ()
            # Sides are not padded, nor are the channels of the images.
            fixed = max(len(shape) - 2, 0) if places else 3
            padded = (*shape[:fixed], *(-(-n // PAD) * PAD for n in shape[fixed:]))
            by_filter = layer.kind == "Conv2D" and len(shape) == 4 and bool(places)
            places.append(_Place(shape, padded, by_filter))
    return places


def lay_out(network: Network, arrays: list[Floats]) -> Floats:
    """Return arrays of the shapes `network.shapes()` as the kernels lay them out, float32 (p,)."""
    flat = []
    for place, array in zip(_layout(network), arrays, strict=True):
        room = np.zeros(place.padded, np.float32)
        room[tuple(map(slice, place.shape))] = np.asarray(array, np.float32).reshape(place.shape)
        flat.append((np.moveaxis(room, -1, 0) if place.by_filter else room).ravel())
    return np.concatenate(flat)


def take_apart(network: Network, flat: Floats) -> list[Floats]:
    """Return the arrays, of the shapes `network.shapes()`, that `lay_out` was given."""
    arrays, start = [], 0
    for place, shape in zip(_layout(network), network.shapes(), strict=True):
        *rest, last = place.padded
        room = flat[start : (start := start + math.prod(place.padded))]
        if place.by_filter:
            room = np.moveaxis(room.reshape(last, *rest), 0, -1)
        room = room.reshape(place.padded)[tuple(map(slice, place.shape))]
        arrays.append(room.reshape(shape).copy())
    return arrays


def _address(array: NDArray, dtype: type, shape: tuple[int, ...], name: str) -> int:
    """Return where an array begins, if C may read it as contiguous `dtype` of this shape."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else ", not contiguous"
        given = f"{array.dtype} {array.shape}{order}"
        raise ValueError(f"{name}: {given}, not {np.dtype(dtype).name} {shape}")
    return array.ctypes.data


def _addresses(state: Weights) -> _Weights:
    shape = state.weights.shape
    return _Weights(
        *(
            None if array is None else _address(array, np.float32, shape, name)
            for name, array in state._asdict().items()
        )
    )


def _check_range(array: NDArray, end: int, name: str) -> None:
    if len(array) and not 0 <= array.min() <= array.max() < end:
        raise ValueError(f"{name} lie in [{array.min()}, {array.max()}], not in [0, {end})")
