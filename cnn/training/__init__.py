"""How a model is trained, by the kernels or by Keras, and goes on after a kill."""
