"""The same training in PyTorch, as its users write it; in an environment of its own.

    .venv-torch/bin/python benchmarks/pytorch_training.py [--seed 42]

Same seven layers, initial weights as Keras draws them (Glorot uniform, zero bias), Adam, warm-up
and cosine, 5 epochs of 64, a shuffled gather from memory, threads as it likes. channels_last is
what makes it fast on a CPU. Prints one JSON line: seconds of training, test accuracy.
"""

import argparse
import json
import math
import time

import numpy as np
import torch
from torch import nn

EPOCHS, BATCH, PEAK, WARMUP, FINAL = 5, 64, 0.002, 0.2, 0.05


def network() -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    for layer in layers:
        if hasattr(layer, "weight"):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return layers.to(memory_format=torch.channels_last)


def learning_rate(step: int, steps: int) -> float:
    """Return the share of the peak: linear warm-up, then half a cosine."""
    warmup = round(steps * WARMUP)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return FINAL + (1 - FINAL) * (1 + math.cos(math.pi * done)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)

    def load(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        with np.load(f"data/prepared/{name}.npz") as arrays:
            images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2)
            return images.contiguous(memory_format=torch.channels_last), torch.from_numpy(
                arrays["labels"]
            )

    images, labels = load("train")
    model, loss_of = network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=PEAK, eps=1e-7, fused=True)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))

    def train() -> None:
        model.train()
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = loss_of(model(images[batch]), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()

    def accuracy(name: str) -> float:
        images, labels = load(name)
        model.eval()
        with torch.inference_mode():
            right = sum(
                (model(part).argmax(1) == actual).sum().item()
                for part, actual in zip(images.split(500), labels.split(500), strict=True)
            )
        return right / len(labels)

    began = time.perf_counter()
    for _ in range(EPOCHS):
        train()
        accuracy("validation")
    seconds = time.perf_counter() - began
    print(json.dumps({"training": seconds, "accuracy": accuracy("test")}))


if __name__ == "__main__":
    main()
