"""Shape checks on every annotated function, and where the shared reference data is."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before any test imports them: tensor shapes in signatures are checked by beartype, under pytest only.
install_import_hook(["redraft"], "typecheck.checker")

ROOT = Path(__file__).resolve().parents[1]


def _shared(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT / ".." / "shared" / default))
    if not folder.is_dir():
        # CI has the reference data beside the checkout: there a witness must not go missing quietly.
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"{folder} is not there; set {variable} to the reference folder")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return _shared("REDRAFT_DATA", "data")


@pytest.fixture(scope="session")
def golden() -> Path:
    return _shared("REDRAFT_GOLDEN", "golden") / "llada2_tiny"


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    return _shared("REDRAFT_CASES", "cases")
