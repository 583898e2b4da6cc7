"""The same training with RepDL, whose bytes are the same on every device; in .venv-torch.

    .venv-torch/bin/python benchmarks/repdl_training.py [--steps 100] [--seed 42]

RepDL (Xie et al. 2025, arXiv 2510.09180) fixes the order of every sum. Its own conversion makes its
layers of those of pytorch_training.py; the pooling and ReLU stay PyTorch's, as in its example of
MNIST. Its loss, its Adam, its CPU backend on two threads; the same initial weights, learning rate,
batches of 64. Prints one JSON line: milliseconds a step, after two steps to warm up; the loss of
the first step and of the last; a hash of the weights.
"""

import argparse
import json
import time

import numpy as np
import repdl
import torch
from pytorch_training import BATCH, PEAK, learning_rate, network

WARM = 2  # steps; nothing is compiled, and more would only take longer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    torch.set_num_threads(2)  # of RepDL's loops too: they share PyTorch's OpenMP
    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(True)

    steps = arguments.steps + WARM
    with np.load("data/prepared/train.npz") as arrays:
        images, labels = (
            torch.from_numpy(arrays[name][: steps * BATCH]) for name in ("images", "labels")
        )
    images = images.permute(0, 3, 1, 2).contiguous()  # n, c, h, w: the order of its loops
    model = repdl.from_torch_module(network().to(memory_format=torch.contiguous_format))
    optimizer = repdl.optim.Adam(model.parameters(), lr=PEAK, eps=1e-7)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    losses = []
    for step, batch in enumerate(torch.randperm(len(images)).split(BATCH)):
        if step == WARM:
            began = time.perf_counter()
        loss = repdl.nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    result = {
        "milliseconds": 1000 * (time.perf_counter() - began) / arguments.steps,
        "steps": arguments.steps,
        "losses": [losses[0], losses[-1]],
        "weights": repdl.utils.get_hash(model),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
