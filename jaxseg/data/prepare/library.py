"""The packages of the extra `tfds`, imported when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType


def tfds() -> ModuleType:
    """tensorflow_datasets.

    Raises:
      ImportError: it is not installed.
    """
    return _module("tensorflow_datasets")


def array_record() -> ModuleType:
    """The module with ArrayRecordReader and ArrayRecordWriter.

    Raises:
      ImportError: it is not installed.
    """
    return _module("array_record.python.array_record_module")


def example_proto() -> type:
    """The message that a record is, tf.train.Example as tfds brings it along.

    Raises:
      ImportError: tensorflow_datasets is not installed.
    """
    return _module("tensorflow_datasets.proto").tf_example_pb2.Example


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Prepared data sets need the packages tensorflow-datasets and array_record ({error}). Install them with "
            "pip install 'jaxseg[tfds]' (in a checkout: pip install -e '.[tfds]'); TensorFlow is not needed."
        ) from None
