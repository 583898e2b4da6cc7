"""Section `train` of params.yaml: network, optimizer, augmentation, and the training itself."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cnn.base.params import Section
from cnn.model.network import (
    LARGEST_KERNEL,
    MOST_CONVOLUTIONS,
    MOST_FILTERS,
    MOST_HIDDEN,
    MOST_UNITS,
    Network,
    network_of,
)


class NetworkParams(Section):
    """The network."""

    filters: tuple[Annotated[int, Field(ge=1, le=MOST_FILTERS)], ...] = Field(
        strict=False,  # YAML has lists, not tuples
        min_length=1,
        max_length=MOST_CONVOLUTIONS,
    )
    kernel_size: int = Field(ge=1, le=LARGEST_KERNEL)
    dense_units: tuple[Annotated[int, Field(ge=1, le=MOST_UNITS)], ...] = Field(
        strict=False, max_length=MOST_HIDDEN
    )
    dropout: float = Field(ge=0, lt=1)

    def network(self, image_shape: tuple[int, int, int], classes: int) -> Network:
        """Return the network for images (h, w, c) of so many classes.

        Raises
        ------
        UserError
            The poolings leave nothing of such images, or there would be too many weights.
        """
        return network_of(
            self.filters, self.kernel_size, self.dense_units, self.dropout, image_shape, classes
        )


class OptimizerParams(Section):
    """Adam and its learning rate, for both engines."""

    learning_rate: float = Field(gt=0, le=1)
    schedule: Literal["constant", "cosine"]
    warmup_share: float = Field(ge=0, lt=1)
    final_share: float = Field(ge=0, le=1)
    beta_1: float = Field(ge=0, lt=1)
    beta_2: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0, le=1)
    averaging: float = Field(ge=0, lt=1)


class AugmentationParams(Section):
    """How far each training image is moved at random."""

    shift: float = Field(ge=0, le=0.5)
    rotation: float = Field(ge=0, le=180)
    shear: float = Field(ge=0, le=1)
    scale: float = Field(ge=0, le=1)
    elastic: float = Field(ge=0, le=0.5)
    fill: float | None = Field(ge=0, le=1)

    @property
    def moves(self) -> bool:
        return any((self.shift, self.rotation, self.shear, self.scale, self.elastic))


def _power_of_two(shards: int) -> int:
    if shards not in (1, 2, 4, 8, 16, 32, 64):
        raise ValueError
    return shards


class TrainParams(NetworkParams, OptimizerParams, AugmentationParams):
    """Section `train`."""

    engine: Literal["exact", "keras"]
    precision: Literal["float32", "mixed_bfloat16"]
    seed: int = Field(ge=0, le=2**32 - 1)
    epochs: int = Field(ge=1, le=1000)
    batch_size: int = Field(ge=1, le=8192)
    # Not a Literal, which takes True for 1.
    shards: Annotated[int, AfterValidator(_power_of_two)] = Field(
        description="1, 2, 4, 8, 16, 32 or 64"
    )
    class_weights: Literal["none", "balanced"]
    resume: bool = Field(description="true or false")
