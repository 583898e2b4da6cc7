"""The script that the pipeline replaces, written as one writes it: Model.fit, no care for bytes.

    python -m benchmarks.plain_keras data/raw/published.npz FOLDER [--seed 42]

Load, scale, the same seven layers, Adam at 0.001, 5 epochs of 64 with a tenth for validation, save,
and the five pictures. Prints one JSON line: seconds of training and in all, test accuracy.
"""

import argparse
import json
import time
from pathlib import Path

STARTED = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd
    import seaborn as sns
    from sklearn.metrics import auc, classification_report, confusion_matrix, roc_curve
    from tensorflow import keras

    keras.utils.set_random_seed(arguments.seed)
    raw = np.load(arguments.raw)
    x_train, x_test = (
        raw[name].reshape(-1, 28, 28, 1).astype("float32") / 255 for name in ("x_train", "x_test")
    )
    y_train, y_test = raw["y_train"], raw["y_test"]
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax", dtype="float32"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    began = time.perf_counter()
    history = model.fit(
        x_train, y_train, epochs=5, batch_size=64, validation_split=0.1, verbose=0
    ).history
    training = time.perf_counter() - began
    model.save(arguments.folder / "cnn.keras")
    probabilities = model.predict(x_test, verbose=0)
    predicted = probabilities.argmax(axis=1)

    def keep(name: str) -> None:
        plt.savefig(arguments.folder / f"{name}.png")
        plt.close()

    _, axes = plt.subplots(1, 2, figsize=(14, 5))
    for ax, metric in zip(axes, ("accuracy", "loss"), strict=True):
        ax.plot(history[metric], label="training")
        ax.plot(history[f"val_{metric}"], label="validation")
        ax.set_title(metric)
        ax.legend()
    keep("curves")
    _, axes = plt.subplots(2, 5, figsize=(12, 6))
    for ax, image, guess, truth in zip(axes.flat, x_test, predicted, y_test, strict=False):
        ax.imshow(image[..., 0], cmap="gray")
        ax.set_title(f"pred {guess}, true {truth}")
        ax.axis("off")
    keep("samples")
    report = pd.DataFrame(classification_report(y_test, predicted, output_dict=True)).T
    sns.heatmap(report.iloc[:10, :3], annot=True)
    keep("report")
    plt.figure(figsize=(10, 8))
    sns.heatmap(confusion_matrix(y_test, predicted), annot=True, fmt="d")
    keep("confusion")
    for digit in range(10):
        fpr, tpr, _ = roc_curve(y_test == digit, probabilities[:, digit])
        plt.plot(fpr, tpr, label=f"{digit}, AUC {auc(fpr, tpr):.2f}")
    plt.legend()
    keep("roc")
    accuracy = float((predicted == y_test).mean())
    seconds = time.perf_counter() - STARTED
    result = {"training": training, "whole": seconds, "accuracy": accuracy}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
