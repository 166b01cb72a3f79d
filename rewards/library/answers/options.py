"""Options of a multiple choice: the letter is the answer; the text of the option may follow it."""

import re
from dataclasses import dataclass

_WORD = re.compile(r"\\text\{([^{}]*)\}")
_LETTER = re.compile(
    r"(?:(?:the|correct|right|final|best|answer|is|option|choice|letter|:)[\s:]+)*"
    r"(?P<open>[(\[]?)\s*(?P<letter>[A-Ja-j])\s*(?P<sign>\s?-(?=\s)|[)\]]?[.:]?)\s*(?P<tail>.*)",
    re.IGNORECASE | re.DOTALL,
)
_OTHER_OPTION = re.compile(
    r"[(\[]\s*[A-J]\s*[)\]]|(?<![A-Za-z0-9])[A-J]\s*[).:]|^[A-Ja-j]$|^(?:or|and|nor|not)(?![a-z])|^[,;/&+=|]"
)


@dataclass(frozen=True)
class Option:
    """A letter and the text of its option, "" where there is none."""

    letter: str
    text: str


def read_option(answer: str) -> Option | None:
    """Read the option that a normalised answer names; None where it names none, or more than one."""
    plain = " ".join(_WORD.sub(r" \1 ", answer).split())
    found = _LETTER.fullmatch(plain)
    if found is None or (bool(found["open"]) != any(bracket in found["sign"] for bracket in ")]") and found["open"]):
        return None
    tail = found["tail"].strip()
    if tail and not found["sign"]:
        return None
    return None if _OTHER_OPTION.search(tail) else Option(found["letter"], tail)


def gold_option(gold: str) -> Option | None:
    """Read the option that a gold answer names: a capital letter, alone or with a label sign and a text."""
    found = read_option(gold)
    return found if found is not None and found.letter.isupper() else None
