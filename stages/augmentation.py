"""Move, turn, slant and resize training images, each by amounts of its own, inside the graph."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


def augment(
    images: "tf.Tensor",
    key: "tf.Tensor",
    shift: float,
    rotation: float,
    shear: float,
    scale: float,
) -> "tf.Tensor":
    """Return the images moved, turned, slanted and resized at random, in one interpolation.

    The kernel asks, for each pixel of the result, where in the source it lies:
    source = A (result - centre) + centre + shift, with A a turn times a slant and two zooms. About
    the centre, since about the corner, the kernel's own origin, a turn would carry the digit away.
    One affine map is one bilinear blur; one move after the other would be four.

    Parameters
    ----------
    images : float32 (n, height, width, 1), 0 is paper; what comes in from outside is paper.
    key : int64 (2,). The moves depend on nothing else, so a run can be repeated to the bit.
    shift : pixels, most in each direction.
    rotation : degrees, most in each direction.
    shear : most slant either way: columns a line moves for each row, as italics do.
    scale : most growth as a share, of width and of height, each for itself; even in its logarithm,
        so that shrinking is as likely.
    """
    import tensorflow as tf

    n, (height, width) = tf.shape(images)[0], images.shape[1:3]
    draws = tf.random.stateless_uniform([6, n], key, -1.0, 1.0)
    angle, slant, wide, high, right, down = tf.unstack(draws)
    angle, slant = angle * math.radians(rotation), slant * shear
    wide, high = tf.exp(wide * math.log1p(scale)), tf.exp(high * math.log1p(scale))
    cos, sin, zero = tf.cos(angle), tf.sin(angle), tf.zeros_like(angle)
    # A = turn [[cos, -sin], [sin, cos]] times [[wide, slant], [0, high]].
    xx, xy = wide * cos, slant * cos - high * sin
    yx, yy = wide * sin, slant * sin + high * cos
    x, y = (width - 1) / 2, (height - 1) / 2
    # The 3 x 3 matrix of each image, row by row, without the 1 in its corner.
    rows = (
        [xx, xy, x - xx * x - xy * y + shift * right]
        + [yx, yy, y - yx * x - yy * y + shift * down]
        + [zero, zero]
    )
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(rows, axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
