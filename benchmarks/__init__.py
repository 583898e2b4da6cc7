"""What the figures in the README were measured with, each as `python -m benchmarks.NAME`."""
