"""How far a share could be from what was counted; apart, since a tool needs no pandas for it."""

import math

FEW_IMAGES = 20  # test images of a class, below which its own numbers say little


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927), as SciPy computes it."""
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(confidence, method="wilson")
    return interval.low, interval.high


def mean_share(right: list[int], n: list[int]) -> tuple[float, float, float]:
    """Return the mean of k independent shares and its 95 % interval: of recalls, balanced accuracy.

    The interval is that of Price and Bonett 2004 (An improved confidence interval for a linear
    function of binomial proportions, Computational Statistics & Data Analysis 45): Wald's, of
    shares to each of which 2 / k successes and as many failures are added. A bootstrap by class
    would say that a class of 6 images, all read correctly, is certain: for 712 and 6 images of
    recall 0.99 and 0.95 its interval holds the mean in 29 of 100 samples, this one in 99.

    right, n : of each class the images read correctly, and all, at least one.
    """
    k = len(n)
    more, normal = 2 / k, 1.959963984540054
    totals = [images + 2 * more for images in n]
    shares = [(count + more) / total for count, total in zip(right, totals, strict=True)]
    variance = math.fsum(p * (1 - p) / total for p, total in zip(shares, totals, strict=True))
    middle, half = math.fsum(shares) / k, normal * math.sqrt(variance) / k
    mean = math.fsum(count / images for count, images in zip(right, n, strict=True)) / k
    return mean, max(0.0, middle - half), min(1.0, middle + half)


def small_classes(images: dict[str, int]) -> str:
    """Say which classes have too few test images for numbers of their own, "" if none has.

    images : {class: how many it has}.
    """
    small = sorted((name for name in images if images[name] < FEW_IMAGES), key=images.get)
    if not small:
        return ""
    named = ", ".join(f"{name} {images[name]}" for name in small[:3])
    more = f" and {len(small) - 3} more" if len(small) > 3 else ""
    return (
        f"{len(small)} of {len(images)} classes have fewer than {FEW_IMAGES} test images "
        f"({named}{more}): what is measured of such a class alone says little"
    )
