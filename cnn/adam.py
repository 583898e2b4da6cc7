"""Adam's step on the optimizer's own state, with one kernel per variable."""

from __future__ import annotations

from cnn.runtime import keras, tf


def is_plain_adam(network: keras.Model) -> bool:
    """Tell whether the optimizer is Adam as `apply_adam` knows it: no clipping and the like."""
    optimizer, variables = network.optimizer, network.trainable_variables
    settings = "clipnorm clipvalue global_clipnorm gradient_accumulation_steps loss_scale_factor"
    return (
        type(optimizer) is keras.optimizers.Adam
        and not optimizer.amsgrad
        and all(getattr(optimizer, name) is None for name in settings.split())
        and not (optimizer.use_ema and optimizer.ema_overwrite_frequency)
        and not getattr(optimizer, "_exclude_from_weight_decay", None)
        and not getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
        and all(
            variable.constraint is None
            and variable.dtype == "float32"
            and not variable.overwrite_with_gradient
            for variable in variables
        )
    )


def apply_adam(
    optimizer: keras.optimizers.Adam, gradients: list[tf.Tensor], variables: list[keras.Variable]
) -> None:
    """Do what `optimizer.apply(gradients, variables)` does, with one kernel per variable.

    Keras composes Adam's step (Kingma and Ba 2015, algorithm 1) of a dozen operations, each a pass
    over all weights: an eighth of the training time. The state stays Keras' own, so the saved model
    can be trained further.
    """
    if not variables:  # all layers are frozen: Keras takes no step then
        return
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
