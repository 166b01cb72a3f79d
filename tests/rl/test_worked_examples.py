"""The worked examples in docstrings of central types compute what they say."""

import doctest
from types import ModuleType

import pytest

from redraft.rl.objective import terms
from redraft.rl.views import view


@pytest.mark.parametrize(("module", "name"), [(view, "View"), (terms, "Terms")], ids=["View", "Terms"])
def test_the_example_in_the_docstring_is_true(module: ModuleType, name: str):
    (example,) = [found for found in doctest.DocTestFinder().find(module) if found.examples]
    assert example.name.endswith(f".{name}")
    assert doctest.DocTestRunner().run(example).failed == 0
