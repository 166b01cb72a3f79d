"""Small files of a policy folder that travel with its weights: generation_config.json, and code that configs name."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from redraft.rl.models.generation import GENERATION_FILE

_RELATIVE_IMPORT = re.compile(r"^\s*(?:from\s+\.(\w+)\s+import\b|import\s+\.(\w+)\s*$)", re.MULTILINE)


def read_companions(folder: Path, *auto_maps: object) -> dict[str, bytes]:
    """Read the files, by name: kept in memory, because the folder may be gone when a checkpoint is written.

    Args:
        folder: A policy folder.
        auto_maps: `auto_map` of its configs: what transformers imports under `trust_remote_code`.
    """
    found = {GENERATION_FILE: (folder / GENERATION_FILE).read_bytes()} if (folder / GENERATION_FILE).is_file() else {}
    wanted = [module for auto_map in auto_maps for name in _names(auto_map) for module in _module(name)]
    while wanted:
        file = f"{wanted.pop()}.py"
        if file not in found and (folder / file).is_file():
            found[file] = (folder / file).read_bytes()
            wanted += _imports(found[file])
    return found


def present_auto_map(auto_map: object, companions: Mapping[str, bytes]) -> dict[str, Any]:
    """Keep the entries of an `auto_map` whose code is there, down to its imports; hub repositories count as there."""
    entries = auto_map if isinstance(auto_map, dict) else {}
    return {
        kind: value
        for kind, value in entries.items()
        if all(_is_present(module, companions) for name in _names({kind: value}) for module in _module(name))
    }


def _is_present(module: str, companions: Mapping[str, bytes], above: frozenset[str] = frozenset()) -> bool:
    content = companions.get(f"{module}.py")
    return content is not None and all(
        _is_present(used, companions, above | {module}) for used in _imports(content) if used not in above | {module}
    )


def _names(auto_map: object) -> Iterator[str]:
    """Yield class references; those of tokenizers are pairs, of which one may be missing."""
    for value in auto_map.values() if isinstance(auto_map, dict) else ():
        yield from (name for name in (value if isinstance(value, list | tuple) else [value]) if isinstance(name, str))


def _module(name: str) -> list[str]:
    """Return the module of `module.Class`; none for `owner/repository--module.Class`, which is not in the folder."""
    return [] if "--" in name else [name.partition(".")[0]]


def _imports(content: bytes) -> list[str]:
    found = _RELATIVE_IMPORT.findall(content.decode("utf-8", errors="replace"))
    return [one or other for one, other in found]
