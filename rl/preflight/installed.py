"""Which packages are installed, in which versions, and whether they are those that this version was made for."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from packaging.requirements import Requirement

Condition = Literal["ok", "absent", "warning", "missing"]
EXTRAS = ("vllm", "judge", "trackers")
_DISTRIBUTION = "redraft"


@dataclass(frozen=True)
class Diagnosis:
    """One thing that `redraft doctor` looked at.

    Attributes:
        name: What was looked at.
        state: ok; absent (optional, and not there); warning (something works with less, or not at all); missing (the
            recipe needs it).
        text: What was found, on one line.
        remedy: What to do; empty where all is well.
    """

    name: str
    state: Condition
    text: str
    remedy: str = ""


def find_packages(needed: frozenset[str], lacking: Condition) -> Iterator[Diagnosis]:
    """Compare the installed packages with those that our own distribution asks for.

    Args:
        needed: Optional packages that the recipe needs.
        lacking: Condition of a required package that is not there.
    """
    try:
        asked = [Requirement(text) for text in metadata.requires(_DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        yield Diagnosis(_DISTRIBUTION, "warning", "is imported from a folder and not installed", "pip install -e .")
        return
    yield Diagnosis(_DISTRIBUTION, "ok", metadata.version(_DISTRIBUTION))
    for one in asked:
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            yield _compared(one, lacking, f"pip install '{_plain(one)}'")
    for extra in EXTRAS:
        for one in asked:
            if _is_of(one, extra):
                state: Condition = "missing" if one.name in needed else "absent"
                yield _compared(one, state, f"pip install '{_DISTRIBUTION}[{extra}]'")


def _is_of(asked: Requirement, extra: str) -> bool:
    """Tell whether a package is asked for with this extra only."""
    marker = asked.marker
    return marker is not None and not marker.evaluate({"extra": ""}) and marker.evaluate({"extra": extra})


def _compared(asked: Requirement, lacking: Condition, remedy: str) -> Diagnosis:
    try:
        found = metadata.version(asked.name)
    except metadata.PackageNotFoundError:
        return Diagnosis(asked.name, lacking, "is not installed", remedy)
    if asked.specifier.contains(found, prereleases=True):
        return Diagnosis(asked.name, "ok", found)
    return Diagnosis(
        asked.name, "warning", f"{found}, and {asked.specifier} is asked for", f"pip install '{_plain(asked)}'"
    )


def _plain(asked: Requirement) -> str:
    """Write a requirement without its marker."""
    extras = f"[{','.join(sorted(asked.extras))}]" if asked.extras else ""
    return f"{asked.name}{extras}{asked.specifier}"


def one_line(error: BaseException) -> str:
    """Write an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__
