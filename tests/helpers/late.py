"""Keras and the module that imports it, imported when a test first uses one: it takes seconds."""

from importlib import import_module

from cnn.model import keras_runtime


class LazyModule:
    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        if attribute.startswith("__"):  # pytest looks for some in all that a module holds
            raise AttributeError(attribute)
        keras_runtime.start_keras(seed=42)
        module = import_module(self._name)
        vars(self).update(vars(module))
        return getattr(module, attribute)


keras, keras_engine = LazyModule("keras"), LazyModule("cnn.training.keras_engine")
