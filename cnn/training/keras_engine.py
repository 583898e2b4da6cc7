"""The engine `keras`: the same layers as Keras' own, compiled and fitted by Keras.

Change `build` as you like: what is trained is any network of Keras' layers, on whatever TensorFlow
finds, GPUs included. No promise but the machine's; cnn/training/engine.py has the other engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from cnn.base.errors import UserError
from cnn.base.files import atomic_write
from cnn.data.sets import Data
from cnn.kernels import load
from cnn.model.keras_runtime import layer_not_finite
from cnn.model.network import Layer, Network
from cnn.training.checkpoint import Row
from cnn.training.engine import class_weights, recipe_of, schedule_of
from cnn.training.params import TrainParams
from cnn.training.progress import Progress


def build(network: Network) -> keras.Model:
    """Return the untrained network: images (n, h, w, c) to probabilities (n, classes).

    For MNIST, with 32 and 64 filters of 3 x 3 and 128 units, it has 225,034 parameters. The softmax
    computes in float32 whatever the precision, so that probabilities sum to 1.
    """
    *layers, softmax = network.layers()

    def in_keras(layer: Layer, **more: str) -> keras.Layer:
        return getattr(keras.layers, layer.kind)(name=layer.name, **layer.settings, **more)

    return keras.Sequential(
        [*map(in_keras, layers), in_keras(softmax, dtype="float32")], name="cnn"
    )


def learning_rate_of(
    params: TrainParams, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate over `steps` steps; see `engine.learning_rates`."""
    schedule = schedule_of(params, steps)
    if isinstance(schedule, float):
        return schedule
    return keras.optimizers.schedules.CosineDecay(**schedule._asdict())


def compile_for(model: keras.Model, params: TrainParams, steps: int) -> None:
    """Compile `model` with Adam (Kingma and Ba 2015) and cross-entropy for `steps` steps."""
    model.compile(
        optimizer=keras.optimizers.Adam(
            learning_rate_of(params, steps),
            beta_1=params.beta_1,
            beta_2=params.beta_2,
            weight_decay=params.weight_decay or None,
            use_ema=params.averaging > 0,
            ema_momentum=params.averaging,
            name="adam",  # Keras' own name counts the optimizers that the process made before
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )


def moved_batches(params: TrainParams, network: Network, data: Data) -> keras.utils.PyDataset:
    """Return the batches of each epoch, in another order, their images moved by the kernels."""
    kernels, recipe = load(), recipe_of(params)
    shuffle = np.random.default_rng(params.seed)

    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.epoch, self.order = 0, shuffle.permutation(len(data.labels))

        def __len__(self):
            return -(-len(self.order) // params.batch_size)

        def __getitem__(self, index):
            places = self.order[index * params.batch_size :][: params.batch_size]
            step = self.epoch * len(self) + index
            images = kernels.moved(network, recipe, data.images[places], step)
            return images, data.labels[places]

        def on_epoch_end(self):
            self.epoch, self.order = self.epoch + 1, shuffle.permutation(len(data.labels))

    return Batches()


def fit(
    params: TrainParams,
    network: Network,
    training: Data,
    validation: Data,
    on_epoch: Callable[[list[Row]], None] = lambda history: None,
) -> keras.Model:
    """Return a model that Keras' `fit` has trained.

    Parameters
    ----------
    training, validation : images float32 (n, h, w, c) in [0, 1] and labels int64 (n,).
    on_epoch : called after each epoch with the history, a row per finished epoch; returns nothing.

    Raises
    ------
    UserError
        A weight or the loss is no longer finite.
    """
    model = build(network)
    steps_per_epoch = -(-len(training.labels) // params.batch_size)
    steps = params.epochs * steps_per_epoch
    compile_for(model, params, steps)
    history: list[Row] = []
    rate = learning_rate_of(params, steps)

    class History(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            layer = layer_not_finite(model)
            problem = layer and f"the weights of layer {layer} are no longer finite"
            for name, loss in (("loss", logs["loss"]), ("validation loss", logs["val_loss"])):
                if not math.isfinite(loss):
                    problem = problem or f"the {name} is {loss}"
            if problem:
                raise UserError(
                    f"{problem} in epoch {epoch + 1}; lower train.learning_rate in params.yaml "
                    "and run 'dvc repro'"
                )
            last = (epoch + 1) * steps_per_epoch - 1
            history.append(
                {
                    "epoch": epoch + 1,
                    "accuracy": logs["accuracy"],
                    "loss": logs["loss"],
                    "validation_accuracy": logs["val_accuracy"],
                    "validation_loss": logs["val_loss"],
                    "learning_rate": float(rate(last) if callable(rate) else rate),
                }
            )
            on_epoch(history)
            progress.line(f"epoch {epoch + 1}/{params.epochs}  " + "  ".join(
                f"{name.replace('_', ' ')} {value:.4f}"
                for name, value in list(history[-1].items())[1:5]
            ))  # fmt: skip

        def on_train_batch_end(self, batch, logs=None):
            progress.update(model.optimizer.iterations.numpy().item())

    given = (training.images, training.labels)
    weights = class_weights(params, training.labels, network.classes)
    with Progress(steps) as progress:
        model.fit(
            *([moved_batches(params, network, training)] if params.moves else given),
            batch_size=None if params.moves else params.batch_size,
            epochs=params.epochs,
            validation_data=(validation.images, validation.labels),
            callbacks=[History()],
            class_weight=dict(enumerate(weights)) or None,
            verbose=0,
        )
    return model


def save(path: Path, model: keras.Model) -> None:
    """Write a model as Keras does, whole or not at all."""
    with atomic_write(path) as temporary:
        named = temporary.with_name(f"{temporary.name}.keras")  # Keras insists on the ending
        try:
            model.save(named)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
