"""Say whether one model, or one recipe, is better than another: `python -m tools.compare`."""
