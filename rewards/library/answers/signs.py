"""Typographic signs of Unicode and of scraped text, and what LaTeX writes for them."""

import re
import unicodedata

_SIGNS = {
    **{0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)},  # full-width, as Chinese and Japanese text has it
    **dict.fromkeys(map(ord, "\u2212\u2013\u2010\u2011\ufe63"), "-"),
    **dict.fromkeys(map(ord, "\u3000\u00a0\u2009\u202f\u2002\u2003\u2005\u2006\u2008"), " "),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"), None),
    **dict.fromkeys(map(ord, "\u22c5\u2219\u2022\u00b7"), r"\cdot "),
    **dict.fromkeys(map(ord, "\u2044\u2215"), "/"),
    **dict.fromkeys(map(ord, "\u2018\u2019\u2032"), "'"),
    ord("\u3002"): ".",
    ord("\u3001"): ",",
    ord("\u2217"): "*",
    ord("\u00d7"): r"\times ",
    ord("\u00f7"): r"\div ",
    ord("\u00b1"): r"\pm ",
    ord("\u2264"): r"\le ",
    ord("\u2265"): r"\ge ",
    ord("\u2260"): r"\ne ",
    ord("\u2248"): r"\approx ",
    ord("\u221e"): r"\infty ",
    ord("\u222a"): r"\cup ",
    ord("\u2229"): r"\cap ",
    ord("\u2208"): r"\in ",
    ord("\u2205"): r"\emptyset ",
    ord("\u211d"): r"\mathbb{R}",
    ord("\u2026"): r"\ldots ",
    ord("\u22ef"): r"\ldots ",
    ord("\u00b0"): r"^\circ ",
    ord("\u2103"): r"^\circ C",
    ord("\u2109"): r"^\circ F",
    ord("\u00ba"): r"^\circ ",
    ord("\u2220"): r"\angle ",
    ord("\u03c0"): r"\pi ",
    ord("\u03b8"): r"\theta ",
    ord("\u03b1"): r"\alpha ",
    ord("\u03b2"): r"\beta ",
}
_SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207f"
_SUBSCRIPTS = "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089"
_ESCAPES = {"\x0c": r"\f", "\x08": r"\b", "\t": r"\t"}
_EATEN = re.compile(r"\x0c(?=rac)|\x08(?=inom|eta|egin|f)|\t(?=ext|imes|heta|an|frac)")  # commands read as escapes
_RAISED = re.compile(f"[{_SUPERSCRIPTS}]+")
_LOWERED = re.compile(f"[{_SUBSCRIPTS}]+")
_VULGAR = re.compile(r"[\u00bc-\u00be\u2150-\u215e]")
_GLYPH_ROOT = re.compile(r"\u221a\s*(?:([0-9]+(?:\.[0-9]+)?|[A-Za-z])|(?=[({]))")


def restore_escapes(text: str) -> str:
    r"""Restore commands whose ``\f``, ``\b`` or ``\t`` at the beginning was read as an escape."""
    return _EATEN.sub(lambda found: _ESCAPES[found[0]], text)


def plain_signs(answer: str) -> str:
    """Write LaTeX for typographic signs, digits of other widths, raised and lowered digits, fraction signs."""
    answer = restore_escapes(answer).translate(_SIGNS)
    answer = _RAISED.sub(lambda found: "^{" + "".join(_plain_digit(sign) for sign in found[0]) + "}", answer)
    answer = _LOWERED.sub(lambda found: "_{" + "".join(_plain_digit(sign) for sign in found[0]) + "}", answer)
    answer = _GLYPH_ROOT.sub(lambda found: rf"\sqrt{{{found[1]}}}" if found[1] else r"\sqrt", answer)
    return _VULGAR.sub(lambda found: _vulgar_fraction(found[0]), answer)


def _plain_digit(sign: str) -> str:
    return unicodedata.normalize("NFKC", sign).replace("\u2212", "-")


def _vulgar_fraction(sign: str) -> str:
    above, _, below = unicodedata.normalize("NFKC", sign).partition("\u2044")
    return rf"\frac{{{above}}}{{{below}}}"
