"""The forms in which public data sets keep the tests of a row, brought to one.

Plain columns are ``test``, ``test_list``, ``inputs``, ``outputs`` and ``fn_name``, as `code.suite` reads them.
Where a row has none of these, the tests are in one of `PACKED_COLUMNS`, as a value or as its JSON text:

* a mapping with ``inputs`` and ``outputs`` (and ``fn_name``), or ``input`` and ``output``: APPS, TACO, PRIME, verl
* a list of cases, each with ``input`` and ``output``: LiveCodeBench, DeepCoder, SYNTHETIC-1
* a list of assertions, or a mapping with ``assert_case``, ``asserts``, ``functional`` or ``test``

LiveCodeBench's private cases are a pickle of a text; the unpickler that reads it knows no class and no function.
"""

import ast
import base64
import contextlib
import functools
import io
import json
import pickle
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redraft.rewards.library.code.columns import CASE_LISTS, PACKED_COLUMNS, PLAIN_COLUMNS

_MAX_UNPACKED_BYTES = 256 << 20
MAX_DIGITS = 200_000
"""Of an integer that the trusted side reads or prints, which takes a third of a second. Candidates have no limit."""


class BrokenTestsError(Exception):
    """The columns of a row do not make tests that can decide anything."""


@contextlib.contextmanager
def long_integers() -> Iterator[None]:
    """Allow long decimal integers in a block; Python's own limit is 4300 digits."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(MAX_DIGITS)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a row to its plain columns.

    Raises:
        BrokenTestsError: The tests are packed in a form that is none of the known ones.
    """
    plain = {name: row.get(name) for name in PLAIN_COLUMNS}
    plain["fn_name"] = plain["fn_name"] or None  # tables write "" for none
    if any(row.get(name) is not None for name in ("test", "test_list", "inputs", "outputs")):
        return plain | {name: _listed(plain[name]) for name in ("inputs", "outputs", "test_list")}
    cases: list[Any] = []
    for name in CASE_LISTS:
        if row.get(name) is not None:
            cases += _cases(row[name], name)
    if cases:
        metadata = from_json(row.get("metadata"))
        named = metadata.get("func_name") if isinstance(metadata, Mapping) else None
        return plain | _of_cases(cases, plain["fn_name"] or named)
    for name in PACKED_COLUMNS:
        if row.get(name) is not None:
            return plain | _unpacked(row[name], name, plain["fn_name"])
    return plain


def _listed(value: Any) -> Any:
    """Return a list, also of its JSON text; another text or number becomes the only entry of one."""
    decoded = from_json(value)
    alone = isinstance(value, str | int | float) and not isinstance(decoded, list)
    return [value] if alone else decoded


def holds_tests(value: Any) -> bool:
    """Tell whether a value, or a JSON text, is the tests of a row and not an answer to it."""
    value = from_json(value)
    if isinstance(value, list) and value:
        return all(isinstance(part, Mapping) or (isinstance(part, str) and "assert" in part) for part in value)
    return isinstance(value, Mapping) and bool(
        value.keys() & {*PACKED_COLUMNS, "inputs", "input", "assert_case", "asserts", "functional"}
    )


def _unpacked(value: Any, name: str, fn_name: Any) -> dict[str, Any]:
    if isinstance(value, str):
        decoded = from_json(value)
        if not isinstance(decoded, str):
            return _unpacked(decoded, name, fn_name)
        if "assert" in value:
            return {"test": value}
    elif isinstance(value, Mapping):
        return _of_mapping(value, name, fn_name)
    elif isinstance(value, Sequence) and value:
        if all(isinstance(part, str) for part in value):
            return {"test_list": list(value)}
        if all(isinstance(part, Mapping) for part in value):
            return _of_cases(list(value), fn_name)
    raise BrokenTestsError(
        f"{name} holds no tests that can be read: {str(value)[:60]!r}; give inputs and outputs, a list of cases with "
        "input and output, or assertions, as a value or as JSON"
    )


def _of_mapping(value: Mapping[str, Any], name: str, fn_name: Any) -> dict[str, Any]:
    fn_name = value.get("fn_name") or fn_name
    if value.get("assert_case") or value.get("asserts") or value.get("test_list"):
        return {"test_list": value.get("assert_case") or value.get("asserts") or value.get("test_list")}
    if value.get("functional") or value.get("test"):
        return {"test": value.get("functional") or value.get("test"), "entry_point": value.get("entry_point")}
    if value.get("inputs") is not None:
        given = from_json(value["inputs"])
        if fn_name and isinstance(given, Sequence):
            given = [_with_int_keys(arguments) for arguments in given]
        return {"inputs": given, "outputs": from_json(value.get("outputs")), "fn_name": fn_name}
    if isinstance(value.get("input"), Sequence) and not isinstance(value["input"], str):  # code_contests
        return {"inputs": value["input"], "outputs": value.get("output"), "fn_name": fn_name}
    inner = next((value[key] for key in (*PACKED_COLUMNS, CASE_LISTS[0]) if value.get(key) is not None), None)
    if inner is None:
        raise BrokenTestsError(
            f"{name} has the keys {', '.join(map(str, value))}; of tests inputs and outputs, test_cases, assert_case, "
            "functional or test"
        )
    return _unpacked(inner, name, fn_name)


def _of_cases(cases: Sequence[Any], fn_name: Any) -> dict[str, Any]:
    """Return the columns for a list of cases. They are calls where the cases say so, or where a name is known."""
    if not all(isinstance(case, Mapping) and {"input", "output"} <= case.keys() for case in cases):
        raise BrokenTestsError("each test case needs an input and an output")
    kinds = {str(case.get("testtype") or case.get("type") or "") for case in cases}
    calls = {kind for kind in kinds if kind in ("functional", "function_call")}
    if calls and calls != kinds:
        raise BrokenTestsError(f"test cases of several kinds in one row: {', '.join(sorted(kinds))}; give one kind")
    inside = [from_json(case.get("metadata")) for case in cases]
    names = [case.get("fn_name") or (more or {}).get("func_name") for case, more in zip(cases, inside, strict=True)]
    name = next(filter(None, names), fn_name)
    if calls and not name:
        raise BrokenTestsError("functional test cases need fn_name, or metadata with func_name")
    columns = {"inputs": [case["input"] for case in cases], "outputs": [case["output"] for case in cases]}
    return columns | {"fn_name": name if calls or not kinds - {""} else None}


def _cases(value: Any, name: str) -> Sequence[Any]:
    decoded = from_json(value)
    if isinstance(decoded, str):
        try:
            packed = zlib.decompressobj().decompress(base64.b64decode(decoded, validate=True), _MAX_UNPACKED_BYTES)
            decoded = from_json(_TextUnpickler(io.BytesIO(packed)).load())
        except (ValueError, zlib.error, pickle.UnpicklingError, EOFError, IndexError, AttributeError):
            raise BrokenTestsError(f"{name} is text, but neither JSON nor LiveCodeBench's packed JSON") from None
    if not isinstance(decoded, Sequence) or isinstance(decoded, str):
        raise BrokenTestsError(f"{name} must be a list of test cases, got {type(decoded).__name__}")
    return decoded


class _TextUnpickler(pickle.Unpickler):
    """Reads pickles of built-in values. A class or function by name is refused, so that nothing can be executed."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Refuse every class and function."""
        raise pickle.UnpicklingError(f"names {module_name}.{global_name}")


def _with_int_keys(arguments: Any) -> Any:
    """Restore integers as keys of mappings, which JSON had to write as text."""
    if not isinstance(arguments, list):
        return arguments
    return [
        {int(key): value for key, value in argument.items()}
        if isinstance(argument, dict) and argument and all(is_integer_text(key) for key in argument)
        else argument
        for argument in arguments
    ]


def is_integer_text(key: Any) -> bool:
    """Tell whether a text is an integer as JSON writes one that was a key."""
    return isinstance(key, str) and key.isascii() and key.lstrip("-").isdigit() and str(int(key)) == key


def from_json(value: Any) -> Any:
    """Read a text of JSON, or one as Python prints values; return other texts and values as they are."""
    if isinstance(value, str):
        readers = (_json, ast.literal_eval) if value.lstrip()[:2] in ("{'", "[{", "['") else (_json,)
        for read in readers:
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError), long_integers():
                return read(value)
    return value


@functools.lru_cache(maxsize=64)  # the completions of one prompt share a row
def _json(text: str) -> Any:
    return json.loads(text)
