"""Typed JSON: the values that cross between the checker and the program it does not trust.

A value is null, true, false, a small integer, a string, or ``[tag, ...]``. What is read back consists of exact types
of Python and its library only, so comparing it runs no ``__eq__`` of the sender's. There is no pickle here, and the
classes that a sender can name are those of `code.values`, each made from checked parts.

This file is also part of the text that runs inside the sandbox, so it imports nothing of ours, and not `json`: that
would bring in `re` and double the start-up of every sandboxed program.
"""

import itertools
import sys
from _json import encode_basestring_ascii, make_scanner

from redraft.rewards.library.code.values import Record, WireError, read_record, read_rich, record_parts, rich_parts

MAX_BYTES = 16 << 20
MAX_DEPTH = 64
MAX_ELEMENTS = 4_000_000
_SMALL = 1 << 53
_COLLECTIONS = {"l": list, "t": tuple, "s": set, "z": frozenset, "g": iter}
_TAGS = {list: "l", tuple: "t", set: "s", frozenset: "z"}
_PLAIN = {int, str, bool, type(None)}
_SCALARS = (int, float, complex, str, bytes)
_BUILT_IN = {*_SCALARS, *_TAGS, dict, range}


def dumps(value: object, lenient: bool = False) -> bytes:
    """Write a value.

    Args:
        value: None, bool, int, float, complex, str, bytes, bytearray, range, Fraction, Decimal, what `datetime` has,
            arrays, and list, tuple, set, frozenset, dict, what `collections` has, views of dicts, named tuples and
            dataclasses of those. A scalar of numpy is written as Python's.
        lenient: Write an instance of a subclass as its base, and an iterator as the items it still has, instead of
            refusing them.

    Raises:
        WireError: Any other type, nested deeper than `MAX_DEPTH`, more than `MAX_ELEMENTS` or `MAX_BYTES`.
    """
    try:
        written = _Writer(lenient).write(value, 0).encode("ascii")
    except RecursionError:  # the caller is deep down itself
        raise WireError("nested too deep") from None
    if len(written) > MAX_BYTES:
        raise WireError(f"a value of {len(written)} bytes; at most {MAX_BYTES}")
    return written


def loads(text):
    """Read a value that `dumps` wrote; built-in types only.

    Raises:
        WireError: Anything else, however it is malformed.
    """
    if len(text) > MAX_BYTES:
        raise WireError(f"a value of {len(text)} bytes; at most {MAX_BYTES}")
    try:
        decoded = text.decode("ascii")
        parsed, end = _SCAN(decoded, 0)
        if end != len(decoded):
            raise WireError("text after the value")
        return _Reader().read(parsed, 0)
    except WireError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, StopIteration, RecursionError, MemoryError) as error:
        raise WireError(f"malformed: {type(error).__name__}: {str(error)[:100]}") from None


class _Writer:
    def __init__(self, lenient: bool) -> None:
        self._lenient, self._left = lenient, MAX_ELEMENTS

    def write(self, value, depth):
        if value is None:
            return "null"
        kind = type(value)
        if kind is bool:
            return "true" if value else "false"
        if kind is int and -_SMALL < value < _SMALL:
            return repr(value)
        if kind is str and value.isascii():
            return encode_basestring_ascii(value)
        if depth > MAX_DEPTH:
            raise WireError(f"nested deeper than {MAX_DEPTH}")
        return self._write_tagged(value, kind, depth)

    def _write_tagged(self, value, kind, depth):
        if kind is Record or hasattr(kind, "__dataclass_fields__") or hasattr(kind, "_fields"):
            return self._collection("o", record_parts(value, kind), depth)
        parts = None if kind in _BUILT_IN else rich_parts(value, kind, self._lenient)
        if parts is not None:
            return self._collection("x", parts, depth)
        if self._lenient:
            kind = next((base for base in (*_SCALARS, *_TAGS, dict) if isinstance(value, base)), kind)
        if kind in _TAGS:
            return self._collection(_TAGS[kind], kind.__iter__(value), depth)  # pyright: ignore
        if kind is dict:
            return self._collection("d", itertools.chain.from_iterable(dict.items(value)), depth)
        if kind in _SCALARS:
            return _scalar(value, kind)
        if kind is range:
            return self._collection("r", (value.start, value.stop, value.step), depth)
        if self._lenient and hasattr(kind, "__next__"):
            return self._collection("g", value, depth)
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            return self.write(value.item(), depth + 1)
        raise WireError(f"an object of type {kind.__name__} cannot cross; built-in values can")

    def _collection(self, tag, items, depth):
        items = list(itertools.islice(items, self._left + 1))
        self._left -= len(items)
        if self._left < 0:
            raise WireError(f"more than {MAX_ELEMENTS} elements")
        kinds = set(map(type, items))
        if kinds == {int} and min(items) > -_SMALL and max(items) < _SMALL:
            written = map(repr, items)
        elif kinds == {str} and all(map(str.isascii, items)):
            written = map(encode_basestring_ascii, items)
        else:
            written = (self.write(item, depth + 1) for item in items)
        return ",".join(itertools.chain((f'["{tag}"',), written)) + "]"


def _scalar(value, kind):
    """One int, float, complex, str or bytes, or a subclass of one, in its tagged form."""
    if kind is int:
        return f'["i","{int.__format__(value, "x")}"]'
    if kind is float:
        return f'["f","{float.hex(value)}"]'
    if kind is complex:
        return f'["c","{float.hex(value.real)}","{float.hex(value.imag)}"]'
    if kind is bytes:
        return f'["b","{bytes.hex(value)}"]'
    return f'["u","{str.encode(value, "utf-8", "surrogatepass").hex()}"]'


class _Reader:
    def __init__(self) -> None:
        self._left = MAX_ELEMENTS

    def read(self, item, depth):
        kind = type(item)
        if item is None or kind is bool or kind is int or kind is str:
            return item
        if kind is not list or depth > MAX_DEPTH + 1:
            raise WireError(f"nested deeper than {MAX_DEPTH}" if kind is list else f"a bare {kind.__name__}")
        tag = item[0]
        if tag in _COLLECTIONS:
            return _COLLECTIONS[tag](self._items(item, depth))
        if tag == "d":
            items = self._items(item, depth)
            return dict(zip(items[::2], items[1::2], strict=True))
        if tag == "r":
            return range(*self._items(item, depth))
        if tag == "x":
            return read_rich(*self._items(item, depth))
        if tag == "o":
            return read_record(*self._items(item, depth))
        return _read_scalar(*item)

    def _items(self, item, depth):
        self._left -= len(item) - 1
        if self._left < 0:
            raise WireError(f"more than {MAX_ELEMENTS} elements")
        if _PLAIN.issuperset(map(type, item)):
            return item[1:]
        return [self.read(part, depth + 1) for part in item[1:]]


def _read_scalar(tag, text, imaginary="0x0p+0"):
    if tag == "i":
        return int(text, 16)
    if tag == "f":
        return float.fromhex(text)
    if tag == "c":
        return complex(float.fromhex(text), float.fromhex(imaginary))
    if tag == "b":
        return bytes.fromhex(text)
    if tag == "u":
        return bytes.fromhex(text).decode("utf-8", "surrogatepass")
    raise WireError(f"unknown tag {tag!r:.20}")


def _refuse(text):
    raise WireError(f"a bare {text!r:.20}")


class _Strict:
    """Settings of the scanner of `json`: control characters are errors, and floats have a tag of their own."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = parse_constant = staticmethod(_refuse)
    parse_int = int
    memo: dict = {}  # noqa: RUF012 - the scanner's own scratch space, emptied by it


_SCAN = make_scanner(_Strict())  # pyright: ignore
