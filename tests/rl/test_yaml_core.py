"""YAML by the core schema: numbers, booleans, text; keys written twice; what is dumped reads back."""

import math
import random
import re

import pytest

from redraft.rl.config.yaml_core import Plain, YamlError, dump_yaml, parse_yaml

INTEGER = re.compile(r"[-+]?[0-9]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def value(text):
    found = parse_yaml(f"key: {text}", "file")["key"]
    return found.value if isinstance(found, Plain) else found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-6", 1e-6), ("-1e-3", -1e-3), ("+2e-1", 0.2), (".5", 0.5), ("-.5", -0.5), ("1.", 1.0), ("1E+2", 100.0),
        ("0o17", 15), ("0x1F", 31), ("010", 10), ("-7", -7), ("+7", 7), ("0", 0), ("-0o17", "-0o17"),
        ("1_000", "1_000"), ("0b11", "0b11"), ("1:30", "1:30"), ("2024-06-01", "2024-06-01"), ("12:00:00", "12:00:00"),
        ("true", True), ("True", True), ("TRUE", True), ("false", False), ("tRUE", "tRUE"),
        ("off", "off"), ("on", "on"), ("yes", "yes"), ("no", "no"), ("NO", "NO"), ("y", "y"), ("n", "n"),
        ("null", None), ("~", None), ("", None), ("NULL", None), ("nUll", "nUll"), ("None", "None"),
        (".inf", math.inf), ("-.INF", -math.inf), ("inf", "inf"), ("nan", "nan"), ("e5", "e5"), ("1e", "1e"),
        ("'12e45678'", "12e45678"), ('"7e2"', "7e2"), ("'true'", "true"), ("'null'", "null"), ("''", ""), ("=", "="),
        ("!!str 010", "010"), ("!!int '3'", 3), ("!!float 3", 3), ("|\n  12\n", "12\n"), (">-\n  off\n", "off"),
    ],
)  # fmt: skip
def test_a_scalar_has_the_value_of_the_core_schema(text, expected):
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_any_plain_scalar_is_a_number_exactly_where_the_grammar_says_so():
    draw = random.Random(0)
    kinds = {int: 0, float: 0, str: 0}
    for _ in range(4000):
        text = "".join(
            draw.choices("0123456789.eE+-_x", weights=[9] * 10 + [8, 4, 2, 5, 6, 1, 1], k=draw.randint(1, 6))
        )
        if text.startswith("0x") or text == "-":
            continue
        if FLOAT.fullmatch(text) and not INTEGER.fullmatch(text) and math.isinf(float(text)):
            with pytest.raises(YamlError, match="too large a number"):
                value(text)
            continue
        found = value(text)
        expected = int(text) if INTEGER.fullmatch(text) else float(text) if FLOAT.fullmatch(text) else text
        assert found == expected, text
        kinds[type(found)] += 1
    assert min(kinds.values()) > 100


def test_the_text_of_a_plain_scalar_is_kept_as_written():
    found = parse_yaml("[91e4573, 010, 1.0, TRUE, 2024-06-01]", "file")
    assert found == ["91e4573", "010", "1.0", "TRUE", "2024-06-01"]


@pytest.mark.parametrize("text", ["12e45678", "-1e999", "9" * 5000])
def test_a_number_that_none_can_hold_is_refused_as_a_number(text):
    with pytest.raises(YamlError, match=r"too large a number|too long"):
        value(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "file:3: the key 'a' is written twice, first in line 1"),
        ("a:\n  b:\n    c: 1\n    d: {x: 1, 'x': 2}\n", "file:4: the key 'x' is written twice"),
        ("a: [{b: 1}, {c: 1, c: 2}]", "file: the key 'c' is written twice"),
        ("1: a\n0x1: b\n", "file:2: the key '0x1' is written twice, first as '1' in line 1"),
        ("true: a\n1: b\n", "file:2: the key '1' is written twice, first as 'true' in line 1"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n  <<: *x\n", r"file:4: the key '<<' is written twice.*<<: \[\*a, \*b\]"),
        ("a:\n\tb: 1\n", r"file:2: not valid YAML: .*'\\t'.*indent with spaces"),
        ("a: [1\n", "file:2: not valid YAML: while parsing a flow sequence"),
        ("a: 1\n---\nb: 2\n", "file:2: several documents"),
        ("a: &a {b: *a}", "an alias inside its own anchor"),
        ("? [1]\n: 2\n", "file:1: a key must be text"),
        ("a: !!timestamp 2024-01-01", "the tag .*timestamp.* is no kind of value here"),
        ("a: !mine 1", "the tag '!mine' is no kind"),
        ("a: !!int x", "'x' is no int"),
        (b"a: \xff\n", "file: not text in UTF-8"),
        ("[" * 1500, "file: nested too deeply"),
    ],
)
def test_what_is_no_yaml_or_says_a_thing_twice_is_refused_in_one_line(text, message):
    with pytest.raises(YamlError, match=message) as error:
        parse_yaml(text, "file")
    assert "\n" not in str(error.value)


def test_anchors_and_merge_keys_work_and_own_keys_win():
    text = "base: &b {x: 1, y: 2}\nmore: &m {z: 3}\none: {<<: *b, y: 5}\ntwo: {<<: [*b, *m]}\nthree: *m\n"
    found = parse_yaml(text, "file")
    assert found["one"] == {"x": "1", "y": "5"}
    assert found["two"] == {"x": "1", "y": "2", "z": "3"}
    assert found["three"] == {"z": "3"}


@pytest.mark.parametrize(
    "source", [b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: 2\r\n", "a: 1\nb: {c: 2}\n".encode("utf-16"), b"a: 1\nb: {c: 2}"]
)
def test_byte_order_marks_and_line_ends_of_other_systems_do_not_matter(source):
    assert parse_yaml(source, "file") == {"a": "1", "b": {"c": "2"}}


def settled(found):
    if isinstance(found, dict):
        return {settled(key): settled(item) for key, item in found.items()}
    if isinstance(found, list):
        return [settled(item) for item in found]
    return found.value if isinstance(found, Plain) else found


def test_whatever_is_dumped_reads_back_the_same():
    draw = random.Random(1)
    letters = "0123456789.eE+-_xo:~#'\"{}[]<>=!|&*%@` \n\täß\x85\ufeffntrufalsoy"

    def make(depth):
        kind = draw.choice(["text", "text", "int", "float", "bool", "none", *(["list", "dict"] if depth else [])])
        if kind == "list":
            return [make(depth - 1) for _ in range(draw.randint(0, 3))]
        if kind == "dict":
            return {make_text(): make(depth - 1) for _ in range(draw.randint(0, 3))}
        number = draw.choice([draw.random(), draw.random() * 10.0 ** draw.randint(-300, 300), math.inf, -0.0, 1e22])
        return {"int": draw.randint(-(10**20), 10**20), "float": number, "bool": draw.random() < 0.5}.get(
            kind, make_text() if kind == "text" else None
        )

    def make_text():
        words = [
            "",
            "null",
            "off",
            "True",
            "1e5",
            "010",
            "2024-06-01",
            ".inf",
            "<<",
            "---",
            "-",
            "1_000",
            "0o7",
            "=",
            "~",
        ]
        return draw.choice([*words, "".join(draw.choices(letters, k=draw.randint(1, 6)))])

    for _ in range(500):
        content = {"key": make(3)}
        assert settled(parse_yaml(dump_yaml(content), "file")) == content
