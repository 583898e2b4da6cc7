"""What a person runs on the pipeline and its results, each as `python -m tools.NAME`."""
