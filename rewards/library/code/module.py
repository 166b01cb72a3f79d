"""What a text of Python defines, needs and does at its top level; nothing of it is executed.

The text is a candidate's. Where it cannot be read, for whatever reason, it does not count as Python.
"""

import ast
import builtins
import functools
import re
import symtable
import textwrap
import warnings

_MAIN = "__name__"
_READERS = re.compile(r"\b(?:input|stdin|fileinput)\b|\bopen\(0\b|\bos\.read\(0\b")
_REPLACED_INPUT = re.compile(r"\bsys\.stdin\s*=|\bdef\s+input\b")
DEFINED, ASSIGNED, IMPORTED, SKETCHED = 4, 3, 2, 1  # how well a name is defined; 0 for not at all


def compiles(code: str) -> bool:
    """Tell whether a text is a module that Python accepts."""
    return _fault(code) is None


def _fault(code: str) -> Exception | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a candidate's string is no error
            compile(code, "<candidate>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return error
    return None


class Module:
    """A text of Python; one that is indented as a whole is taken without that indentation.

    Attributes:
        code: The text.
        valid: Whether it is Python. If it is not, what it defines is guessed.
    """

    def __init__(self, code: str) -> None:
        self._fault = _fault(code)
        if self._fault is not None and code[:1] in (" ", "\t", "\n") and compiles(even := textwrap.dedent(code)):
            self._fault, code = None, even
        self.code, self.valid = code, self._fault is None

    @property
    def broken_at(self) -> int:
        """Number of lines before the first that Python refuses; 0 where Python does not say which."""
        return (getattr(self._fault, "lineno", None) or 1) - 1

    def size(self, name: str) -> int:
        """Count the syntax nodes of the functions of that name at the top level; comments count nothing."""
        functions = [node for node in self._body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        return sum(1 for node in functions if node.name == name for _ in ast.walk(node))

    def defines(self, name: str) -> int:
        """Say how well it defines a name: `DEFINED` (def or class), `ASSIGNED`, `IMPORTED`, `SKETCHED` (no body) or 0.

        A method of a class ``Solution`` counts, and so does such a class that inherits something.
        """
        if not self.valid:
            begun = re.search(rf"^[ \t]*+(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b", self.code, re.MULTILINE)
            return DEFINED if begun else 0
        found = self._names[0].get(name, 0) or max((_method(node, name) for node in self._body), default=0)
        return SKETCHED if found == DEFINED and name in self._sketches else found

    @functools.cached_property
    def needs(self) -> set[str]:
        """Names that it uses, does not define, and that are not built in."""
        return self._names[1]

    @functools.cached_property
    def acts(self) -> bool:
        """Whether it does more than define and import."""
        idle = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
        return any(
            isinstance(part, ast.Call) for node in self._body if not isinstance(node, idle) for part in ast.walk(node)
        )

    @functools.cached_property
    def reads(self) -> bool:
        """Whether it seems to read stdin, and does not replace it by a text of its own."""
        return bool(_READERS.search(self.code)) and not _REPLACED_INPUT.search(self.code)

    def definitions(self) -> str:
        """Return the text without what only tries its definitions: bare calls, assertions, the ``__main__`` part."""
        kept: set[int] = set()
        for node in self._body:
            if not isinstance(node, ast.Expr | ast.Assert) and not _is_main(node):
                first = min([node.lineno, *(part.lineno for part in getattr(node, "decorator_list", ()))])
                kept |= set(range(first - 1, node.end_lineno or node.lineno))
        return "".join(f"{line}\n" for row, line in enumerate(self.code.split("\n")) if row in kept)

    @functools.cached_property
    def _body(self) -> list[ast.stmt]:
        if not self.valid:
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(self.code).body

    @functools.cached_property
    def _sketches(self) -> set[str]:
        """Functions of the top level with an empty body: ``...``, ``pass``, a docstring."""
        functions = [node for node in self._body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        idle = [all(isinstance(part, ast.Pass) or _is_constant(part) for part in node.body) for node in functions]
        return {node.name for node, empty in zip(functions, idle, strict=True) if empty}

    @functools.cached_property
    def _names(self) -> tuple[dict[str, int], set[str]]:
        """The names that it binds, with how well, and those that it needs."""
        if not self.valid:
            return {}, set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            top = symtable.symtable(self.code, "<candidate>", "exec")
        bound = {symbol.get_name(): _how(symbol) for symbol in top.get_symbols() if _how(symbol)}
        used = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
        tables = list(top.get_children())
        while tables:
            table = tables.pop()
            tables += table.get_children()
            for symbol in table.get_symbols():
                if symbol.is_declared_global() and symbol.is_assigned():
                    bound.setdefault(symbol.get_name(), ASSIGNED)
                if symbol.is_global() and symbol.is_referenced():
                    used.add(symbol.get_name())
        return bound, used - bound.keys() - vars(builtins).keys() - {"exit", "quit"}


def _how(symbol: symtable.Symbol) -> int:
    if symbol.is_namespace():
        return DEFINED
    return IMPORTED if symbol.is_imported() else ASSIGNED if symbol.is_assigned() else 0


def _method(node: ast.stmt, name: str) -> int:
    if not isinstance(node, ast.ClassDef) or node.name != "Solution":
        return 0
    functions = {part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
    assigned = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return DEFINED if node.bases or name in functions | assigned else 0


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == _MAIN for part in ast.walk(node.test)
    )
