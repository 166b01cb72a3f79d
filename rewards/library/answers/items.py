r"""The items of an answer: lists, sets, tuples, intervals, unions, sides of an equation.

Commas inside brackets do not separate items. A list with an empty place is not a list.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_TOKEN = re.compile(r"\\[{}|]|\\\\|\\text\{[^{}]*\}|\\[A-Za-z]+|.", re.DOTALL)
_OPENING, _CLOSING = {"(", "[", "{", r"\{", r"\begin"}, {")", "]", "}", r"\}", r"\end"}
_SEPARATORS = {",", ";", r"\text{and}", r"\text{or}", r"\lor", r"\vee", r"\land", r"\wedge"}
_STRUCTURE = re.compile(r"[,;()\[\]]|\\[{}]|\\text\{(?:and|or)\}|\\(?:lor|vee|land|wedge|pm|mp)", re.IGNORECASE)
_CONJUNCTION = re.compile(r"[,;]\s*\\text\{(?:and|or)\}", re.IGNORECASE)
_ALTERNATIVES = re.compile(r"(?<![A-Za-z])\\text\{(And|Or|AND|OR)\}")
_BRACKETS = (("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), (r"\{", r"\}"))
RELATIONS = ("=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx", r"\to", r"\implies", r"\equiv", r"\sim")
_MAX_DEPTH, MAX_UNLIKE = 30, 30
DOTS = r"\ldots"


@dataclass(frozen=True)
class Items:
    r"""Items and what encloses them: "" for a bare list, ``\{\}``, ``()``, ``[)`` and so on."""

    brackets: str
    items: tuple[str, ...]

    @property
    def is_ordered(self) -> bool:
        """Whether the order counts: a tuple or an interval, and any list that leaves places out."""
        return self.brackets not in ("", r"\{\}") or DOTS in self.items


def _tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield each token with its place and the depth of brackets around it."""
    depth = 0
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token in _CLOSING:
            depth -= 1
        yield token, found.start(), depth
        if token in _OPENING:
            depth += 1


def is_deep(text: str) -> bool:
    """Tell whether brackets are nested deeper than in any real answer."""
    return max((depth for _, _, depth in _tokens(text)), default=0) > _MAX_DEPTH


def split_at(text: str, separators: tuple[str, ...] | set[str]) -> list[str]:
    """Split a text at the separators that stand outside all brackets."""
    parts, start = [], 0
    for token, position, depth in _tokens(text):
        if depth == 0 and token in separators:
            parts.append(text[start:position].strip())
            start = position + len(token)
    return [*parts, text[start:].strip()]


def unwrap(text: str) -> tuple[str, str]:
    r"""Return a text without the brackets that enclose all of it, and these brackets; "" where there are none."""
    for opening, closing in _BRACKETS:
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening + closing):
            inner_close = len(text) - len(closing)
            ends = [position for token, position, depth in _tokens(text) if depth == 0 and token in _CLOSING]
            if ends and ends[0] == inner_close:
                return text[len(opening) : inner_close].strip(), opening + closing
    return text, ""


def split_items(answer: str) -> Items | None:
    r"""Return the items of an answer; None where a place is empty. ``\pm`` makes two items of one."""
    if not _STRUCTURE.search(answer):
        return Items("", (answer,)) if answer else None
    answer = _ALTERNATIVES.sub(lambda found: rf"\text{{{found[1].lower()}}}", answer)
    answer = _CONJUNCTION.sub(lambda found: "," if found[0][0] == "," else ";", answer)
    parts = split_at(answer, _SEPARATORS)
    if len(parts) > 1:
        return _items("", parts)
    inner, brackets = unwrap(answer)
    if not brackets:
        return _items("", [answer])
    parts = split_at(inner, _SEPARATORS)
    if len(parts) == 1 and brackets != r"\{\}":
        return split_items(inner) if brackets in ("()", "[]") else None  # brackets around one value are no tuple
    if parts == [r"\emptyset"]:
        return None  # the set that holds the empty set is another one
    return _items(brackets, parts) if inner else Items("", (r"\emptyset",))


def _items(brackets: str, parts: list[str]) -> Items | None:
    if not all(parts):
        return None
    signed = [item for part in parts for item in _both_signs(part)] if brackets in ("", r"\{\}") else parts
    return Items(brackets, tuple(signed))


def _both_signs(part: str) -> list[str]:
    pieces = re.split(r"\\(?:pm|mp)(?![A-Za-z])", part)
    if len(pieces) != 2:
        return [part]
    before, after = pieces
    return [
        f"{before}+{after}" if before.strip() and not before.strip().endswith("=") else before + after,
        f"{before}-{after}",
    ]


def compare_items(gold: str, prediction: str, same: Callable[[str, str], bool | None]) -> bool | None:
    """Tell whether every item of one answer has its equal in the other; None where `same` cannot say."""
    ours, theirs = split_items(gold), split_items(prediction)
    if ours is None or theirs is None:
        return False
    if len(ours.items) != len(theirs.items):
        return False
    if len(ours.items) == 1:
        return same(ours.items[0], theirs.items[0])
    as_bare_tuple = ours.brackets == "()" and theirs.brackets == ""
    if ours.is_ordered:
        if ours.brackets != theirs.brackets and not as_bare_tuple:
            return False
        return _all(compare_items(*pair, same) for pair in zip(ours.items, theirs.items, strict=True))
    if theirs.is_ordered:
        return False
    return _match(ours.items, theirs.items, same)


def _all(verdicts: Iterator[bool | None]) -> bool | None:
    unknown = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unknown |= verdict is None
    return None if unknown else True


def _match(ours: tuple[str, ...], theirs: tuple[str, ...], same: Callable[[str, str], bool | None]) -> bool | None:
    """Pair the items off. Equality is transitive, so each may be paired with the first that equals it."""
    common = Counter(ours) & Counter(theirs)
    left, unknown = list((Counter(theirs) - common).elements()), False
    if len(left) > MAX_UNLIKE:
        return False
    for item in (Counter(ours) - common).elements():
        verdicts = [compare_items(item, other, same) for other in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True
