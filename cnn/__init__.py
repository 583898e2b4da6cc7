"""The library that the five stages are written with. It imports no stage and no tool."""
