"""Break the pipeline on purpose, count it, and see that nothing is lost and that one line says why.

Each module has `tries(given, full, rng)`, which yields a `Fault` for each thing that it did.
"""
