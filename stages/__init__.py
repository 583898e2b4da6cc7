"""The pipeline's stages: what `dvc repro` runs, each as `python -m stages.NAME`."""
