"""Measure how many operations a second a product of two 2048 x 2048 matrices makes here.

    python -m benchmarks.matrix_product [float32 | bfloat16]

With two threads, as the training; the fastest of 20 products. Prints one JSON line: flops.
"""

import argparse
import json
import time

SIDE = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("precision", choices=("float32", "bfloat16"), nargs="?", default="float32")
    precision = parser.parse_args().precision

    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(2)
    matrix = tf.random.normal((SIDE, SIDE), dtype=precision)
    product = tf.function(lambda: tf.matmul(matrix, matrix))
    product()
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        product().numpy()
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"flops": 2 * SIDE**3 / min(seconds)}))


if __name__ == "__main__":
    main()
