"""The sandbox in which attacks run."""

from collections.abc import Iterator

import pytest

from redraft.rewards.sandbox.program import Sandbox
from sandboxes import LAYERS, usable


@pytest.fixture(scope="module", params=LAYERS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A tested slot of each layer that works here."""
    layer = usable(request.param)
    yield layer
    layer.close()
