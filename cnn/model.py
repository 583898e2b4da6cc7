"""The engine `keras`: the same layers as Keras' own, compiled and fitted by Keras.

Change `build` as you like: what is trained is any network of Keras' layers, on whatever TensorFlow
finds, GPUs included. No promise but the machine's; cnn/engine.py has the other engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cnn import progress
from cnn.data import Data
from cnn.engine import recipe_of, schedule_of
from cnn.errors import UserError
from cnn.network import Network
from cnn.params import Section
from cnn.resume import Row
from cnn.runtime import keras


def build(network: Network) -> keras.Model:
    """Return the untrained network: images (n, h, w, c) to probabilities (n, classes).

    For MNIST, with 32 and 64 filters of 3 x 3 and 128 units, it has 225,034 parameters. Layers are
    named, since Keras' own names count what the process built before. The softmax computes in
    float32 whatever the precision, so that probabilities sum to 1.
    """
    layers, convolutions = keras.layers, []
    for number, filters in enumerate(network.filters, 1):
        convolutions += [
            layers.Conv2D(
                filters,
                network.kernel_size,
                padding=network.padding,
                activation="relu",
                name=f"convolution_{number}",
            ),
            layers.MaxPooling2D(2, name=f"pooling_{number}"),
        ]
    drop = [layers.Dropout(network.dropout, name="dropout")] if network.dropout else []
    hidden = [
        layers.Dense(units, activation="relu", name=name)
        for units, name in zip(
            network.dense_units, network.weighted()[len(network.filters) :], strict=False
        )
    ]
    last = layers.Dense(
        network.classes, activation="softmax", dtype="float32", name="probabilities"
    )
    return keras.Sequential(
        [
            keras.Input(network.image_shape, name="images"),
            *convolutions,
            layers.Flatten(name="flatten"),
            *drop,
            *hidden,
            last,
        ],
        name="cnn",
    )


def learning_rate_of(
    params: Section, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate over `steps` steps; see `engine.learning_rates`."""
    schedule = schedule_of(params, steps)
    if isinstance(schedule, float):
        return schedule
    return keras.optimizers.schedules.CosineDecay(**schedule._asdict())


def compile_for(model: keras.Model, params: Section, steps: int) -> None:
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


def moved_batches(params: Section, network: Network, data: Data) -> keras.utils.PyDataset:
    """Return the batches of each epoch, in another order, their images moved by the kernels."""
    from cnn.kernels import load

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
    params: Section,
    network: Network,
    training: Data,
    validation: Data,
    keep: Callable[[list[Row]], None] = lambda history: None,
) -> keras.Model:
    """Return a model that Keras' `fit` has trained; `keep` is given the history after each epoch.

    Raises
    ------
    UserError
        A weight or the loss is no longer finite.
    """
    model = build(network)
    steps_an_epoch = -(-len(training.labels) // params.batch_size)
    compile_for(model, params, params.epochs * steps_an_epoch)
    history: list[Row] = []
    rate = learning_rate_of(params, params.epochs * steps_an_epoch)

    class History(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            problem = not_finite(model)
            for name, loss in (("loss", logs["loss"]), ("validation loss", logs["val_loss"])):
                if not math.isfinite(loss):
                    problem = problem or f"the {name} is {loss}"
            if problem:
                raise UserError(
                    f"{problem} in epoch {epoch + 1}; lower train.learning_rate in params.yaml "
                    "and run 'dvc repro'"
                )
            last = (epoch + 1) * steps_an_epoch - 1
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
            keep(history)
            bar.line(f"epoch {epoch + 1}/{params.epochs}  " + "  ".join(
                f"{name.replace('_', ' ')} {value:.4f}"
                for name, value in list(history[-1].items())[1:5]
            ))  # fmt: skip

        def on_train_batch_end(self, batch, logs=None):
            bar.update(model.optimizer.iterations.numpy().item())

    given = (training.images, training.labels)
    with progress.shown(params.epochs * steps_an_epoch) as bar:
        model.fit(
            *([moved_batches(params, network, training)] if params.moves else given),
            batch_size=None if params.moves else params.batch_size,
            epochs=params.epochs,
            validation_data=(validation.images, validation.labels),
            callbacks=[History()],
            verbose=0,
        )
    return model


def not_finite(model: keras.Model) -> str:
    """Name a layer whose weights are not finite, "" if all are: outputs and loss may hide it."""
    for layer in model.layers:
        if not all(np.isfinite(np.asarray(each)).all() for each in layer.weights):
            return f"the weights of layer {layer.name} are no longer finite"
    return ""
