r"""The forms in which models write an answer.

`CARRIERS` are texts around the answer. `VALUES` are other spellings of it, for the inside of a box: each form takes a
gold answer to what a model would write for it, or to None where the form does not apply.
"""

import re
from collections.abc import Callable
from fractions import Fraction

Form = Callable[[str], str | None]

CARRIERS: dict[str, str] = {
    "plain": "X",
    "$X$": "$X$",
    "$$X$$": "$$X$$",
    r"\(X\)": r"\(X\)",
    r"\[X\]": "\\[\nX\n\\]",
    r"\boxed{X}": r"So we get \boxed{X}",
    r"$\boxed{X}$.": r"The final answer is: $\boxed{X}$.",
    r"\fbox{X}": r"\fbox{X}",
    "think, box": "<think>\nMaybe 1 or 2? No.\n</think>\n\nIt is $\\boxed{X}$.",
    "answer tag": "<answer>X</answer>",
    "think, answer tag": "<think>\nMaybe 1 or 2? No.\n</think>\n<answer> X </answer>",
    "answer tag, box": r"<answer>\boxed{X}</answer>",
    "#### X": "First we add up.\n#### X",
    "The answer is X.": "We add up. The answer is X.",
    "The answer is $X$.": "We add up. The answer is $X$.",
    "the final answer is $X$": "Therefore, the final answer is $X$. I hope it is correct.",
    "the answer is **X**.": "Therefore, the answer is **X**.",
    "**Answer:** X": "We add up.\n\n**Answer:** X",
    "**Final Answer:** $X$": "We add up.\n\n**Final Answer:**\n\n$X$",
    "Answer: X": "We add up.\nAnswer: X",
    "Hence $x = X$.": "Hence $X$.",  # with the form "x = X"
}
_NUMERAL = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")
FRACTION = re.compile(r"(-?)\\d?frac\s*\{([0-9]+)\}\s*\{([0-9]+)\}")
UNIT = re.compile(r"(.*?[0-9}])\s*(?:\\(?:text|mbox)\{[^{}]*\}(?:\^\{?[23]\}?)?|\^\{?\\circ\}?)")
_TEXT = re.compile(r"\\text\{(\(?[A-Za-z ]+\)?)\}")
_LIST = re.compile(r"[^()\[\]{},]+(?:,[^()\[\]{},]+)+")
TUPLE = re.compile(r"(?:\\left\s*)?\((.+?,.+?)(?:\\right\s*)?\)")
_INTERVAL = re.compile(r"([(\[])([^,]+),([^,]+)([)\]])")
_VULGAR = {(1, 2): "½", (1, 3): "⅓", (2, 3): "⅔", (1, 4): "¼", (3, 4): "¾", (1, 5): "⅕", (1, 8): "⅛", (3, 8): "⅜"}
_FULL_WIDTH = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}
_ASKED_FORM = (
    r"simpl|express|fraction|decimal|form|factor|expand|write|percent|round|nearest|rational|comput|evalu|power"
)


def bare_number(gold: str) -> str | None:
    r"""A decimal numeral without dollar sign and separators: 32348 for ``\$32,\!348``; None for anything else."""
    plain = re.sub(r"\\\$|\\!|,(?=(?:\s|\\!)*[0-9]{3}(?![0-9]))|(?<=[0-9]) (?=[0-9])", "", gold).replace(" ", "")
    return plain if _NUMERAL.fullmatch(plain) and not re.search(r",\s[0-9]", gold) else None


def letter(gold: str) -> str | None:
    """The option's letter, or None."""
    found = re.fullmatch(r"(?:\\text\{)?\(?([A-E])\)?\}?", gold)
    return found[1] if found else None


def value_of(gold: str) -> Fraction | None:
    """The rational number that a plain numeral or a plain fraction is."""
    number, fraction = bare_number(gold), FRACTION.fullmatch(gold)
    if fraction:
        return Fraction(int(fraction[1] + fraction[2]), int(fraction[3]))
    return Fraction(number) if number else None


def rewritten(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Form:
    """The gold with a pattern rewritten; None where nothing changes."""

    def form(gold: str) -> str | None:
        written = re.sub(pattern, replacement, gold)
        return written if written != gold else None

    return form


def with_number(template: str) -> Form:
    """The template with a number for its X; None where the gold is none."""
    return lambda gold: template.replace("X", number) if (number := bare_number(gold)) else None


def _with_unit(template: str) -> Form:
    """As `with_number`, where the gold names no unit and is not negative."""
    return lambda gold: None if gold.startswith("-") or "$" in gold else with_number(template)(gold)


def _letter(template: str) -> Form:
    return lambda gold: template.replace("C", found) if (found := letter(gold)) else None


def _grouped(separator: str) -> Form:
    def form(gold: str) -> str | None:
        number = bare_number(gold)
        whole = number and number.lstrip("-").isdigit() and len(number.lstrip("-")) > 3
        return f"{int(number):,}".replace(",", separator) if number and whole else None

    return form


def _full_width(gold: str) -> str | None:
    number = bare_number(gold)
    return number.translate(_FULL_WIDTH) if number else None


def _slash(gold: str) -> str | None:
    match = FRACTION.fullmatch(gold)
    return f"{match[1]}{match[2]}/{match[3]}" if match else None


def _vulgar(gold: str) -> str | None:
    match = FRACTION.fullmatch(gold)
    sign = match and _VULGAR.get((int(match[2]), int(match[3])))
    return match[1] + sign if match and sign else None


def _decimal(gold: str) -> str | None:
    """A terminating decimal for a fraction."""
    value = value_of(gold)
    if value is None or bare_number(gold) or (10**6 * value).denominator > 1:
        return None
    return f"{float(value):.6f}".rstrip("0").rstrip(".")


def _fraction(gold: str) -> str | None:
    """A fraction for a decimal."""
    value, number = value_of(gold), bare_number(gold)
    if value is None or number is None or value.denominator == 1:
        return None
    return rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _mixed(gold: str) -> str | None:
    value = value_of(gold)
    if value is None or bare_number(gold) or value < 1 or value.denominator == 1:
        return None
    whole, rest = divmod(value, 1)
    return rf"{whole}\frac{{{rest.numerator}}}{{{rest.denominator}}}"


def _power(gold: str) -> str | None:
    r"""``b^n`` for a whole number that is one."""
    number = bare_number(gold)
    n = int(number) if number and number.isdigit() else 0
    if n < 4:
        return None
    found = ((base, k) for k in range(2, n.bit_length()) for base in [round(n ** (1 / k))] if base**k == n)
    base, exponent = next(found, (0, 0))
    return f"{base}^{{{exponent}}}" if base else None


def _over_root(gold: str) -> str | None:
    match = re.fullmatch(r"\\frac\{\\sqrt\{([0-9]+)\}\}\{\1\}", gold)
    return rf"\frac{{1}}{{\sqrt{{{match[1]}}}}}" if match else None


def items(gold: str) -> list[str] | None:
    """What a list without brackets holds."""
    return [item.strip() for item in gold.split(",")] if _LIST.fullmatch(gold) and bare_number(gold) is None else None


def with_items(joined: Callable[[list[str]], str]) -> Form:
    """The items of a list joined anew; None where the gold is no list."""
    return lambda gold: joined(found) if (found := items(gold)) else None


def _inequality(gold: str) -> str | None:
    match = _INTERVAL.fullmatch(gold.replace(r"\left", "").replace(r"\right", "").replace(" ", ""))
    if not match or r"\infty" not in gold:
        return None
    below, above = {")": "<", "]": r"\le"}[match[4]], {"(": ">", "[": r"\ge"}[match[1]]
    if match[2] == r"-\infty":
        return f"x {below} {match[3]}" if match[3] != r"\infty" else None
    return f"x {above} {match[2]}" if match[3] == r"\infty" else None


def _bare_tuple(gold: str) -> str | None:
    match = TUPLE.fullmatch(gold)
    return match[1].strip() if match and r"\infty" not in gold and "(" not in match[1] else None


def _plus_minus(gold: str) -> str | None:
    written = [gold.replace(r"\pm", sign) for sign in "+-"]
    return ", ".join(written) if gold.count(r"\pm") == 1 and "," not in gold else None


def _without_unit(gold: str) -> str | None:
    match = UNIT.fullmatch(gold)
    return match[1] if match else None


def carried(name: str, gold: str) -> str | None:
    """A whole completion that gives the gold as a carrier does; None where it does not apply."""
    value = _assigned(gold) if "x = X" in name else gold
    return CARRIERS[name].replace("X", value) if value else None


def _assigned(gold: str) -> str | None:
    return None if re.search(r"=|\\in(?![a-z])|\\text\{|x", gold) else f"x = {gold}"


VALUES: dict[str, Form] = {
    "as the gold": lambda gold: gold,
    r"spaced: \ X\,": lambda gold: rf"\ {gold}\,",
    "$X$ in the box": lambda gold: f"${gold}$",
    "X. in the box": lambda gold: f"{gold}.",
    r"\displaystyle X": lambda gold: rf"\displaystyle {gold}",
    r"\mathbf{X}": lambda gold: rf"\mathbf{{{gold}}}",
    r"{\bf X}": lambda gold: rf"{{\bf {gold}}}",
    r"\text{X}": with_number(r"\text{X}"),
    r"\dfrac": rewritten(r"\\[dt]?frac(?![a-z])", r"\\dfrac"),
    r"\tfrac": rewritten(r"\\[dt]?frac(?![a-z])", r"\\tfrac"),
    r"\left( \right)": lambda gold: (
        re.sub(r"[)\]]", r"\\right\g<0>", re.sub(r"[(\[]", r"\\left\g<0>", gold))
        if not re.search(r"\\(?:left|text)", gold) and re.search(r"[(\[]", gold)
        else None
    ),
    r"no \left, no \right": rewritten(r"\\left\s*|\\right\s*", ""),
    "spaces left out": rewritten(r"(?<=[,+&=0-9}-]) | (?=[-+&=])|(?<=\\\\) ", ""),
    "typographic minus": rewritten("-", "\u2212"),
    "full-width digits": _full_width,
    "1,234": _grouped(","),
    "1{,}234": _grouped("{,}"),
    r"1\,234": _grouped(r"\,"),
    "14/3": _slash,
    "a sign for a fraction (½)": _vulgar,
    "π, √, ∞, °": lambda gold: rewritten(
        r"\\pi(?![a-z])|\\infty(?![a-z])|\^\{?\\circ\}?|\\sqrt\{([0-9]+)\}",
        lambda m: f"√{m[1]}" if m[1] else {"p": "π", "i": "∞"}.get(m[0][1:2], "°"),
    )(gold),
    "number with cm": _with_unit(r"X\text{ cm}"),
    "number with square units": _with_unit(r"X\text{ cm}^2"),
    "number with dollars": _with_unit(r"X\text{ dollars}"),
    r"number with \$": _with_unit(r"\$X"),
    "number with degrees": _with_unit(r"X^\circ"),
    "number with percent": lambda gold: _with_unit(r"X\%")(gold) if len(gold) < 3 else None,
    "gold's unit left out": _without_unit,
    "x = X": _assigned,
    "(C) X": with_number(r"\text{(C) }X"),
    "C: X": with_number(r"\text{C: }X"),
    "option c": lambda gold: found.lower() if (found := letter(gold)) else None,
    "option (C)": _letter(r"\textbf{(C)}"),
    "option C)": _letter("C)"),
    "option with text": _letter(r"\text{C: the right one}"),
    "words without \\text": lambda gold: m[1] if (m := _TEXT.fullmatch(gold)) else None,
    "words in lower case": lambda gold: m[1].lower() if (m := _TEXT.fullmatch(gold)) else None,
    "list in another order": with_items(lambda found: ", ".join(found[::-1])),
    "list with and": with_items(lambda found: rf"{', '.join(found[:-1])} \text{{ and }} {found[-1]}"),
    "list as set": with_items(lambda found: rf"\{{{', '.join(found)}\}}"),
    r"\pm written out": _plus_minus,
    "tuple without brackets": _bare_tuple,
    "inequality for interval": _inequality,
    "matrix: bmatrix": rewritten("pmatrix", "bmatrix"),
    "equal: decimal for fraction": _decimal,
    "equal: fraction for decimal": _fraction,
    "equal: N.0": lambda gold: f"{n}.0" if (n := bare_number(gold)) and "." not in n else None,
    "equal: mixed number": _mixed,
    "equal: power": _power,
    "equal: root below": _over_root,
}


def asks_for_a_form(prompt: str) -> bool:
    """Whether the task fixes the form of its answer, so that an equal value in another form is not asked for."""
    return re.search(_ASKED_FORM, prompt, re.IGNORECASE) is not None
