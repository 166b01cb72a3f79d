"""A small grammar of expressions. An expression that can be read in no way, or in two, has no form."""

import re
from fractions import Fraction
from functools import lru_cache

from redraft.rewards.library.answers.form import MINUS_ONE, Form, NoFormError, negative, power, product_of, sum_of

MAX_TOKENS, _MAX_DEPTH = 300, 40
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)|(?P<name>\\[A-Za-z]+|[A-Za-z\u0370-\u03ff]'*)|(?P<sign>\\[{}]|[^\s]))"
)
_PRODUCTS = {r"\cdot", r"\times", "*"}
_DIVISIONS = {"/", r"\div"}
_FUNCTIONS = {
    *(rf"\{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "exp", "arcsin", "arccos")),
    *(rf"\{name}" for name in ("arctan", "sinh", "cosh", "tanh", "gcd", "lcm", "max", "min")),
}
_BRACKETS = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", "|": "|"}
_NOT_SYMBOLS = {
    r"\cup",
    r"\cap",
    r"\in",
    r"\le",
    r"\ge",
    r"\ne",
    r"\text",
    r"\begin",
    r"\end",
    r"\ldots",
    r"\pm",
    r"\mp",
    r"\infty",  # which cancels nothing
    r"\emptyset",
    r"\mathbb",
}


class _Parser:
    """Recursive descent over the tokens of one expression. A method named for a part reads it and returns its form."""

    def __init__(self, text: str) -> None:
        """Cut the text into tokens."""
        self.tokens: list[tuple[str, str]] = []
        for found in _TOKEN.finditer(text):
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
        if len(self.tokens) > MAX_TOKENS:
            raise NoFormError
        self.place = self.depth = 0
        self.bars = 0

    def peek(self) -> str:
        """Return the next token without taking it; "" at the end."""
        return self.tokens[self.place][1] if self.place < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        """Take one token; NoFormError where it is not the expected one."""
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise NoFormError
        self.place += 1
        return token

    def sum(self) -> Form:
        """Read terms with signs between them."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise NoFormError
        terms = [self.product()]
        while self.peek() in ("+", "-"):
            sign = self.take()
            term = self.product()
            terms.append(negative(term) if sign == "-" else term)
        self.depth -= 1
        return sum_of(terms)

    def product(self) -> Form:
        """Read factors, with or without a sign between them."""
        negations = 0
        while self.peek() in ("+", "-"):
            negations += self.take() == "-"
        first_number = self.tokens[self.place][0] == "number" if self.place < len(self.tokens) else False
        factors, divided = [self.power()], False
        while True:
            token = self.peek()
            if token in _PRODUCTS or token in _DIVISIONS:
                divided = token in _DIVISIONS
                self.take()
                factor = self.signed_power()
                factors.append(power(factor, MINUS_ONE) if divided else factor)
            elif self.starts_factor():
                if divided or (self.tokens[self.place][0] == "number" and self.tokens[self.place - 1][1] != ")"):
                    raise NoFormError  # 1/2x and 12 34 can be read in two ways
                is_mixed = first_number and len(factors) == 1 and self.is_plain_fraction()
                factor = self.power()
                if is_mixed:
                    factors = [("mixed", factors[0], factor)]
                else:
                    factors.append(factor)
            else:
                break
        return product_of([*factors, MINUS_ONE] if negations % 2 else factors)

    def is_plain_fraction(self) -> bool:
        r"""Tell whether ``\frac{m}{n}`` of two whole numbers comes next; after a whole number it makes a mixed one."""
        following = [token for _, token in self.tokens[self.place : self.place + 7]]
        return (
            len(following) == 7
            and following[0] == r"\frac"
            and following[2].isdigit()
            and following[5].isdigit()
            and self.tokens[self.place - 1][1].isdigit()
        )

    def signed_power(self) -> Form:
        """Read a factor with a sign of its own, as in ``2 * -3``."""
        if self.peek() in ("+", "-"):
            sign = self.take()
            factor = self.signed_power()
            return negative(factor) if sign == "-" else factor
        return self.power()

    def starts_factor(self) -> bool:
        """Tell whether a factor may begin here without a sign."""
        kind, token = self.tokens[self.place] if self.place < len(self.tokens) else ("", "")
        if kind == "name":
            return token not in _NOT_SYMBOLS and token not in _PRODUCTS | _DIVISIONS | {r"\rfloor", r"\rceil"}
        return kind == "number" or token in ("(", "[", "{") or (token == "|" and not self.bars)

    def power(self) -> Form:
        """Read an atom with its exponents and factorial signs."""
        base = self.atom()
        while self.peek() in ("^", "!"):
            base = power(base, self.group()) if self.take() == "^" else ("factorial", base)
        return base

    def group(self) -> Form:
        """Read an argument: in braces, or one token."""
        if self.peek() == "{":
            return self.bracketed()
        if self.peek() == "-":
            self.take()
            return negative(self.group())
        return self.atom()

    def bracketed(self) -> Form:
        """Read an expression in brackets."""
        opening = self.take()
        self.bars += opening == "|"
        inner = self.sum()
        self.take(_BRACKETS[opening])
        self.bars -= opening == "|"
        names = {"|": "abs", r"\lfloor": "floor", r"\lceil": "ceil"}
        return (names[opening], inner) if opening in names else inner

    def atom(self) -> Form:
        """Read a number, symbol, bracket, fraction, root or function."""
        kind, token = self.tokens[self.place] if self.place < len(self.tokens) else ("", "")
        if kind == "number":
            return ("num", Fraction(self.take()))
        if token in _BRACKETS:
            return self.bracketed()
        if kind != "name" or token in _NOT_SYMBOLS:
            raise NoFormError
        self.take()
        if token in (r"\frac", r"\binom"):
            above, below = self.group(), self.group()
            return product_of([above, power(below, MINUS_ONE)]) if token == r"\frac" else ("binom", above, below)
        if token == r"\sqrt":
            return self.root()
        if token in _FUNCTIONS:
            return self.function(token)
        return self.symbol(token)

    def root(self) -> Form:
        """Read a root, with or without its degree."""
        degree: Form = ("num", Fraction(2))
        if self.peek() == "[":
            self.take()
            degree = self.sum()
            self.take("]")
        return power(self.group(), power(degree, MINUS_ONE))

    def function(self, name: str) -> Form:
        """Read a function of one argument, or of several in round brackets."""
        base = exponent = None
        while self.peek() in ("_", "^"):
            if self.take() == "_":
                base = self.group()
            else:
                exponent = self.group()
        if self.peek() == "(":
            self.take()
            arguments = [self.sum()]
            while self.peek() == ",":
                self.take()
                arguments.append(self.sum())
            self.take(")")
        else:
            arguments = [self.group_product()]
        form: Form = (name, *([base] if base else []), *arguments)
        return power(form, exponent) if exponent else form

    def group_product(self) -> Form:
        """Read the argument of a function without brackets: factors up to the next sign."""
        factors = [self.power()]
        while self.starts_factor() and self.peek() not in _FUNCTIONS and self.peek() != "(":
            factors.append(self.power())
        return product_of(factors)

    def symbol(self, token: str) -> Form:
        """Read the index of a variable, if it has one."""
        if self.peek() == "_":
            self.take()
            token += f"_{self.group()!r}"
        return ("sym", token)


@lru_cache(maxsize=4096)
def form(text: str) -> Form | None:
    """Read a normalised expression; None for one that the grammar does not know."""
    try:
        parser = _Parser(text)
        found = parser.sum()
    except (NoFormError, RecursionError, ZeroDivisionError, OverflowError):
        return None
    return found if parser.place == len(parser.tokens) else None
