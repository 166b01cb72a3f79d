"""Keys that `redraft plan` reads and a run does not honour yet. A run refuses them: none is ignored silently."""

from collections.abc import Mapping
from typing import Any

from redraft.rl.config.schema import RunConfig

RUNS_TODAY: Mapping[str, tuple[Any, ...]] = {}
"""Values that a run honours, by key, of keys with others that it does not. Today a run honours all keys."""


def unbuilt(config: RunConfig) -> list[str]:
    """Describe every setting that a run would not honour, one sentence each; none where a run does all of them."""
    found = []
    for key, values in RUNS_TODAY.items():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        if value not in values:
            written = key if values == (None,) else f"{key}={value}"
            use = " or ".join("null" if one is None else str(one) for one in values)
            found.append(f"{written}: a run does not do this yet, only redraft plan reads it; use {use}")
    return found
