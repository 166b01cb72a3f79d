r"""Words beside a value: units, counted things, harmless fillers. Any other word may change the answer.

``10\text{cm}^{2}`` is 10 with the unit cm^2. ``7\text{million}`` is 7000000. ``7\text{less}`` cannot be read.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from redraft.rewards.library.answers.typeset import text_words
from redraft.rewards.library.answers.vocabulary import (
    CHANGING,
    COMPOSED,
    FILLERS,
    MULTIPLIERS,
    POWERS_AFTER,
    POWERS_BEFORE,
    harmless,
    singular,
    unit_of,
)

_ASKED_COUNT = re.compile(
    r"\b(?:(?:how many|number of|in) (hundred|thousand|million|billion|trillion|dozen)s?"
    r"|how (?:many|much) (more|fewer|less))\b",
    re.IGNORECASE,
)
_LEADING = re.compile(r"(?:\\text\{[^{}]*\}[\s:.,]*)+")
_UNIT_PART = r"((?=[^{}]*\\text)(?:\\text\{[^{}]*\}|\^?\{?[0-9]\}?|\s)+)"
_UNIT_FRACTION = re.compile(rf"\\frac\{{{_UNIT_PART}\}}\{{{_UNIT_PART}\}}$")
_UNIT_TOKEN = re.compile(
    r"\s*(?:\\text\{(?P<word>[^{}]*)\}|\^\s*\{?(?P<power>-?[0-9])\}?|(?P<slash>/)|(?P<sign>\\cdot(?![A-Za-z])|[*.\-()]|\\%|%))"
)
_SYMBOLS = (
    "am|pm|mm|cm|dm|km|nm|m|kg|mg|g|lb|lbs|oz|ml|mL|L|l|ft|in|yd|mi|s|h|hr|hrs|min|sec|ms|Hz|kHz|kW|kJ|kPa|Pa|N|J|W|V"
)
_PLAIN_PART = rf"(?:(?:sq|cu)\.? ?)?(?:{_SYMBOLS})\.?(?:\^\{{?-?[0-9]\}}?)?"
_PLAIN_UNIT = re.compile(rf"(?<=[0-9}})])( ?)(\(?{_PLAIN_PART}(?:\s*(?:/|\\cdot|\*)\s*{_PLAIN_PART})*\)?)$")
_SYMBOL_RUN = re.compile(r"[A-Za-z]+(?![A-Za-z{])")
_MONEY = re.compile(
    r"(?:\\text\{dollars?\}\s*([0-9]+)|([0-9]+)\s*\\text\{dollars?\})[\s,]*(?:\\text\{and\}\s*)?([0-9]{1,2})\s*\\text\{(?:cents?|c)\}"
)
_AND_A_PART = re.compile(
    r"(?<![0-9./])([0-9]+)\s*\\text\{and\}\s*\\text\{(?:a|an|one)\}\s*\\text\{(half|quarter|third)\}"
)
_RATIO = re.compile(r"(?<=[0-9])\s*\\text\{to\}\s*(?=[0-9])")
_LONG_SYMBOL = re.compile(r"[A-Za-z]{2}")
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_SHORT_WORD = re.compile(r"\\text\{[A-Za-z]\}")
_PARTS = {"half": 2, "third": 3, "quarter": 4}


@lru_cache(maxsize=1024)
def prompt_words(prompt: str) -> frozenset[str]:
    """Return the words of a task: an answer may repeat them, because what a task counts is no second answer."""
    prompt = prompt[:20_000]
    counted = {f"in {singular(word)}" for found in _ASKED_COUNT.findall(prompt) for word in found if word}
    return frozenset(singular(word) for word in re.findall(r"[^\W\d_]{2,}", prompt)) - CHANGING | counted


@dataclass(frozen=True)
class Worded:
    """A value and the words beside it.

    Attributes:
        value: What is left without words.
        unit: Physical unit or currency, as sorted (name, power) pairs.
        things: Other words that say what is counted, in the singular.
        has_percent: Whether a percent sign belongs to the value.
    """

    value: str
    unit: tuple[tuple[str, int], ...] = ()
    things: frozenset[str] = frozenset()
    has_percent: bool = False


def tag_plain_units(answer: str) -> str:
    """Tag units in plain letters as words, in an answer without variables."""
    return _PLAIN_UNIT.sub(lambda found: _SYMBOL_RUN.sub(lambda unit: rf"\text{{{unit[0]}}}", found[2]), answer)


def is_plain_quantity(answer: str) -> bool:
    """Tell whether an answer is a number, a space and a unit in plain letters."""
    found = _PLAIN_UNIT.search(answer)
    return (
        found is not None
        and (found[1] == " " or _LONG_SYMBOL.search(found[2]) is not None)
        and not re.search(r"[A-Za-z]", answer[: found.start()])
    )


def join_amounts(answer: str) -> str:
    """Join amounts in two parts: dollars and cents, a number and a half, a ratio."""
    answer = _MONEY.sub(lambda found: rf"{found[1] or found[2]}.{found[3]:0>2}\text{{dollar}}", answer)
    answer = _RATIO.sub(":", answer)
    return _AND_A_PART.sub(lambda found: rf"{found[1]}\frac{{1}}{{{_PARTS[found[2]]}}}", answer)


def read_words(item: str, known: Collection[str] | None) -> Worded | None:
    """Separate one item into its value and the words beside it.

    Args:
        item: A normalised item.
        known: Words that are harmless besides those of the lists. With None any word may be a thing that is counted, as
            in a gold answer.

    Returns:
        None where a word may change the value, or stands in the middle of it.
    """
    item = _UNIT_FRACTION.sub(r"\1/\2", item)
    leading = _LEADING.match(item)
    before, rest = (leading[0], item[leading.end() :]) if leading else ("", item)
    place = rest.find(r"\text{")
    value, after = (rest, "") if place < 0 else (rest[:place], rest[place:])
    value = value.strip()
    if value.endswith("%"):
        value, after = value[:-1].removesuffix("\\").strip(), "%" + after
    if after and value.endswith("("):
        value, after = value[:-1].strip(), "(" + after
    value = value.removesuffix(r"\cdot").strip() if after else value
    if not value or "%" in value or (after and _VARIABLE.search(value) and _SHORT_WORD.search(after)):
        return None  # a letter beside a letter is an option or a product, not a unit
    reading = _Beside(known)
    if not all(reading.add_word(word) for word in text_words(before)) or not reading.read(after):
        return None
    if reading.next_power != 1:
        return None  # "square" without a unit may mean the square of the value
    if reading.factor != 1:
        value = rf"{value}\cdot {reading.factor}"
    unit = reading.settle()
    percent = unit.pop("percent", 0)
    powers = tuple(sorted((name, power) for name, power in unit.items() if power))
    return Worded(value, powers, frozenset(reading.things), has_percent=bool(percent))


class _Beside:
    """The words beside a value that have been read so far: units with their powers, things, a factor."""

    def __init__(self, known: Collection[str] | None) -> None:
        """Begin with nothing."""
        self.known = known
        self.powers: list[tuple[str, int]] = []
        self.things: set[str] = set()
        self.factor = 1
        self.direction, self.next_power = 1, 1
        self.last_word = ""

    def read(self, text: str) -> bool:
        """Read units after a value, with powers and slashes; False where something else stands there."""
        position = 0
        while position < len(text):
            found = _UNIT_TOKEN.match(text, position)
            if found is None:
                return not text[position:].strip()
            position = found.end()
            if found["word"] is not None:
                if not self.add_word(found["word"]):
                    return False
            elif found["power"]:
                if not self.powers:
                    return False
                self.raise_last(int(found["power"]))
            elif found["slash"]:
                self.direction = -1
            elif "%" in found["sign"]:
                self.powers.append(("percent", 1))
        return True

    def add_word(self, word: str) -> bool:
        """Take in one word; False for one that may change the value."""
        plain = word.casefold().strip("'")
        if self.last_word == "in" and self.powers and self.powers[-1][0] == "inch":
            self.powers.pop()  # it was the word "in", as in "in total"
        self.last_word = plain
        if self.is_asked_for(plain):
            return True
        if plain == "per":
            self.direction = -1
        elif plain in MULTIPLIERS:
            self.factor *= MULTIPLIERS[plain]
        elif plain in POWERS_BEFORE and not (self.known and plain in self.known):
            self.next_power = POWERS_BEFORE[plain]
        elif plain in POWERS_AFTER and self.powers:
            self.raise_last(POWERS_AFTER[plain])
        elif plain in CHANGING:
            return False
        else:
            return self.add_unit(word, plain) or plain in FILLERS or self.add_thing(singular(word))
        return True

    def add_unit(self, word: str, plain: str) -> bool:
        """Take in a unit; False for a word that is none."""
        if plain == "in":  # inches after a number, not after what is counted
            if self.powers or self.things:
                return False
            self.powers.append(("inch", 1))
            return True
        unit = unit_of(word)
        if unit is None:
            return False
        self.powers.append((unit, self.direction * self.next_power))
        self.direction = self.next_power = 1
        return True

    def raise_last(self, power: int) -> None:
        """Raise the last unit to a power."""
        unit, before = self.powers[-1]
        self.powers[-1] = (unit, before * power)

    def add_thing(self, thing: str) -> bool:
        """Take in a word that says what is counted, if it is known to be harmless."""
        self.things.add(thing)
        self.next_power = 1
        return self.known is None or thing in harmless() or thing in self.known

    def is_asked_for(self, word: str) -> bool:
        """Tell whether the task counts in this word: how many dozen, in millions."""
        return bool(self.known) and f"in {singular(word)}" in (self.known or ())

    def settle(self) -> dict[str, int]:
        """Return the units with their powers; composed units as their parts."""
        unit: dict[str, int] = {}
        for name, power in self.powers:
            for part, times in COMPOSED.get(name, {name: 1}).items():
                unit[part] = unit.get(part, 0) + times * power
        if "degree" in unit and unit.keys() & {"celsius", "fahrenheit"}:
            del unit["degree"]
        return unit
