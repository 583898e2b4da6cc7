"""Train on several machines, to the same bytes: each computes a part of every step."""
