"""Move, turn, slant and resize training images, each by amounts of its own, inside the graph."""

from __future__ import annotations

import math

from pydantic import Field

from cnn.params import Section
from cnn.runtime import tf


class AugmentationParams(Section):
    """What training does to its images; the part of section `train` that `augment` takes."""

    shift: float = Field(ge=0, le=14)
    rotation: float = Field(ge=0, le=180)
    shear: float = Field(ge=0, le=1)
    scale: float = Field(ge=0, le=1)
    fill: float = Field(ge=0, le=1)


def augment(images: tf.Tensor, key: tf.Tensor, params: AugmentationParams) -> tf.Tensor:
    """Return the images moved, turned, slanted and resized at random, in one interpolation.

    The kernel asks, for each pixel of the result, where in the source it lies:
    source = A (result - centre) + centre + shift, with A a turn times a slant and two zooms. About
    the centre, since about the corner, the kernel's own origin, a turn would carry the image away.
    One affine map is one bilinear blur; one move after the other would be four.

    Parameters
    ----------
    images : float32 (n, height, width, channels).
    key : int64 (2,). The moves depend on nothing else, so a run can be repeated to the bit.
    params :
        shift : pixels, most in each direction.
        rotation : degrees, most in each direction.
        shear : most slant either way: columns a line moves for each row, as italics do.
        scale : most growth as a share, of width and of height, each for itself; even in its
            logarithm, so that shrinking is as likely.
        fill : value in [0, 1] of what comes in from outside.
    """
    if not any((params.shift, params.rotation, params.shear, params.scale)):
        return images
    n, (height, width) = tf.shape(images)[0], images.shape[1:3]
    draws = tf.random.stateless_uniform([6, n], key, -1.0, 1.0)
    angle, slant, wide, high, right, down = tf.unstack(draws)
    angle, slant = angle * math.radians(params.rotation), slant * params.shear
    wide, high = (tf.exp(zoom * math.log1p(params.scale)) for zoom in (wide, high))
    cos, sin, zero = tf.cos(angle), tf.sin(angle), tf.zeros_like(angle)
    # A = turn [[cos, -sin], [sin, cos]] times [[wide, slant], [0, high]].
    xx, xy = wide * cos, slant * cos - high * sin
    yx, yy = wide * sin, slant * sin + high * cos
    x, y = (width - 1) / 2, (height - 1) / 2
    # The 3 x 3 matrix of each image, row by row, without the 1 in its corner.
    rows = (
        [xx, xy, x - xx * x - xy * y + params.shift * right]
        + [yx, yy, y - yx * x - yy * y + params.shift * down]
        + [zero, zero]
    )
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(rows, axis=1),
        output_shape=[height, width],
        fill_value=params.fill,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
