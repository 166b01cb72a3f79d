"""Values of Python's library that cross the wire, and records: each is taken apart into plain parts and made of them.

Like `code.wire`, this runs on both sides, in the sandbox as text. A module is imported only when a value of it is made.
Arrays cross where both sides have imported numpy.
"""

import sys

_HOMES = {"Fraction": "fractions", "Decimal": "decimal", "ndarray": "numpy"}
_HOMES |= dict.fromkeys(("datetime", "date", "time", "timedelta", "timezone"), "datetime")
_HOMES |= dict.fromkeys(("deque", "Counter", "OrderedDict", "defaultdict"), "collections")
_HOMES |= {"bytearray": "builtins", "array": "array"}
_VIEWS = ("dict_keys", "dict_values", "dict_items")
_FACTORIES = {kind.__name__: kind for kind in (int, float, str, bool, list, tuple, set, dict)}  # of defaultdicts


class WireError(ValueError):
    """A value that may not cross, or a text that is no value."""


def rich_parts(value, kind, lenient):
    """Return the name of a rich type and the parts of the value; None for other types. Subclasses count if lenient."""
    for name, home in _HOMES.items():
        like = getattr(sys.modules.get(home), name, None)
        if like is not None and (kind is like or (lenient and isinstance(value, like))):
            return name, *_PARTS[name](value)
    view = kind.__name__.removeprefix("o")  # of an OrderedDict
    return (view, list(value)) if view in _VIEWS and kind.__module__ == "builtins" else None


def record_parts(value, kind):
    """Return name, whether it is a tuple, names of fields and values of a dataclass or a named tuple."""
    if isinstance(value, tuple):
        return kind.__name__, True, list(kind._fields), list(value)
    names = [*value.fields_] if kind is Record else [*kind.__dataclass_fields__]
    name = value.name_ if kind is Record else kind.__name__
    return name, False, names, [getattr(value, field, None) for field in names]


def _clock(value):
    offset = value.utcoffset()
    return value.hour, value.minute, value.second, value.microsecond, value.fold, _microseconds(offset)


def _microseconds(delta):
    return None if delta is None else (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds


# The parts of a value, of the exact type or a subclass, each of which can be written.
_PARTS = {
    "Fraction": lambda value: (value.numerator, value.denominator),
    "Decimal": lambda value: (sys.modules["decimal"].Decimal.__str__(value),),
    "ndarray": lambda value: (value.dtype.str, list(value.shape), value.tobytes()),
    "datetime": lambda value: (value.year, value.month, value.day, *_clock(value)),
    "date": lambda value: (value.year, value.month, value.day),
    "time": _clock,
    "timedelta": lambda value: (value.days, value.seconds, value.microseconds),
    "timezone": lambda value: (_microseconds(value.utcoffset(None)),),
    "deque": lambda value: (list(value), value.maxlen),
    "Counter": lambda value: (dict(value),),
    "OrderedDict": lambda value: (dict(value),),
    "defaultdict": lambda value: (dict(value), getattr(value.default_factory, "__name__", None)),
    "bytearray": lambda value: (bytes(value),),
    "array": lambda value: (value.tolist(), value.typecode),
}


class Record:
    """A dataclass of the other side, with its fields as attributes. It equals one of that name with equal fields."""

    def __init__(self, name, names, values):
        fields = dict(zip(names, values, strict=True))
        vars(self).update(fields)
        self.name_, self.fields_ = name, fields

    def __eq__(self, other):
        return vars(self) == vars(other) if type(other) is Record else NotImplemented

    __hash__ = None  # pyright: ignore

    def __repr__(self):
        return f"{self.name_}({', '.join(f'{name}={value!r}' for name, value in self.fields_.items())})"


_named_tuples = {}  # by name and fields: making one takes long


def read_record(name, named_tuple, names, values):
    """Make a record: of the candidate's own class where this is its process, else a named tuple or a `Record`."""
    if not all(isinstance(text, str) and text.isidentifier() for text in [name, *names]):
        raise WireError("a record with a name that is none")
    own = getattr(sys.modules.get("candidate"), name, None)
    if named_tuple:
        return (own or _named_tuple(name, tuple(names)))(*values)
    if own is None:
        return Record(name, names, values)
    made = object.__new__(own)
    for field, value in zip(names, values, strict=True):
        object.__setattr__(made, field, value)
    return made


def _named_tuple(name, names):
    if (name, names) not in _named_tuples:
        from collections import namedtuple

        _named_tuples[name, names] = namedtuple(name, names, rename=True)
    return _named_tuples[name, names]


def read_rich(name, *parts):
    """Make a value of what `rich_parts` returned; any exception for parts that make none."""
    if name == "ndarray":
        return _read_array(*parts)
    if name == "Decimal":
        (text,) = map(str.strip, parts)
        from decimal import Decimal

        return Decimal(text)
    if name in _CONTAINERS:
        if type(parts[0]) not in (list, dict, bytes):  # a range of a trillion would be copied
            raise WireError(f"a {name} of a {type(parts[0]).__name__}")
        return _CONTAINERS[name](*parts)
    if not all(part is None or type(part) is int for part in parts):
        raise WireError(f"a {name} of other parts than integers")
    if name == "Fraction":
        from fractions import Fraction

        return Fraction(*parts)
    import datetime

    if name in ("datetime", "time"):
        *parts, fold, offset = parts
        zone = None if offset is None else datetime.timezone(datetime.timedelta(microseconds=offset))
        return getattr(datetime, name)(*parts, tzinfo=zone, fold=fold)
    if name == "timezone":
        return datetime.timezone(datetime.timedelta(microseconds=parts[0]))
    if name in ("date", "timedelta"):
        return getattr(datetime, name)(*parts)
    raise WireError(f"unknown type {name!r:.20}")


def _made_by(module, name):
    return lambda *parts: getattr(__import__(module), name)(*parts)


# A container of each type out of its parts, which are built-in values already.
_CONTAINERS = {
    **{name: _made_by("collections", name) for name in ("deque", "Counter", "OrderedDict")},
    "defaultdict": lambda content, kind: _made_by("collections", "defaultdict")(_FACTORIES.get(kind), content),
    "bytearray": bytearray,
    "array": lambda content, kind: _made_by("array", "array")(kind, content),
    "dict_keys": lambda items: dict.fromkeys(items).keys(),
    "dict_values": lambda items: dict(enumerate(items)).values(),
    "dict_items": lambda items: dict(items).items(),
}


def _read_array(kind, shape, content):
    numpy = sys.modules.get("numpy")
    if numpy is None and "candidate" in sys.modules:
        numpy = __import__("numpy")  # the tests hand one over to code that has not imported it itself
    if numpy is None or type(kind) is not str or len(kind) > 16 or type(content) is not bytes:
        raise WireError("an array that cannot be read here")
    kind = numpy.dtype(kind)
    if kind.kind not in "biufcSUmM":
        raise WireError(f"an array of {kind}")
    return numpy.frombuffer(content, kind).reshape(shape).copy()
