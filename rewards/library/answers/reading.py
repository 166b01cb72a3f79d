"""Answers read item by item: names, relations, units and words are set apart from the values."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from redraft.rewards.library.answers.items import Items, split_items
from redraft.rewards.library.answers.labels import Labelled, read_label
from redraft.rewards.library.answers.words import Worded, is_plain_quantity, prompt_words, read_words, tag_plain_units

_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z]*\{)")
_LONE_LETTER = re.compile(r"^\\text\{([A-Za-z])\}$")
_OR = re.compile(r"\\text\{or\}|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])", re.IGNORECASE)
_RELATION = re.compile(r"=|<|>|\\(?:le|ge|ne|in|approx)(?![A-Za-z])")
_COMMAND = re.compile(r"\\[A-Za-z]+")


@dataclass
class ReadAnswer:
    """The parts of an answer.

    Attributes:
        brackets: What encloses the items, see `Items`.
        names: Name of each item, "" without one.
        raw: Each item as it is written.
        values: Each item without name and words.
        units: Unit of each item that has one.
        things: Words that say what is counted.
        percents: Whether each item is a percentage.
        has_relation: Whether an item is an equation or inequality that is not solved.
        is_alternative: Whether the items were joined by "or".
    """

    brackets: str = ""
    names: list[str] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    units: list[tuple[tuple[str, int], ...]] = field(default_factory=list)
    things: list[frozenset[str]] = field(default_factory=list)
    percents: list[bool] = field(default_factory=list)
    has_relation: bool = False
    is_alternative: bool = False

    @property
    def is_numeric(self) -> bool:
        """Whether no value has a variable."""
        return not any(_VARIABLE.search(_COMMAND.sub("", value)) for value in self.values)

    def text(self, values: list[str] | None = None, brackets: str | None = None) -> str:
        """Write the items as one plain answer."""
        brackets = self.brackets if brackets is None else brackets
        half = len(brackets) // 2
        return brackets[:half] + ",".join(values or self.values) + brackets[half:]


def read_answer(answer: str, prompt: str | None, gold: ReadAnswer | None = None) -> ReadAnswer | None:
    """Read a normalised answer; None where an item cannot be accounted for.

    Args:
        answer: The answer.
        prompt: Text of the task, whose words are harmless. It is None for a gold answer, all of whose words are.
        gold: The gold answer's reading, for a prediction.
    """
    known: Collection[str] | None = None
    if gold is not None:
        known = prompt_words(prompt or "") | frozenset().union(*gold.things)
        answer = tag_plain_units(answer) if gold.is_numeric else answer
    elif is_plain_quantity(answer):
        answer = tag_plain_units(answer)
    found = split_items(answer)
    if found is None:
        return None
    reading = ReadAnswer(found.brackets, is_alternative=bool(_OR.search(answer)))
    return reading if all(_read_item(item, reading, known, found) for item in found.items) else None


def _read_item(item: str, reading: ReadAnswer, known: Collection[str] | None, found: Items) -> bool:
    item = _LONE_LETTER.sub(r"\1", item)
    inner = split_items(item)
    if inner is not None and len(inner.items) > 1:  # a tuple, set or interval among the items
        nested = ReadAnswer(inner.brackets)
        if not all(_read_item(part, nested, known, inner) for part in inner.items):
            return False
        reading.units += [unit for unit in nested.units if unit]
        _append(reading, item, "", Worded(nested.text()))
        return True
    label = read_label(item)
    if label.is_relation and known is None and _is_worked_out(item):
        label = Labelled("", item)
    if label.is_relation and r"\text{" not in item:
        reading.has_relation = True
        _append(reading, item, "", Worded(item))
        return True
    return _read_value(item, label, reading, known)


def _is_worked_out(item: str) -> bool:
    """Tell whether a gold answer is a calculation with its result, such as ``6*7 = 42``."""
    return set(_RELATION.findall(item)) == {"="} and not _VARIABLE.search(_COMMAND.sub("", item))


def _read_value(item: str, label: Labelled, reading: ReadAnswer, known: Collection[str] | None) -> bool:
    name, value = label.name, label.value
    if known is None and "=" in value:
        value = value.rpartition("=")[2]  # what a gold answer works out to
    inner = split_items(value)
    if name and inner is not None and len(inner.items) > 1:
        nested = ReadAnswer(inner.brackets)
        if not all(_read_item(part, nested, known, inner) for part in inner.items):
            return False
        _append(reading, item, name, Worded(nested.text()))
        return True
    sides = [read_words(side.strip(), known) for side in value.split("=")] if r"\cup" not in value else [Worded(value)]
    whole = [side for side in sides if side is not None]
    if len(whole) < len(sides):
        return False
    joined = Worded(
        "=".join(side.value for side in whole),
        whole[-1].unit,
        whole[-1].things,
        any(side.has_percent for side in whole),
    )
    if joined.has_percent and len(whole) > 1:
        return False
    _append(reading, item, name, joined)
    return True


def _append(reading: ReadAnswer, item: str, name: str, worded: Worded) -> None:
    reading.raw.append(item)
    reading.names.append(name)
    reading.values.append(worded.value)
    reading.units.append(worded.unit)
    reading.things.append(worded.things)
    reading.percents.append(worded.has_percent)
