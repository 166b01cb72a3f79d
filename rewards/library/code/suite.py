"""The tests of a row, in one of three kinds, as a list of cases.

* assert: ``test_list`` (with ``test_imports`` and ``test_setup_code``), as in MBPP; ``test``, a script that makes
  assertions, defines ``check(candidate)``, with ``entry_point``, as in HumanEval, or tests for pytest or unittest to
  find (KodCode). Both, where a row has both.
* call: ``fn_name``, ``inputs`` and ``outputs``, as in LiveCodeBench: arguments in, value out.
* stdio: ``inputs`` and ``outputs`` without ``fn_name``: texts of stdin and stdout, or lists of their lines.
"""

import ast
import builtins
import importlib.util
import json
import linecache
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import CodeType
from typing import Any, Literal

from redraft.rewards.library.code.calls import METHOD, Readings, call_parts, lines_text, method_name, text_of
from redraft.rewards.library.code.collected import collected_tests
from redraft.rewards.library.code.formats import BrokenTestsError
from redraft.rewards.library.code.session import Caller

Case = Callable[[Caller], None]
_ANSWERS = {"solution", "submission", "answer", "candidate", "main"}  # files of answers, as tests import them
_DANGEROUS = {"eval", "exec", "compile", "__import__"}


@dataclass(frozen=True)
class Suite:
    """The tests of one row.

    Attributes:
        kind: How the candidate is run.
        targets: Names of the candidate that the tests call; empty for stdio.
        cases: For assert and call: each raises where the candidate is wrong.
        programs: For stdio: pairs of stdin and expected stdout.
        call_inputs: For call: positional and named arguments of each call.
        provided: Whether the candidate finds the names that LeetCode provides.
    """

    kind: Literal["assert", "call", "stdio"]
    targets: tuple[str, ...]
    cases: tuple[Case, ...] = ()
    programs: tuple[tuple[str, str], ...] = ()
    call_inputs: tuple[tuple[list[Any], dict[str, Any]], ...] = ()
    provided: bool = False


def build_suite(row: Mapping[str, Any], context: str | None, tolerance: float | None) -> Suite:
    """Read the tests of a row.

    Args:
        row: The columns; a missing one is None.
        context: Trusted code that the tests may use: HumanEval's prompt, which defines helpers.
        tolerance: Relative and absolute tolerance of floats in call tests; None for none.

    Raises:
        BrokenTestsError: No tests, or tests that are malformed.
    """
    if row.get("broken"):
        raise BrokenTestsError(row["broken"])
    if row.get("test") is not None or row.get("test_list") is not None:
        return _assert_suite(row, context or "")
    inputs, outputs = _as_list(row, "inputs"), _as_list(row, "outputs")
    if len(inputs) != len(outputs) or not inputs:
        raise BrokenTestsError(
            f"{len(inputs)} inputs for {len(outputs)} outputs; one output for each input, at least 1"
        )
    if row.get("fn_name") is None:
        return _program_suite(inputs, outputs)
    name = method_name(text_of(row["fn_name"], "fn_name"))
    calls = [call_parts(given, wanted) for given, wanted in zip(inputs, outputs, strict=True)]
    wrapped = all(isinstance(wanted, list) and len(wanted) == 1 for wanted in outputs)
    readings = Readings(tolerance, wrapped)
    cases = tuple(partial(readings.check, name, *call) for call in calls)
    return Suite("call", (name,), cases, call_inputs=tuple(call[:2] for call in calls), provided=True)


def name_under_test(row: Mapping[str, Any]) -> str | None:
    """Return the name under test where a row says it; else None."""
    name = row.get("entry_point") or row.get("fn_name")
    return method_name(name) if isinstance(name, str) else None


def _program_suite(inputs: Sequence[Any], outputs: Sequence[Any]) -> Suite:
    given = [lines_text(text, "inputs") for text in inputs]
    wanted = [lines_text(text, "outputs") for text in outputs]
    telling = tuple(pair for pair in zip(given, wanted, strict=True) if pair[1].strip())
    if not telling:
        raise BrokenTestsError("the expected outputs are empty: a program that does nothing would pass")
    return Suite("stdio", (), programs=telling)


def _assert_suite(row: Mapping[str, Any], context: str) -> Suite:
    setup = "\n".join([*_as_list(row, "test_imports"), text_of(row.get("test_setup_code") or "", "test_setup_code")])
    scripts = [f"{setup}\n{text_of(text, 'test_list')}" for text in _as_list(row, "test_list")]
    if row.get("test") is not None:
        scripts.append(f"{setup}\n{text_of(row['test'], 'test')}")
    if not scripts:
        raise BrokenTestsError("test_list is empty")
    entry_point = row.get("entry_point")
    method = entry_point is not None and METHOD.fullmatch(text_of(entry_point, "entry_point").strip())
    trees = [_parse(script) for script in scripts]
    names = _Names(trees, context)
    targets = names.targets() if entry_point is None else (method_name(entry_point),)
    cases = []
    for number, (script, tree) in enumerate(zip(scripts, trees, strict=True)):
        place = f"<tests {number}>"
        code = _quietly(compile, tree, place, "exec", dont_inherit=True)
        cases.append(partial(_run_script, code, script, context, names.modules, targets))
    return Suite("assert", targets, tuple(cases), provided=bool(method) or "Solution" in targets)


def _run_script(
    code: CodeType, script: str, context: str, modules: Sequence[str], targets: Sequence[str], caller: Caller
) -> None:
    """Run one test script in a fresh namespace, with proxies for the candidate's names."""
    before = caller.calls
    linecache.cache[code.co_filename] = (len(script), None, script.splitlines(keepends=True), code.co_filename)
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": dict(vars(builtins))}
    exec(context, namespace)
    namespace.update((name, importlib.import_module(name)) for name in modules)
    namespace.update((name, _proxy(caller, name)) for name in targets)
    exec(code, namespace)
    check = namespace.get("check")
    if callable(check) and "check" not in targets and not re.search(r"^check\(", script, re.MULTILINE):
        check(namespace[targets[0]])
    if caller.calls == before:  # a script for pytest or unittest, which run what it defines
        for test in collected_tests(namespace):
            test()


def _proxy(caller: Caller, name: str) -> Callable[..., Any]:
    if name == "Solution":
        return lambda *_: _Solution(caller)
    return lambda *args, **kwargs: caller.call(name, args, kwargs)


class _Solution:
    """Stands for an instance of the candidate's class: its methods are called on a fresh one."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._caller.call(name, args, kwargs)


def _as_list(row: Mapping[str, Any], column: str) -> list[Any]:
    value = row.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise BrokenTestsError(f"{column} is text, but not a JSON list") from None
    if not isinstance(value, list | tuple | None):
        raise BrokenTestsError(f"{column} must be a list, got {type(value).__name__}")
    return list(value or ())


def _parse(script: str) -> ast.Module:
    try:
        tree = _quietly(ast.parse, script)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BrokenTestsError(f"the tests do not parse: {error}") from None
    tree.body = [node for node in tree.body if not _is_of_answer(node)]
    imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for name in {name.partition(".")[0] for node in imported for name in _modules(node)}:
        if name not in sys.modules and importlib.util.find_spec(name) is None:  # no candidate could pass then
            raise BrokenTestsError(f"the tests import {name}, which is not installed here")
    return tree


def _is_of_answer(node: ast.stmt) -> bool:
    """Tell whether a statement imports from the file that holds the answer; such names are the candidate's."""
    return isinstance(node, ast.ImportFrom) and node.module in _ANSWERS and not any(a.asname for a in node.names)


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Return the modules that a statement imports; none for a relative import, which fails when it is run."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if node.module and not node.level else []


def _quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call the parser without its warnings about style."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


class _Names:
    """The names that test scripts use and do not define: the candidate's, and modules they forgot to import."""

    def __init__(self, trees: Sequence[ast.Module], context: str) -> None:
        nodes = [node for tree in [*trees, _parse(context)] for node in ast.walk(tree)]
        tested = [node for tree in trees for node in ast.walk(tree)]
        loaded = {node.id for node in tested if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        if loaded & _DANGEROUS:
            raise BrokenTestsError(
                f"the tests call {', '.join(loaded & _DANGEROUS)}: that could run what a candidate returns"
            )
        self._called = {
            node.func.id for node in tested if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        unknown = loaded - {name for node in nodes for name in _bound(node)}
        self._free = unknown - vars(builtins).keys()
        bases = {
            node.value.id for node in tested if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        self.modules = sorted(self._free & bases & sys.stdlib_module_names - self._called)

    def targets(self) -> tuple[str, ...]:
        """Return the names to take from the candidate.

        A built-in name counts only where nothing else is called, as for a ``sum`` in MBPP. Otherwise a candidate could
        pass with a ``set`` or ``abs`` of its own.

        Raises:
            BrokenTestsError: The tests call nothing, or only several built-in functions.
        """
        free = sorted(self._free - set(self.modules)) or sorted(self._called & vars(builtins).keys())
        if len(free) != 1 and not self._free - set(self.modules):
            raise BrokenTestsError(
                f"cannot tell which name is under test ({', '.join(free) or 'none'}); give entry_point"
            )
        return tuple(free)


def _bound(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [] if isinstance(node.ctx, ast.Load) else [node.id]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.ExceptHandler):
        return [node.name] if node.name else []
    return [node.arg] if isinstance(node, ast.arg) else []
