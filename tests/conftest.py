"""Tiers, shape checks, and where the shared reference data is; docs/testing.md says how to run which tier."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Off by default, because the checks take half of the CPU time of a tensor test; CI runs the quick tests with them.
if os.environ.get("REDRAFT_SHAPES"):
    install_import_hook(["redraft", "benchmarks"], "typecheck.checker")  # before any test imports redraft

# nohup, setsid and a script's background jobs hand down ignored signals, and children of a test would inherit them.
DEFAULT_SIGNALS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGTERM: signal.SIG_DFL,
}

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes, and put it first: at the end of a run, short tests keep all workers busy.

    Files that import torch, and the loop, which runs all parts together, are those in which shapes can be wrong.
    """
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "system"):
            item.add_marker("system")
        if hasattr(getattr(item, "module", None), "torch") or item.path.name == "test_loop.py":
            item.add_marker("tensors")
    items.sort(key=lambda item: item.get_closest_marker("system") is None)


def _shared(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT / ".." / "shared" / default))
    if not folder.is_dir():
        # CI has the reference data beside the checkout: there a witness must not go missing quietly.
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"{folder} is not there; set {variable} to the reference folder")
    return folder


@pytest.fixture
def signals_of_a_terminal() -> Iterator[None]:
    """SIGINT, SIGHUP and SIGTERM end this process and its children, as in a terminal."""
    before = {number: signal.signal(number, handler) for number, handler in DEFAULT_SIGNALS.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return _shared("REDRAFT_DATA", "data")


@pytest.fixture(scope="session")
def golden() -> Path:
    return _shared("REDRAFT_GOLDEN", "golden") / "llada2_tiny"


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    return _shared("REDRAFT_CASES", "cases")
