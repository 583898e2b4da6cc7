"""The model card: what it says, and how (Mitchell et al. 2019, Model Cards for Model Reporting)."""

from collections import Counter
from pathlib import PurePosixPath

from cnn.results.intervals import small_classes

MOST = 5  # rows of the card's tables
Row = dict[str, object]  # of predictions.csv


def wrong(rows: list[Row]) -> list[Row]:
    """Return the rows of misread images, the most confident first."""
    rows = [row for row in rows if row["actual"] != row["predicted"]]
    return sorted(rows, key=lambda row: (-float(row["probability"]), row["index"]))


def worst_pairs(rows: list[Row]) -> list[tuple[str, str, int]]:
    """Return (actual, predicted, count) of the pairs most often confused, the worst first."""
    counts = Counter((row["actual"], row["predicted"]) for row in wrong(rows))
    pairs = [(*pair, count) for pair, count in counts.items()]
    return sorted(pairs, key=lambda pair: (-pair[2], pair))[:MOST]


def model_text(environment: dict[str, str], train: dict[str, object]) -> str:
    """Return what the network is, and who trained it."""
    if environment["engine"] == "keras":
        return (
            f"A network of Keras' layers, trained from scratch by Keras {environment['keras']} and "
            f"TensorFlow {environment['tensorflow']} on {environment['cpu']}, GPUs: "
            f"{environment['GPUs']}"
        )
    convolutions, hidden = len(train["filters"]), len(train["dense_units"])
    return (
        f"{convolutions} convolution{'s' * (convolutions > 1)}, each with max pooling, {hidden} "
        f"hidden dense layer{'s' * (hidden != 1)} and a softmax, trained from scratch by the "
        "project's own kernels, which give the same bytes on every CPU"
    )


def as_yaml(value: object) -> str:
    """Return a parameter's value as params.yaml has it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def model_card(
    data: dict,
    environment: dict[str, str],
    train: dict[str, object],
    metrics: dict[str, float],
    scores: dict[str, float],
    per_class: dict[str, dict[str, float]],
    rows: list[Row],
    captions: dict[str, str],
    pictures: str,
) -> str:
    """Return the model card as Markdown.

    data, environment, metrics, scores, per_class : what the stages wrote into JSON files.
    train : section `train` of params.yaml.
    rows : the predictions, one per test image.
    captions : {name: caption} of the pictures; pictures : the folder that has them, from the card.
    """
    n, k = len(rows), len(per_class)
    weakest = min(per_class, key=lambda name: per_class[name]["f1"])
    pairs = "\n".join(
        f"| {actual} | {predicted} | {count} | {count / per_class[actual]['support']:.2%} |"
        for actual, predicted, count in worst_pairs(rows)
    )
    mistakes = "\n".join(
        f"| {row['index']} | {row['actual']} | {row['predicted']} | "
        f"{float(row['probability']):.1%} |"
        for row in wrong(rows)[:MOST]
    )
    parameters = "\n".join(f"| `{name}` | {as_yaml(value)} |" for name, value in train.items())
    gallery = "\n\n".join(
        f"![{name.replace('_', ' ')}]({pictures}/{name}.png)\n\n{caption}"
        for name, caption in captions.items()
    )
    channels = "grey" if data["channels"] == 1 else "colour"
    repeated = data["test_images_also_in_training"]
    leak = (
        f" **{repeated} of the test images are in training too**, to the bit." if repeated else ""
    )
    few = small_classes({name: numbers["support"] for name, numbers in per_class.items()})
    few = f"\n**Few test images.** {few}.\n" if few else ""
    doubted = scores["labels_in_doubt"]
    table = PurePosixPath(pictures).with_name("suspects.csv")
    licence = f" Licence of the data: {data['licence']}." if data["licence"] else ""
    limits = f" {data['limits']}" if data["limits"] else ""
    return f"""# A CNN that tells {k} classes of images apart: {data["title"]}

Written by `dvc repro`; do not edit. The figures are those of the run that wrote this file.

| on {n:,} test images | value |
| --- | --- |
| accuracy | {metrics["accuracy"]:.2%}, 95 % interval {metrics["accuracy_low"]:.2%} to {
        metrics["accuracy_high"]:.2%} (Wilson) |
| balanced accuracy, the mean of the classes' recalls | {
        metrics["balanced_accuracy"]:.2%}, 95 % interval {metrics["balanced_low"]:.2%} to {
        metrics["balanced_high"]:.2%} (Price and Bonett) |
| images read wrongly | {metrics["errors"]} |
| log loss | {metrics["log_loss"]:.4f} nats |
| F1, mean of the classes | {scores["macro_f1"]:.4f} |
| ROC AUC, mean of each class against the rest | {scores["macro_roc_auc"]:.5f} |
| expected calibration error | {scores["calibration_error"]:.4f} |

The intervals say what another {n:,} images of the same kind could give; another seed gives another
model.
{few}
**Data.** {data["description"]} {data["height"]} x {data["width"]} pixels, {channels}; {
        k
    } classes. {data["train_images"]:,} images for training, {
        data["validation_images"]:,} for validation ({data["validation"]}), {
        data["test_images"]:,} for the test ({data["test"]}).{leak}{licence}

**Model.** {model_text(environment, train)}, with the parameters [below](#parameters).

**Intended use.** Learning, teaching and comparing ways of training, on images like those above.

**Limits.** It knows nothing but these {k} classes: anything else is taken for one of them.{limits}
Not for decisions that matter to someone without a person who looks.

## Where it fails

The weakest class is **{weakest}** (F1 {per_class[weakest]["f1"]:.4f}). Most often confused:

| actual | read as | images | of that class |
| --- | --- | ---: | ---: |
{pairs}

Most confident mistakes (all rows are in [predictions.csv](predictions.csv)):

| test image | actual | read as | confidence |
| ---: | --- | --- | ---: |
{mistakes}

**{doubted} of the {n + data["validation_images"]:,} labels of test and validation images are in
doubt**: the model, which learned from other images, is sure of another class (confident
learning). The most doubtful are in [suspects.csv]({table}), and pictured below: look whether the
label is wrong, or the model.

## Pictures

{gallery}

## Parameters

| of the training | value |
| --- | --- |
{parameters}
"""
