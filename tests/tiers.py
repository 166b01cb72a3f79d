"""Tests of whole data sets that the default run takes a sample of."""

import pytest


def every(step: int) -> pytest.MarkDecorator:
    """Give a test the argument `part`: a slice that takes each `step`-th row, and for the witness tier all of them."""
    sample = pytest.param(slice(None, None, step), id=f"one in {step}")
    whole = pytest.param(slice(None), marks=pytest.mark.witness, id="all")
    return pytest.mark.parametrize("part", [sample, whole])
