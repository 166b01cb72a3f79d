"""Two readings side by side: their units, names and percent signs, and the plain answers that remain to compare."""

import re
from fractions import Fraction

from redraft.rewards.library.answers.items import split_items, unwrap
from redraft.rewards.library.answers.reading import ReadAnswer
from redraft.rewards.library.answers.values import rational

Pair = tuple[str, str]  # gold answer, prediction
_INDEX = re.compile(r"_(?:\w|\{[\w,]+\})$")
_WORDS = re.compile(r"\\text\{[^{}]*\}")


def align(gold: ReadAnswer, answer: ReadAnswer) -> list[Pair]:
    """Return pairs of plain answers, one of which has to be equal; [] where units, names or relations differ."""
    if not _units_agree(gold, answer):
        return []
    if gold.has_relation:
        is_equation = answer.has_relation or any(answer.names)
        return [(_raw(gold), _raw(answer))] if is_equation else []
    if answer.has_relation and any(gold.names):
        is_line = len(gold.values) == 1 and not gold.is_numeric
        return [(_raw(gold), _raw(answer))] if is_line else []  # 2x = 10 is not yet x = 5
    return [
        pair for texts in _without_names(gold, answer) for pair in _percent_readings(gold, answer, *texts) if all(pair)
    ]


def _raw(reading: ReadAnswer) -> str:
    return reading.text(reading.raw)


def _units_agree(gold: ReadAnswer, answer: ReadAnswer) -> bool:
    ours, theirs = ([unit for unit in reading.units if unit] for reading in (gold, answer))
    our_things, their_things = (frozenset().union(*reading.things) for reading in (gold, answer))
    if any(gold.percents):
        return not theirs
    if any(answer.percents) and (ours or our_things):
        return False
    if not ours:
        return not our_things or not (theirs or their_things) or bool(our_things & their_things)
    if not theirs:
        return not their_things or bool(our_things & their_things)
    if len(set(ours)) == 1 or len(gold.units) != len(answer.units):
        return set(theirs) <= set(ours)
    return all(not unit or unit == wanted for wanted, unit in zip(gold.units, answer.units, strict=True))


def _names(reading: ReadAnswer) -> list[str]:
    return [_WORDS.sub("", name).strip() for name in reading.names]


def _expand(reading: ReadAnswer) -> ReadAnswer:
    """Read ``(x,y)=(1,2)`` as ``x=1,y=2``."""
    names = re.split(r"\s*,\s*", reading.names[0]) if len(reading.names) == 1 else []
    values = split_items(reading.values[0]) if len(names) > 1 else None
    if values is None or len(values.items) != len(names):
        return reading
    return ReadAnswer("()", names, list(values.items), list(values.items))


def _without_names(gold: ReadAnswer, answer: ReadAnswer) -> list[Pair]:
    """Return the pairs of plain answers that may be meant; [] where the names of the values differ."""
    gold, answer = (_expand(reading) for reading in (gold, answer))
    ours, theirs = _names(gold), _names(answer)
    plain = [(gold.text(), answer.text())]
    if not any(ours) or not any(theirs):
        named, names = (gold, ours) if any(ours) else (answer, theirs)
        if len(set(filter(None, map(_base, names)))) > 1:  # x = 1, y = 2 against (1, 2): in this order
            return _ordered(gold, answer, named, names)
        return [*plain, *_unions(gold, answer)]
    if set(map(_base, filter(None, ours))) == set(map(_base, filter(None, theirs))) and len(set(map(_base, ours))) == 1:
        return [*plain, *_unions(gold, answer)]
    if len(set(ours)) == len(ours) == len(theirs) and sorted(ours) == sorted(theirs):
        by_name = dict(zip(theirs, answer.values, strict=True))
        return [(gold.text(brackets="()"), answer.text([by_name[name] for name in ours], "()"))]
    if len(ours) == len(theirs) == 1 and _is_function_value(ours[0], theirs[0]):
        return plain
    return plain if set(filter(None, ours)) == set(filter(None, theirs)) and len(set(ours)) == 1 else []


def _is_function_value(name: str, other: str) -> bool:
    """Tell whether one of two different names is ``y`` and the other the function of it, ``f(x)``."""
    return name != other and "y" in (name, other) and all(one == "y" or "(x)" in one for one in (name, other))


def _base(name: str) -> str:
    return _INDEX.sub("", name)


def _ordered(gold: ReadAnswer, answer: ReadAnswer, named: ReadAnswer, names: list[str]) -> list[Pair]:
    other = answer if named is gold else gold
    if len(gold.values) != len(answer.values) or other.brackets not in ("", "()") or len(set(names)) < len(names):
        return []
    order = range(len(names)) if named is gold else sorted(range(len(names)), key=names.__getitem__)
    values = [named.values[place] for place in order]
    texts = {id(named): named.text(values, "()"), id(other): other.text(brackets="()")}
    return [(texts[id(gold)], texts[id(answer)])]


def _unions(gold: ReadAnswer, answer: ReadAnswer) -> list[Pair]:
    r"""Write alternatives as a union where the other answer is one: ``x<1 or x>2`` as ``(-\infty,1)\cup(2,\infty)``."""
    pairs = []
    if answer.is_alternative and r"\cup" in gold.text() and all(map(_is_interval, answer.values)):
        pairs.append((gold.text(), r"\cup".join(answer.values)))
    if gold.is_alternative and r"\cup" in answer.text() and all(map(_is_interval, gold.values)):
        pairs.append((r"\cup".join(gold.values), answer.text()))
    return pairs


def _is_interval(value: str) -> bool:
    return unwrap(value)[1] in ("()", "[]", "[)", "(]") and "," in value


def _percent_readings(gold: ReadAnswer, answer: ReadAnswer, ours: str, theirs: str) -> list[Pair]:
    """Return the pairs of values that a percentage and a bare number may mean.

    50 % is 0.5. Above 1 % the bare number 50 is right as well, because it cannot be meant as a fraction.
    """
    if all(gold.percents) == all(answer.percents) and any(gold.percents) == any(answer.percents):
        return [(ours, theirs)]
    if len(gold.values) > 1 or len(answer.values) > 1:
        return []
    percent, bare = (ours, theirs) if any(gold.percents) else (theirs, ours)
    value = rational(percent)
    hundredth = rf"\frac{{{percent}}}{{100}}" if value is None else _fraction(value / 100)
    readings = [hundredth, percent] if value is None or abs(value) > 1 else [hundredth]
    if any(gold.percents):
        return [(reading, bare) for reading in readings]
    return [(bare, reading) for reading in readings]


def _fraction(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
