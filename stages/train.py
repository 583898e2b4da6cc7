"""Train the CNN.

    python -m stages.train --train data/prepared/train.npz \
        --validation data/prepared/validation.npz --model models/cnn.keras \
        --history reports/training.csv --environment reports/environment.json

Reads two npz of `images` float32 (n, 28, 28, 1) in [0, 1] and `labels` int64 (n,). Writes the model
with its optimizer, so that it can be trained further; one row an epoch of accuracy and loss
(training: the mean over the epoch's steps as they were taken; validation: after the epoch) and the
learning rate of the epoch's last step; and what the bytes of all this depend on.
"""

import argparse
import csv
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages import dataset, model, runtime
from stages.augmentation import augment
from stages.integrity import replacing
from stages.params import Section, UserError, load, run

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

ALIGNMENT = 64  # bytes, what the widest vector instructions want
VALIDATION_BATCH = 500  # images; larger ones are no faster and need more memory


Size = Annotated[int, Field(ge=1, le=1024)]


class TrainParams(Section):
    """Section `train` of params.yaml."""

    seed: int = Field(ge=0, le=2**32 - 1)
    filters: tuple[Size, Size] = Field(strict=False)  # YAML has lists, not tuples
    kernel_size: int = Field(ge=1, le=5)
    dense_units: int = Field(ge=1, le=4096)
    dropout: float = Field(ge=0, lt=1)
    epochs: int = Field(ge=1, le=1000)
    batch_size: int = Field(ge=1, le=8192)
    learning_rate: float = Field(gt=0, le=1)
    schedule: Literal["constant", "cosine"]
    warmup_share: float = Field(ge=0, lt=1)
    final_share: float = Field(ge=0, le=1)
    threads: int = Field(ge=1, le=256)
    precision: Literal["float32", "mixed_bfloat16"]
    beta_1: float = Field(ge=0, lt=1)
    beta_2: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0, le=1)
    averaging: float = Field(ge=0, lt=1)
    shift: float = Field(ge=0, le=14)
    rotation: float = Field(ge=0, le=180)
    shear: float = Field(ge=0, le=1)
    scale: float = Field(ge=0, le=1)


def learning_rate_schedule(
    params: TrainParams, steps: int
) -> "float | keras.optimizers.schedules.CosineDecay":
    """Return the learning rate over `steps` steps, as Adam takes it.

    Cosine: linear from near 0 to the peak over the first `warmup_share` of the steps, then half a
    cosine down to `final_share` of the peak (Loshchilov and Hutter 2017, SGDR, without restarts).
    """
    import keras

    peak = params.learning_rate
    if params.schedule == "constant":
        return peak
    warmup = round(steps * params.warmup_share)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / warmup if warmup else peak,  # 0 would waste the first step
        decay_steps=max(steps - warmup, 1),
        alpha=params.final_share,
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )


def in_tensorflow(array: NDArray) -> "tf.Tensor":
    """Return a tensor of the same values that TensorFlow does not have to copy.

    tf.constant takes twice the array's memory for itself while it copies. DLPack hands numpy's own
    memory over; TensorFlow's kernels want it aligned, which numpy does not promise.
    """
    import tensorflow as tf

    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    aligned = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    aligned[...] = array
    return tf.experimental.dlpack.from_dlpack(aligned.__dlpack__())


def apply_adam(
    optimizer: "keras.optimizers.Adam", gradients: "list[tf.Tensor]", variables: list
) -> None:
    """Do what `optimizer.apply(gradients, variables)` does, with one kernel a variable.

    Keras composes Adam's step (Kingma and Ba 2015, algorithm 1) of a dozen operations, each a pass
    over all weights: an eighth of the training time. The state stays Keras' own, so the saved model
    can be trained further.
    """
    import tensorflow as tf

    rate, step = optimizer.learning_rate, tf.cast(optimizer.iterations + 1, tf.float32)
    slots = zip(optimizer._momentums, optimizer._velocities, strict=True)
    for variable, gradient, (momentum, velocity) in zip(variables, gradients, slots, strict=True):
        if optimizer.weight_decay:
            variable.assign_sub(variable * (optimizer.weight_decay * rate))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle,
            m=momentum.value.handle,
            v=velocity.value.handle,
            beta1_power=tf.pow(optimizer.beta_1, step),
            beta2_power=tf.pow(optimizer.beta_2, step),
            lr=rate,
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
            grad=gradient,
        )
    if optimizer.use_ema:
        # The first step starts the average: there is no past to share it with.
        past = tf.where(step > 1, optimizer.ema_momentum, 0.0)
        averages = optimizer._model_variables_moving_average
        for average, variable in zip(averages, variables, strict=True):
            average.assign(past * average + (1 - past) * variable)
    optimizer.iterations.assign_add(1)


def compiled_epoch(
    network: "keras.Model",
    images: "tf.Tensor",
    labels: "tf.Tensor",
    params: TrainParams,
) -> "tf.types.experimental.PolymorphicFunction":
    """Return a function that takes a permutation of range(n) and trains one epoch in that order.

    The whole epoch is one graph: gathering the batches from a constant inside it is as fast with
    deterministic operations as without, where a loop over tf.data is not, and no step returns to
    Python. The last batch may be short; every image is seen once. The function returns the mean
    loss and the accuracy over the epoch, float32 scalars.
    """
    import tensorflow as tf

    n, batch_size = images.shape[0], params.batch_size
    moves = {name: getattr(params, name) for name in ("shift", "rotation", "shear", "scale")}
    optimizer, loss_of, variables = network.optimizer, network.loss, network.trainable_variables
    optimizer.build(variables)

    @tf.function
    def epoch(order):
        loss_sum = tf.constant(0.0)
        right = tf.constant(0, tf.int64)
        for first in tf.range(0, n, batch_size):
            batch = order[first : first + batch_size]
            seen, actual = tf.gather(images, batch), tf.gather(labels, batch)
            if any(moves.values()):
                step = tf.cast(optimizer.iterations, tf.int64)
                seen = augment(seen, tf.stack([params.seed, step]), **moves)
            with tf.GradientTape() as tape:
                probabilities = model.forward(network, seen)
                loss = loss_of(actual, probabilities)
            apply_adam(optimizer, tape.gradient(loss, variables), variables)
            loss_sum += loss * tf.cast(tf.size(batch), tf.float32)
            right += tf.math.count_nonzero(tf.argmax(probabilities, axis=1) == actual)
        return loss_sum / n, tf.cast(right, tf.float32) / n

    return epoch


def compiled_validation(
    network: "keras.Model", images: "tf.Tensor", labels: "tf.Tensor"
) -> "tf.types.experimental.PolymorphicFunction":
    """Return a function that gives the loss and accuracy of the network as it stands.

    As Model.evaluate, which would trace its own step and return to Python for every batch: half a
    second more in the first epoch, a tenth in every other. The values are float32 scalars.
    """
    import tensorflow as tf

    n, loss_of = images.shape[0], network.loss

    @tf.function
    def validation():
        loss_sum = tf.constant(0.0)
        right = tf.constant(0, tf.int64)
        for first in tf.range(0, n, VALIDATION_BATCH):
            # Side by side, batches save 0.02 s in all, and take up to 70 MB more.
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            actual = labels[first : first + VALIDATION_BATCH]
            probabilities = network(images[first : first + VALIDATION_BATCH], training=False)
            loss_sum += loss_of(actual, probabilities) * tf.cast(tf.size(actual), tf.float32)
            right += tf.math.count_nonzero(tf.argmax(probabilities, axis=1) == actual)
        return loss_sum / n, tf.cast(right, tf.float32) / n

    return validation


def train(
    params: TrainParams,
    training: tuple["tf.Tensor", "tf.Tensor"],
    validation: tuple["tf.Tensor", "tf.Tensor"],
) -> tuple["keras.Model", list[dict[str, float]]]:
    """Return the trained model and its history, one dict an epoch.

    Raises
    ------
    UserError
        The loss is no longer finite.
    """
    import keras

    images, labels = training
    network = model.build(params.filters, params.kernel_size, params.dense_units, params.dropout)
    steps = params.epochs * math.ceil(images.shape[0] / params.batch_size)
    schedule = learning_rate_schedule(params, steps)
    network.compile(
        optimizer=keras.optimizers.Adam(
            schedule,
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
    epoch = compiled_epoch(network, images, labels, params)
    validate = compiled_validation(network, *validation)
    shuffle = np.random.default_rng(params.seed)
    history = []
    started = time.perf_counter()
    for number in range(1, params.epochs + 1):
        loss, accuracy = (float(value) for value in epoch(shuffle.permutation(images.shape[0])))
        last_step = network.optimizer.iterations.numpy() - 1
        learning_rate = float(schedule if isinstance(schedule, float) else schedule(last_step))
        if number == params.epochs:
            # With averaging, the average becomes the model; without, nothing happens.
            network.optimizer.finalize_variable_values(network.trainable_variables)
        validation_loss, validation_accuracy = (float(value) for value in validate())
        if not math.isfinite(loss) or not math.isfinite(validation_loss):
            raise UserError(
                f"the loss is {loss} in epoch {number} at learning rate {learning_rate:g}; "
                "lower train.learning_rate in params.yaml"
            )
        history.append(
            {
                "epoch": number,
                "accuracy": accuracy,
                "loss": loss,
                "validation_accuracy": validation_accuracy,
                "validation_loss": validation_loss,
                "learning_rate": learning_rate,
            }
        )
        elapsed = time.perf_counter() - started
        left = elapsed / number * (params.epochs - number)
        print(
            f"epoch {number}/{params.epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}  "
            f"validation loss {validation_loss:.4f}  accuracy {validation_accuracy:.4f}  "
            f"{elapsed:.0f} s, about {left:.0f} s left",
            flush=True,
        )
    return network, history


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default="params.yaml", metavar="YAML")
    parser.add_argument("--train", type=Path, required=True, metavar="NPZ", help="read")
    parser.add_argument("--validation", type=Path, required=True, metavar="NPZ", help="read")
    parser.add_argument("--model", type=Path, required=True, metavar="KERAS", help="written")
    parser.add_argument("--history", type=Path, required=True, metavar="CSV", help="written")
    parser.add_argument("--environment", type=Path, required=True, metavar="JSON", help="written")
    arguments = parser.parse_args(argv)
    params = load(arguments.params, "train", TrainParams)
    training = dataset.load(arguments.train)
    validation = dataset.load(arguments.validation)

    runtime.warn_of_slow_bfloat16(params.precision)
    runtime.start_tensorflow(params.seed, params.threads, params.precision)
    # After each of the two, numpy's own memory is free again.
    training = tuple(in_tensorflow(part) for part in training)
    validation = tuple(in_tensorflow(part) for part in validation)
    network, history = train(params, training, validation)

    model.save(network, arguments.model)
    with replacing(arguments.history) as path, open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in history)
    with replacing(arguments.environment) as path:
        environment = runtime.environment(params.threads, params.precision)
        path.write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(run(main))
