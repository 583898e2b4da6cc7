"""What the figures in the documents were measured with, each as `python -m benchmarks.NAME`."""
