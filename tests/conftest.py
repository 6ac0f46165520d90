"""Fixtures for all tests."""

from __future__ import annotations

import os
import pathlib

import jaxtyping
import pytest
from absl import flags

import tests.checker

# Shapes and dtypes in signatures are checked in the tests, and only there; the hook must be in place before they are
# imported. Not in jaxseg.structures: as pytrees, those also hold shardings, axes and the like.
CHECKED = ("ops", "losses", "modeling", "methods", "data")
jaxtyping.install_import_hook(
    [f"jaxseg.{package}" for package in CHECKED], f"{tests.checker.__name__}.check"
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation:DeprecationWarning"
    )  # pycocotools' own, at every mask
    # grain reads absl's flags, which nobody parses under pytest.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
    """The folder of real data sets that the environment variable JAXSEG_TEST_DATA names."""
    folder = os.environ.get("JAXSEG_TEST_DATA")
    if not folder:
        pytest.skip("JAXSEG_TEST_DATA does not name a folder of test data sets")
    return pathlib.Path(folder)
