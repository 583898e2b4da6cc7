#!/usr/bin/env bash
# A NaN in a layer's weights vanishes behind a ReLU once TensorFlow compiles the graph.
#
# tensorflow 2.21.0, keras 3.15.1, Linux x86-64, CPU with oneDNN on (its default where there is
# AVX-512 VNNI; set here). Called eagerly, a convolution with one NaN in its kernel gives NaN for
# every image. The same layer in a tf.function, as Model.predict, evaluate and fit call it, gives
# finite numbers, since the ReLU that is fused into the convolution is a maximum with 0 that drops
# the NaN: predictions, accuracy and loss look healthy and are another model's. Only the weights
# themselves tell. So whoever reads a model or watches a training must check weights, not outputs.
#
# Output seen:
#   eager: 64 of 64 values of the broken filter are NaN
#   compiled: 0 of 64 values of the broken filter are NaN
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1
cat > "$folder/program.py" <<'PYTHON'
import keras
import numpy as np
import tensorflow as tf

layer = keras.layers.Conv2D(8, 3, activation="relu")
layer.build((None, 10, 10, 1))
kernel, bias = layer.get_weights()
kernel[1, 1, 0, 5] = np.nan
layer.set_weights([kernel, bias])
images = tf.constant(np.random.default_rng(0).random((1, 10, 10, 1), np.float32))
for name, function in (("eager", layer), ("compiled", tf.function(layer))):
    values = np.asarray(function(images))[..., 5]
    print(f"{name}: {np.isnan(values).sum()} of {values.size} values of the broken filter are NaN")
PYTHON
seen=$(TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=1 CUDA_VISIBLE_DEVICES=-1 \
  "$folder/venv/bin/python" "$folder/program.py" 2>/dev/null)
echo "$seen"
[ "$seen" == "eager: 64 of 64 values of the broken filter are NaN
compiled: 0 of 64 values of the broken filter are NaN" ]
