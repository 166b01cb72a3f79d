"""Fingerprint what a run depends on and its checkpoints do not hold, and compare the fingerprints on a resume."""

import ast
import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from redraft.rewards.reward import is_file
from redraft.rewards.term import RewardTerm
from redraft.rl.config.schema import RunConfig
from redraft.rl.data.load import DataError, rows_fingerprint
from redraft.rl.data.tasks import Row
from redraft.rl.run_folder.checkpoint import read_state
from redraft.rl.run_folder.recorder import environment

DATA = "data.json"  # of a checkpoint
POLICY_FILES = {".json", ".safetensors", ".model", ".txt", ".jinja"}  # weights, config, tokenizer
NAMES = {
    "fingerprint": "training rows",
    "held_out": "evaluation rows",
    "policy": "first policy",
    "rewards": "reward files",
    "versions": "versions",
}
"""What the keys of `DATA` are called."""


def run_inputs(config: RunConfig, train: Sequence[Row], held_out: Sequence[Row], policy: str) -> dict[str, Any]:
    """Fingerprint everything that a run depends on beside its recipe and its state.

    Args:
        config: The recipe.
        train: Rows to learn from, without those in quarantine.
        held_out: Evaluation rows.
        policy: Folder of the first policy; also the reference of a KL term, and the run's config and tokenizer.
    """
    installed = environment()
    return {
        "fingerprint": rows_fingerprint(train),
        "held_out": rows_fingerprint(held_out),
        "policy": policy_fingerprint(policy),
        "rewards": _digests(reward_files(config.rewards)),
        "versions": {"python": installed["python"], **installed["versions"]},
    }


def check_inputs(checkpoint: Path, now: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """Compare a checkpoint's fingerprints with those of today.

    Other rows or another first policy make another experiment and are refused. Other reward files do too, but users
    repair rewards in the middle of a run, so these cause a warning only, as do other versions of packages.

    Args:
        checkpoint: To resume from.
        now: Fingerprints of today, of `run_inputs`.
        warn: Called with one line per difference that is allowed.

    Raises:
        DataError: Rows or the first policy changed.
    """
    saved = read_state(checkpoint, DATA)
    unknown = [NAMES[key] for key in now if key not in saved]
    if unknown:
        warn(f"{checkpoint} is of an earlier version, without fingerprints of {', '.join(unknown)}: not compared")
    for key in ("fingerprint", "held_out"):
        if saved.get(key, now[key]) != now[key]:
            told = f"the {NAMES[key]} changed since ({saved[key]}, now {now[key]})"
            raise DataError(f"{checkpoint}: {told}; a resume would mix them: put the old ones back, or start anew")
    if changed := _changed(saved.get("policy", now["policy"]), now["policy"]):
        raise DataError(
            f"{checkpoint}: the first policy changed since ({', '.join(changed)}), which the run's tokenizer, shape and"
            " KL reference come from; put the old files back, or start anew in another output_dir"
        )
    if changed := _changed(saved.get("rewards", now["rewards"]), now["rewards"]):
        warn(f"reward files changed since {checkpoint.name}: {', '.join(changed)}; the rest is scored by the new ones")
    was = saved.get("versions", now["versions"])
    if changed := _changed(was, now["versions"]):
        told = ", ".join(f"{name} was {was.get(name)}, now {now['versions'].get(name)}" for name in changed)
        warn(f"versions changed since {checkpoint.name} ({told}): the run goes on, but perhaps not bit for bit")


def policy_fingerprint(folder: str | Path) -> dict[str, str]:
    """Digest the weights, config and tokenizer files of a policy folder, by name."""
    files = [path for path in sorted(Path(folder).iterdir()) if path.suffix in POLICY_FILES and path.is_file()]
    return {Path(path).name: digest for path, digest in _digests(files).items()}


def reward_files(terms: Sequence[RewardTerm]) -> list[Path]:
    """Find the files that the rewards of a recipe are made of.

    These are the modules of functions, what they import from their own folder, and files that arguments name. Redraft's
    own rewards are left out: its version stands for them.
    """
    found: dict[Path, None] = {}
    for term in terms:
        for word in (term.fn, *_strings(term.kwargs)):
            module = _module_file(word)
            if module is not None:
                _add_module(module, found)
            elif word is not term.fn and _names_file(word):
                found[Path(word).expanduser().resolve()] = None
    return sorted(found)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)


def _names_file(word: str) -> bool:
    try:
        return Path(word).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # text that can be no path
        return False


def _module_file(fn: str) -> Path | None:
    """Find the file behind `path/file.py:function` or `pkg.module:function`."""
    place = fn.rpartition(":")[0]
    if place and is_file(fn):
        return Path(place).expanduser().resolve() if _names_file(place) else None
    if not re.fullmatch(r"[\w.]+:[A-Za-z_][\w.]*", fn):
        return None
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _add_module(path: Path, found: dict[Path, None]) -> None:
    """Add a file to `found`, and the modules that it imports from its own folder."""
    if path in found:
        return
    found[path] = None
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module or ''}.{alias.name}".lstrip(".") for alias in node.names)}
    for name in sorted(names - {""}):
        place = path.parent / Path(*name.split("."))
        for candidate in (place.with_suffix(".py"), place / "__init__.py"):
            if candidate.is_file():
                _add_module(candidate.resolve(), found)


def _digests(files: Sequence[Path]) -> dict[str, str]:
    with ThreadPoolExecutor(8) as pool:  # hashing releases the GIL, so shards are read in parallel
        return dict(zip(map(str, files), pool.map(_digest, files), strict=True))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _changed(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [name for name in sorted(saved.keys() | now.keys()) if saved.get(name) != now.get(name)]
