"""Tests that a script defines for pytest or unittest to find and run: ``test_*``, ``Test*`` and subclasses of TestCase.

Nothing that needs a plugin is run. A parametrized function is run for all its values; one that asks for a fixture makes
the row uncheckable.
"""

import inspect
import itertools
import types
import unittest
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from redraft.rewards.library.code.session import UncheckableError

Test = Callable[[], object]


def collected_tests(namespace: Mapping[str, Any]) -> list[Test]:
    """Collect the tests in an executed script, in its order; each raises where the candidate is wrong.

    Raises:
        UncheckableError: One of them needs a fixture.
    """
    return [test for name, value in list(namespace.items()) for test in _tests_of(name, value)]


def _tests_of(name: str, value: Any) -> Iterator[Test]:
    if isinstance(value, types.FunctionType) and name.startswith("test"):
        yield from _calls(name, value)
    elif isinstance(value, type) and issubclass(value, unittest.TestCase):
        yield unittest.defaultTestLoader.loadTestsFromTestCase(value).debug
    elif isinstance(value, type) and name.startswith("Test"):
        for inner in [inner for inner in vars(value) if inner.startswith("test")]:
            for call in _calls(f"{name}.{inner}", getattr(value(), inner)):
                yield partial(_on_fresh, call)


def _on_fresh(call: partial[object]) -> None:
    """Run a bound method, with the set-up that its class asks for, on an instance of its own."""
    instance = type(call.func.__self__)()  # pyright: ignore[reportFunctionMemberAccess]
    for prepare in ("setup_class", "setup_method"):
        getattr(instance, prepare, lambda *_: None)()
    getattr(instance, call.func.__name__)(**call.keywords)


def _calls(name: str, function: Callable[..., object]) -> Iterator[partial[object]]:
    """Yield one call for each combination of the values that a function is parametrized with."""
    marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
    choices = [[_named(mark.args[0], values) for values in mark.args[1]] for mark in marks]
    needed = {p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty}
    for chosen in itertools.product(*choices):
        arguments = {key: value for part in chosen for key, value in part.items()}
        if missing := needed - arguments.keys():
            raise UncheckableError(f"{name} needs fixtures: {', '.join(sorted(missing))}")
        yield partial(function, **arguments)


def _named(names: Any, values: Any) -> dict[str, Any]:
    """Name the arguments of one set of values, as pytest's parametrize does."""
    listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    values = getattr(values, "values", values) if not isinstance(values, dict) else values  # of pytest.param
    alone = len(listed) == 1 and not (isinstance(names, list | tuple) and isinstance(values, list | tuple))
    return {listed[0]: values} if alone else dict(zip(listed, values, strict=True))
