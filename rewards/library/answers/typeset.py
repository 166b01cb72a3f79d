r"""One spelling for what LaTeX, Unicode and plain text spell in many ways: spacing, styles, fractions, functions.

No step changes a value. Each word comes out as ``\text{word}``, so that letters outside are variables. Every step takes
time linear in the text.
"""

import re

from redraft.rewards.library.answers.numbers import rewrite_numbers
from redraft.rewards.library.answers.signs import plain_signs

_ROW = "\ue000"  # a row separator of a matrix, kept from the commands that begin with a backslash
_ESCAPED_DOLLAR = re.compile(r"\\textdollar(?![A-Za-z])|\\\$")
_POUNDS = re.compile(r"\\(?:pounds|textsterling)(?![A-Za-z])")
_CURRENCIES = {"\u20ac": "euro", "\u00a3": "pound", "\u00a5": "yen", "\u20b9": "rupee", "\u00a2": "cent"}
_CURRENCY = re.compile(f"[{''.join(_CURRENCIES)}]")
_NEGATIVE_MONEY = re.compile(rf"^-\s*(\\text\{{(?:dollar|{'|'.join(_CURRENCIES.values())})\}})\s*(?=[0-9.])")
_END = r"(?![A-Za-z])"
_ENVIRONMENT = re.compile(r"\\begin\s*\{")
_TWICE_ESCAPED = re.compile(r"\\\\(?=[A-Za-z%$ ,;:!(){}\[\]])")
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"\\(?:left|right|[bB]ig{{1,2}}[lrm]?)(?:\s*\.|{_END})", ""),
        (rf"\\(?:display|text|script|scriptscript)style{_END}|\\(?:no)?limits{_END}|\\strut{_END}", ""),
        (rf"\\(?:bf|it|rm|sf|tt|em|bfseries|boldmath|large|Large|small|normalsize|centering){_END}", ""),
        (rf"\\[dtc]frac{_END}", r"\\frac"),
        (rf"\\[dt]binom{_END}", r"\\binom"),
        (rf"\\(?:langle|lang){_END}", "("),
        (rf"\\(?:rangle|rang){_END}", ")"),
        (rf"\\(?:lvert|rvert|vert|mid){_END}", "|"),
        (rf"\\lbrace{_END}", r"\\{"),
        (rf"\\rbrace{_END}", r"\\}"),
        (rf"\\(?:lbrack|rbrack){_END}", lambda found: "[" if "lb" in found[0] else "]"),
        (rf"\\(?:leq|leqslant){_END}", r"\\le"),
        (rf"\\(?:geq|geqslant){_END}", r"\\ge"),
        (rf"\\(?:neq|not\s*=){_END}", r"\\ne"),
        (rf"\\lt{_END}", "<"),
        (rf"\\gt{_END}", ">"),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"!=", r"\\ne "),
        (rf"\\(?:dots|cdots|dotsc|dotsb|hdots){_END}|\.\.\.", r"\\ldots "),
        (rf"\\(?:varnothing|O){_END}", r"\\emptyset"),
        (rf"\\(?:backslash){_END}", r"\\setminus"),
        (rf"\\(?:bullet|ast|star){_END}", r"\\cdot"),
        (rf"\^\s*(?:\{{\s*(?:\\circ{_END}|o)\s*\}}|\\circ{_END})|\\degree{_END}|\\textdegree{_END}", r"\\text{degree}"),
        (rf"(\\(?:sin|cos|tan|cot|sec|csc){_END}[({{\s]*)([0-9.]+)\s*\\text\{{degree\}}", r"\1\\frac{\2\\pi}{180}"),
        (r"\\color\s*\{[a-z]+\}", ""),
        (r"\\mathbb\s+([A-Z])", r"\\mathbb{\1}"),
        (r"\{?([0-9A-Za-z+ -]+)\\choose\s*([0-9A-Za-z+ -]+)\}?", r"\\binom{\1}{\2}"),
        (r"(?<=[0-9])\s*(?:\^\s*\{?\s*)?\\text\s*\{\s*(?:st|nd|rd|th)\s*\}(?:\s*\})?", ""),
        (rf"(?<=[0-9])(?:st|nd|rd|th){_END}", ""),
        (r"(?<=[0-9 ])([ap])\.\s?m\.?(?![A-Za-z])", r"\\text{\1m}"),
        (r"\\(?:hspace|vspace|phantom|hphantom|label|tag)\*?\s*\{[^{}]*\}", " "),
        (rf"\\q?quad{_END}|\\[,;:> ]|\\(?:thinspace|medspace|thickspace|enspace|space){_END}|~", " "),
        (r"(?<=[0-9])(?:\{,\}|,\s*\\!)\s*(?=[0-9]{3}(?![0-9]))", ""),
        (rf"\\!|\\(?:negthinspace){_END}|\\$", ""),
        (r"\{,\}", ","),
        (r"\{\}", ""),
        (r"\\(?=[%&#])", ""),
        (r"_\{(\w)\}", r"_\1"),
        (r"\\text\{degree\}\s*([CFK])(?![A-Za-z])", r"\\text{degree}\\text{\1}"),
        (r"\^\{\s*'\s*\}|\^\s*\\prime|\^\{\s*\\prime\s*\}", "'"),
        (r"\^\s*([0-9]{2,})", r"^{\1}"),
        (r"\*\*(?=[-0-9({a-z\\])", "^"),
    )
)
_CONTENT = r"((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)"
_STYLED = re.compile(
    rf"\\(?:mathbf|boldsymbol|bm|mathit|mathnormal|mathsf|pmb|mathstrut|ensuremath|underline)\s*\{{{_CONTENT}\}}"
)
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|textup|mathrm|mbox|hbox|operatorname\*?|emph"
    r"|mathop|mathtt|textcolor\s*\{[^{}]*\})\s*\{" + _CONTENT + r"\}"
)
_FUNCTION_NAMES = (
    *("arcsin", "arccos", "arctan", "arccot", "sinh", "cosh", "tanh", "coth", "sin", "cos", "tan", "cot", "sec", "csc"),
    *("log", "ln", "exp", "gcd", "max", "min", "det", "lcm", "deg", "arg", "sgn"),
)
_FUNCTION = re.compile(rf"(?<![\\A-Za-z])(?:{'|'.join(_FUNCTION_NAMES)})(?=\s*[(\^_{{\\|0-9]|\s+[A-Za-z](?![A-Za-z]))")
_ALIASES = re.compile(r"(?<![\\A-Za-z])(?:asin|acos|atan)(?=\s*\()")
_CONSTANT = re.compile(
    r"(?<![\\A-Za-z{])(pi|infinity|infty|inf|theta|alpha|beta|gamma|lambda|phi|omega)(?![A-Za-z])", re.IGNORECASE
)
_CALLS = re.compile(r"(?<![\\A-Za-z])(sqrt|cbrt|abs|floor|ceil|factorial|binom|frac)\s*(?=[({\[0-9\\])|\\sqrt(?=\s*\()")
_BARE_ROOT = re.compile(r"\\sqrt\s*([0-9]+|[A-Za-z](?![A-Za-z])|\\pi(?![A-Za-z]))")
_HALF_BARE = re.compile(r"\\(frac|binom)\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))")
_MATH_IN_TEXT = re.compile(r"\\(?:text|mbox|textbf|mathrm)\s*\{\s*(?:\$([^$]*)\$|\\\(((?:(?!\\\)).)*)\\\))\s*\}")
_LEADING_SIGN = re.compile(
    r"^(?:=|\\approx(?![A-Za-z])|\\sim(?![A-Za-z])|\\therefore(?![A-Za-z])|\\implies(?![A-Za-z]))\s*"
)
_DELIMITERS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
)
_WORD = re.compile(r"\\(?:begin|end)\{[a-z]+\*?\}|\\[A-Za-z]+|[^\W\d_](?:[^\W\d_]|[\u0300-\u036f])*")
_LOG_E = re.compile(r"\\log\s*_\s*\{?e\}?(?![A-Za-z])")
_WHOLE_LINE = re.compile(
    r"\(-\\infty,\s*\+?\\infty\)|\\R(?![A-Za-z])|\\mathbf\{R\}"
    r"|\\text\{[Aa]ll\}(?: ?\\text\{(?:real|numbers|reals)\}){1,2}"
)
_NOTHING = re.compile(r"\\text\{[Nn]o\}(?: ?\\text\{real\})? ?\\text\{solutions?\}|\\text\{[Ee]mpty\} ?\\text\{set\}")
_SHORT_WORDS = {"or", "is", "of", "to", "if"}
_LONG_WORD = re.compile(r"[A-Za-z]{2}|[^\x00-\x7f]")
_SPECIAL = re.compile(r"[\\<>!~{*^']|\.\.\.|[0-9 ][ap]\.|[0-9](?:st|nd|rd|th)")  # what any of the rewrites begins with
_SPACES = re.compile(r"\s+")
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z.,]) | (?![0-9A-Za-z.\\])|(?<=[0-9]) (?=\\)")
_WRAPPER = re.compile(r"\\(?:text)\{([^{}]*)\}")


def normalise(answer: str) -> str:
    r"""Give an answer one spelling: ``\dfrac 1 2`` and ``½`` are ``\frac{1}{2}``, ``10 cm`` is ``10\text{cm}``."""
    answer = _MATH_IN_TEXT.sub(lambda found: found[1] or found[2] or "", plain_signs(answer))
    answer = _money(_strip(answer))
    answer = _strip(_SPACES.sub(" ", _commands(answer)))
    answer = rewrite_numbers(_functions(answer))
    answer = _tag_words(answer)
    answer = _LOG_E.sub(r"\\ln", _SPACES.sub(" ", answer)).strip()
    answer = r"\emptyset" if _NOTHING.fullmatch(answer) else _WHOLE_LINE.sub(r"\\mathbb{R}", answer)
    return _LOOSE_SPACE.sub("", answer).strip().replace(_ROW, r"\\")


def _money(answer: str) -> str:
    """Dollar signs: a pair is a pair of delimiters; an escaped or single one is money."""
    answer = _POUNDS.sub("\u00a3", answer)
    answer = _ESCAPED_DOLLAR.sub(r"\\text{dollar}", answer)
    answer = answer.replace("$", " " if answer.count("$") % 2 == 0 else r"\text{dollar}")
    answer = _CURRENCY.sub(lambda found: rf"\text{{{_CURRENCIES[found[0]]}}}", answer)
    return _NEGATIVE_MONEY.sub(r"\1-", answer)


def _strip(answer: str) -> str:
    """Without the delimiters, brackets and final signs around the whole."""
    previous = None
    while previous != answer:
        previous = answer
        answer = _LEADING_SIGN.sub("", answer.strip().rstrip(";,:")).strip()
        if answer.endswith(".") and not answer.endswith((r"\.", "..")):
            answer = answer[:-1].rstrip()
        if answer.endswith("\\") and not answer.endswith("\\\\"):
            answer = answer[:-1]
        for opening, closing in _DELIMITERS:
            if answer.startswith(opening) and answer.endswith(closing) and len(answer) > len(opening + closing):
                inner = answer[len(opening) : -len(closing)]
                answer = inner.strip() if opening not in inner and closing not in inner else answer
        answer = _unwrap_braces(answer)
    return answer


def _unwrap_braces(answer: str) -> str:
    if not (answer.startswith("{") and answer.endswith("}")) or answer.endswith(r"\}"):
        return answer
    depth = 0
    for position, character in enumerate(answer):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return answer[1:-1] if position == len(answer) - 1 else answer
    return answer


def _commands(answer: str) -> str:
    if not _SPECIAL.search(answer):
        return answer
    if _ENVIRONMENT.search(answer):
        answer = re.sub(r"\\\\(?:\s*\[[0-9.]+[a-z]+\])?|\\cr(?![A-Za-z])", _ROW, answer)
        answer = re.sub(r"\\hline(?![A-Za-z])", "", answer)
    else:
        answer = _TWICE_ESCAPED.sub(r"\\", answer)
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    for _ in range(3):  # a style inside a style
        answer = _STYLED.sub(r"\1", answer)
        answer = _TEXT.sub(lambda found: _untext(found[1]), answer)
    return answer


def _untext(content: str) -> str:
    r"""Tag the words in ``\text{}`` and leave all else plain; a single ``e`` or ``i`` is a constant."""
    if content.strip() in ("e", "i", "d"):
        return content.strip()
    return " " + _tag_words(content, every=True) + " "


def _functions(answer: str) -> str:
    answer = _ALIASES.sub(lambda found: rf"\arc{found[0][1:]}", answer)
    answer = _FUNCTION.sub(lambda found: rf"\{found[0]}", answer)
    answer = _CONSTANT.sub(
        lambda found: r"\infty " if found[0].lower().startswith("inf") else rf"\{found[0].lower()} ", answer
    )
    answer = _BARE_ROOT.sub(r"\\sqrt{\1}", _calls(answer))
    return _HALF_BARE.sub(_whole_fraction, answer)


def _whole_fraction(found: re.Match[str]) -> str:
    above = found[2] if found[2] is not None else found[3]
    below = found[4] if found[4] is not None else found[5]
    return rf"\{found[1]}{{{above.strip()}}}{{{below.strip()}}}"


def _calls(answer: str) -> str:
    """Functions called with round brackets, from the innermost outwards, as commands."""
    found = list(_CALLS.finditer(answer))
    for call in reversed(found[:50]):
        name, rest = call[1] or "sqrt", answer[call.end() :].lstrip()
        end = _closing(rest) if rest.startswith("(") else None
        if end is not None:
            answer = answer[: call.start()] + _command(name, rest[1:end]) + rest[end + 1 :]
        elif call[1] in ("sqrt", "frac", "binom") and not rest.startswith("("):
            answer = answer[: call.start()] + "\\" + name + rest
    return answer


def _command(name: str, arguments: str) -> str:
    if name in ("frac", "binom") and arguments.count(",") == 1:
        return "\\" + name + "".join(f"{{{part.strip()}}}" for part in arguments.split(","))
    wrappers = {
        "sqrt": (r"\sqrt{", "}"),
        "cbrt": (r"\sqrt[3]{", "}"),
        "abs": ("|", "|"),
        "floor": (r"\lfloor ", r"\rfloor "),
        "ceil": (r"\lceil ", r"\rceil "),
        "factorial": ("(", ")!"),
    }
    before, after = wrappers.get(name, (f"{name}(", ")"))
    return before + arguments + after


def _closing(text: str) -> int | None:
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position
    return None


def _tag_words(answer: str, every: bool = False) -> str:
    r"""Put ``\text{}`` around each word.

    Args:
        answer: A text.
        every: Whether every run of letters is a word; by default three letters or more, or letters of another script.
    """
    if not every and not _LONG_WORD.search(answer):
        return answer
    change = _tag_any if every else _tag_long
    parts = _WRAPPER.split(answer)  # outside, content, outside, ...
    return "".join(rf"\text{{{part}}}" if index % 2 else _WORD.sub(change, part) for index, part in enumerate(parts))


def _tag_any(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("\\") else rf"\text{{{found[0]}}}"


def _tag_long(found: re.Match[str]) -> str:
    word = found[0]
    greek = all("\u0370" <= letter < "\u0400" for letter in word)
    foreign = any(letter > "\x7f" for letter in word) and not greek
    is_word = foreign or word.lower() in _SHORT_WORDS or (len(word) > 2 and word.isalpha())
    return rf"\text{{{word}}}" if is_word and not word.startswith("\\") else word


def text_words(answer: str) -> list[str]:
    r"""Return the words of a normalised answer, in order."""
    return _WRAPPER.findall(answer)


def without_words(answer: str, replacement: str = "") -> str:
    r"""Return a normalised answer without its words."""
    return _WRAPPER.sub(replacement, answer)
