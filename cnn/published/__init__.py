"""The published data sets: what they are, and where they come from."""
