import ast
import datetime as dt
import math
import pickle
import sys
from array import array
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import pytest

from redraft.rewards.library.code.programs import PROGRAM_SOURCE
from redraft.rewards.library.code.session import SERVE_SOURCE
from redraft.rewards.library.code.wire import MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS, Record, WireError, dumps, loads

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**53 - 1,
    -(2**53),
    2**63,
    -(10**5000),
    0.0,
    -0.0,
    0.1,
    5e-324,
    1.7976931348623157e308,
    math.inf,
    -math.inf,
    1 + 2j,
    complex(-0.0, math.inf),
    "",
    'quote " back \\ slash / tab \t null \x00 delete \x7f',
    "é 漢 😀",
    "\ud800",
    "\ud83d\ude00",  # two lone surrogates, not the one character that UTF-16 would make of them
    b"",
    bytes(range(256)),
    [],
    (),
    set(),
    frozenset(),
    {},
    [1, 2, 3],
    ["a", "b"],
    [1, True, None, "x", 1.5],
    ["l", 1],
    [[[]], ()],
    (1, [2, (3,)]),
    {1, 2, (3, 4)},
    frozenset({frozenset(), 1}),
    {1: "a", "b": [2.5], (1, 2): {"c": None}, None: b"x"},
    range(0, 10, 3),
    [2**53, 1],
    ["é", "\udfff"],
    [deque([1, [2]], 5), Counter("aab"), OrderedDict(b=1, a=2), {1: 2}.keys(), {1: 2}.items()],
    [defaultdict(list, {1: [2]}), bytearray(b"ab"), array("d", [1.5])],
    Fraction(-1, 3),
    Decimal("1.50"),
    Decimal("-Infinity"),
    [dt.date(2024, 2, 29), dt.datetime(2024, 1, 1, 23, 59, 59, 999_999, fold=1), dt.timedelta(-1, 5, 7)],
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))),
    {dt.date(1, 1, 1): dt.time(1, 2, 3), dt.time(0, tzinfo=dt.UTC): dt.UTC},
    {Fraction(1, 2): Decimal(0)},
]


def same(left, right):
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, float | complex):
        return repr(left) == repr(right)  # tells -0.0 from 0.0
    return left == right


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:30] if value != -(10**5000) else "huge")
@pytest.mark.parametrize("around", [lambda v: v, lambda v: [v], lambda v: ((v, 0), v), lambda v: {"key": v}])
def test_a_value_comes_back_as_it_was_type_and_all(value, around):
    assert same(loads(dumps(around(value))), around(value))


def test_nan_comes_back_as_nan():
    assert math.isnan(loads(dumps([float("nan")]))[0])


class Liar(float):
    def __eq__(self, other):
        return True

    __hash__ = float.__hash__


class OwnDict(dict):
    pass


class OwnStr(str):
    pass


@pytest.mark.parametrize("value", [Liar(1), OwnDict(a=1), OwnStr("a"), object(), int, len, iter([]), {1: print}])
def test_anything_but_exact_built_in_values_is_refused(value):
    with pytest.raises(WireError, match="cannot cross"):
        dumps(value)


def test_a_lenient_writer_sends_the_built_in_content_of_a_subclass():
    crossed = loads(dumps([Liar(2.5), OwnDict(a=1), OwnStr("b"), (n for n in range(3))], lenient=True))
    assert [type(value) for value in crossed[:3]] == [float, dict, str]
    assert crossed[:3] == [2.5, {"a": 1}, "b"]
    assert list(crossed[3]) == [0, 1, 2]
    with pytest.raises(WireError, match="cannot cross"):
        dumps(object(), lenient=True)


class LyingFraction(Fraction):
    def __eq__(self, other):
        return True

    __hash__ = Fraction.__hash__


class LyingDate(dt.date):
    def __eq__(self, other):
        return True

    __hash__ = dt.date.__hash__


@pytest.mark.parametrize("value", [LyingFraction(1, 2), LyingDate(2024, 1, 1)])
def test_a_subclass_of_a_library_type_is_refused_or_crosses_as_that_type(value):
    with pytest.raises(WireError, match="cannot cross"):
        dumps(value)
    crossed = loads(dumps(value, lenient=True))
    assert type(crossed) is type(value).__base__
    assert crossed != type(value).__base__(3, 4, *[5] * isinstance(value, dt.date))


Pair = namedtuple("Pair", "left right count")


@dataclass(frozen=True)
class Box:
    width: int
    name: str


@dataclass
class LyingBox:
    width: int

    def __eq__(self, other):
        return True


def test_a_named_tuple_crosses_with_its_fields():
    crossed = loads(dumps([Pair(1, "a", 2), Pair(3, "b", 4)]))
    assert crossed == [(1, "a", 2), (3, "b", 4)]
    assert (crossed[0].left, crossed[1].right, crossed[1].count) == (1, "b", 4)
    assert type(crossed[0]) is type(crossed[1]) is not Pair
    assert loads(dumps(crossed)) == crossed


def test_a_dataclass_crosses_as_a_record_that_is_equal_by_its_fields():
    crossed = loads(dumps(Box(2, "b"), lenient=True))
    assert type(crossed) is Record
    assert (crossed.width, crossed.name, repr(crossed)) == (2, "b", "Box(width=2, name='b')")
    assert crossed == loads(dumps(Box(2, "b")))
    assert crossed == loads(dumps(crossed))
    assert crossed != loads(dumps(Box(3, "b")))
    assert crossed != loads(dumps(LyingBox(2)))
    assert loads(dumps(LyingBox(2))) != 2


@pytest.mark.parametrize("name", ["__eq__", "__class__", "name_", "fields_"])
def test_no_field_of_a_record_changes_how_it_compares(name):
    text = f'["o","Box",false,["l","{name}"],["l",5]]'.encode()
    crossed = loads(text)
    assert type(crossed) is Record
    assert crossed not in (5, loads(dumps(Box(2, "b"))))
    assert crossed == loads(text)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_depth_elements_and_size_have_caps():
    assert loads(dumps(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(WireError, match="nested deeper"):
        dumps(nested(MAX_DEPTH + 1))
    with pytest.raises(WireError, match="elements"):
        dumps([None] * (MAX_ELEMENTS + 1))
    with pytest.raises(WireError, match="elements"):
        dumps(iter(int, 1), lenient=True)
    with pytest.raises(WireError, match="at most"):
        dumps("a" * MAX_BYTES)


BAD_TEXTS = {
    "empty": b"",
    "cut": b'["l",1',
    "two values": b"1 2",
    "not ascii": "é".encode(),
    "a bare float": b"1.5",
    "a bare NaN": b"NaN",
    "a bare object": b'{"a":1}',
    "no tag": b"[]",
    "a tag that is no text": b"[1,2]",
    "a tag that is a list": b'[["l"],2]',
    "an unknown tag": b'["q","1"]',
    "a class by name": b'["o","os.system","true"]',
    "an odd dict": b'["d",1]',
    "an unhashable key": b'["d",["l"],1]',
    "an unhashable member": b'["s",["l"]]',
    "a float that is text": b'["f","one"]',
    "an int that is a list": b'["i",["l"]]',
    "too many parts": b'["i","1","2","3"]',
    "a range of text": b'["r","a"]',
    "an endless range": b'["r",0,1,0]',
    "odd hex": b'["b","abc"]',
    "bytes that are no text": b'["u","ff"]',
    "too deep": b'["l",' * 200 + b"1" + b"]" * 200,
    "far too deep": b"[" * 1_000_000,
    "a long decimal": b"1" * 5000,
    "too long": b'"' + b"a" * MAX_BYTES + b'"',
    "a fraction by zero": b'["x","Fraction",1,0]',
    "a fraction of text": b'["x","Fraction","1e99999999",1]',
    "a decimal that is none": b'["x","Decimal","one"]',
    "a decimal of parts": b'["x","Decimal",1]',
    "a day that is none": b'["x","date",2024,2,30]',
    "a date of booleans": b'["x","date",true,true,true]',
    "a zone of a week": b'["x","timezone",604800000000]',
    "an unknown type": b'["x","Path","/"]',
    "an array of objects": b'["x","ndarray","|O",["l",1],["b","0000000000000000"]]',
    "a record without a name": b'["o","os.system",false,["l"],["l"]]',
    "a queue of a range that nobody could hold": b'["x","deque",["r",0,1000000000000,1]]',
    "a byte array of a length": b'["x","bytearray",5]',
    "a record of too few values": b'["o","Box",false,["l","a"],["l"]]',
    "a named tuple of a keyword": b'["o","class",true,["l","a"],["l",1]]',
    "a pickle": pickle.dumps([1, 2]),
}


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_malformed_text_is_refused(text):
    with pytest.raises(WireError):
        loads(text)


@pytest.mark.parametrize("source", [SERVE_SOURCE, PROGRAM_SOURCE])
def test_the_text_that_runs_in_the_sandbox_imports_nothing_of_ours(source):
    tree = ast.parse(source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in imports for alias in node.names if isinstance(node, ast.Import)}
    modules |= {str(node.module) for node in imports if isinstance(node, ast.ImportFrom)}
    assert modules <= sys.stdlib_module_names
    needed = {"WireError", "dumps", "loads", "Record", "read_rich", "rich_parts"}
    assert needed <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
