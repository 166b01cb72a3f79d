"""YAML by the 1.2 core schema, with the source text of plain scalars kept; keys written twice are refused.

PyYAML reads YAML 1.1, where `off` is a boolean, `010` is eight, `1e-6` is text and `2024-06-01` a date. Here a plain
scalar is a `Plain`: its text as written and, where that is a number or a boolean of the core schema, its value. Which
of the two is meant, the recipe's schema decides (`rl.config.scalars`). Scalars in quotes are text and nothing else.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

_TAG = "tag:yaml.org,2002:"
_CORE: Mapping[str, tuple[str, str]] = {  # tag -> pattern, first characters; in the order in which they are tried
    "merge": (r"<<", "<"),
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
_PATTERNS = {kind: re.compile(rf"(?:{pattern})\Z") for kind, (pattern, _) in _CORE.items()}


class YamlError(ValueError):
    """Text that is no YAML, or that says one thing twice."""


class Plain(str):
    """A plain scalar: the text as written."""

    __slots__ = ()

    @property
    def value(self) -> Any:
        """Return what the core schema makes of it: None, bool, int, float, or the text itself.

        Raises:
            YamlError: A number that no float holds.
        """
        kind = next((kind for kind, pattern in _PATTERNS.items() if pattern.match(self)), "str")
        text = str(self)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return _integer(text)
        return _float(text) if kind == "float" else text


def _integer(text: str) -> int:
    try:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    except ValueError:  # Python converts at most 4300 digits
        raise YamlError(f"a number of {len(text)} digits is too long; write it in quotes if it is text") from None


def _float(text: str) -> float:
    sign, _, special = text.lower().rpartition(".")
    if special in {"inf", "nan"}:
        return float(sign + special)
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise YamlError(f"{text} is too large a number; write it in quotes if it is text")
    return value


class _Loader(yaml.SafeLoader):
    """A loader of mappings, lists, `Plain` and text; it knows no other tag."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's registries, without what YAML 1.1 adds
    yaml_constructors: dict[Any, Any] = {}  # noqa: RUF012

    def scalar(self, node: ScalarNode) -> Any:
        """Read a plain scalar that is no number and no boolean, or text in quotes or in a block."""
        is_tagged = self.resolve(ScalarNode, node.value, (True, False)) != node.tag  # `!!str 010`
        return str(node.value) if node.style is not None or is_tagged else Plain(node.value)

    def tagged(self, node: ScalarNode) -> Any:
        """Read a number, boolean or null by a tag of its own, also in quotes; otherwise a plain scalar."""
        if not _PATTERNS[node.tag.removeprefix(_TAG)].match(node.value):
            kind = node.tag.removeprefix(_TAG)
            raise ConstructorError(None, None, f"{node.value!r} is no {kind}", node.start_mark)
        return None if node.tag == f"{_TAG}null" else Plain(node.value)

    def unknown(self, node: Node) -> Any:
        """Refuse any other tag, such as `!!timestamp` and `!!binary`."""
        known = "str, int, float, bool, null, seq and map"
        raise ConstructorError(
            None, None, f"the tag {node.tag!r} is no kind of value here; known: {known}", node.start_mark
        )

    def sequence(self, node: SequenceNode) -> list[Any]:
        """Read a list."""
        return self.construct_sequence(node, deep=True)

    def mapping(self, node: MappingNode) -> dict[Any, Any]:
        """Read a mapping; `<<` fills in what it does not say itself."""
        return self.construct_mapping(node, deep=True)

    def construct_mapping(self, node: Node, deep: bool = False) -> dict[Any, Any]:
        """Read a mapping as PyYAML does, and refuse keys that are there twice."""
        assert isinstance(node, MappingNode)
        seen: dict[Any, tuple[int, str]] = {}
        for key, _ in node.value:
            self._check_key(key, seen)
        return super().construct_mapping(node, deep=deep)

    def _check_key(self, key: Node, seen: dict[Any, tuple[int, str]]) -> None:
        """Refuse a key that is there already. Two spellings of one number are one key: a value would vanish."""
        if not isinstance(key, ScalarNode):
            raise ConstructorError(None, None, "a key must be text, not a list or a mapping", key.start_mark)
        line = key.start_mark.line + 1
        names = {("text", key.value)}
        if key.style is None:
            with contextlib.suppress(YamlError):  # as a number it is too large, and text cannot be two spellings
                names.add(("value", Plain(key.value).value))
        first = next((seen[name] for name in names if name in seen), None)
        if first is not None:
            earlier, spelling = first
            hint = "; merge several with <<: [*a, *b]" if key.value == "<<" else ""
            where = f"first{f' as {spelling!r}' if spelling != key.value else ''} in line {earlier}"
            raise ConstructorError(None, None, f"the key {key.value!r} is written twice, {where}{hint}", key.start_mark)
        seen.update(dict.fromkeys(names, (line, key.value)))


class _Dumper(yaml.SafeDumper):
    """A writer that quotes text that YAML 1.1 or the core schema would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write no anchors: two equal parts of a recipe are written out twice."""
        return True


for _kind, (_, _letters) in _CORE.items():
    _first = [*_letters, ""] if _kind == "null" else [*_letters]
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", _PATTERNS[_kind], _first)
    _Dumper.add_implicit_resolver(f"{_TAG}{_kind}", _PATTERNS[_kind], _first)
_Loader.yaml_constructors |= {
    **dict.fromkeys((f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float")), _Loader.tagged),
    **dict.fromkeys((f"{_TAG}{kind}" for kind in ("str", "merge")), _Loader.scalar),
    f"{_TAG}seq": _Loader.sequence,
    f"{_TAG}map": _Loader.mapping,
    None: _Loader.unknown,
}


def parse_yaml(text: str | bytes, name: str) -> Any:
    """Parse a text that holds one document: mappings with text keys, lists, `Plain`, text and None.

    Args:
        text: The source; bytes are UTF-8, or UTF-16 with a byte order mark.
        name: What errors call the source.

    Raises:
        YamlError: It is no YAML, holds several documents, or writes a key twice; with the line.
    """
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark and (isinstance(text, bytes) or "\n" in text) else name
        raise YamlError(f"{where}: {_problem(error)}") from None
    except ReaderError as error:
        raise YamlError(f"{name}: not text in UTF-8: {error.reason} (position {error.position})") from None
    except RecursionError:
        raise YamlError(f"{name}: nested too deeply") from None
    except YamlError as error:
        raise YamlError(f"{name}: {error}") from None


def read_yaml(path: Path) -> Any:
    """Parse a YAML file, as `parse_yaml` does.

    Raises:
        YamlError: As `parse_yaml`.
        OSError: The file cannot be read.
    """
    return parse_yaml(path.read_bytes(), str(path))


def dump_yaml(value: Any) -> str:
    """Write mappings, lists, tuples, text, numbers, booleans and None as text that `parse_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "not valid YAML"
    if isinstance(error, ConstructorError) and error.context is None and "recursive" not in problem:
        return problem  # raised by `_Loader`, and a sentence already
    if "found unconstructable recursive node" in problem:
        return "not valid YAML: an alias inside its own anchor"
    if "expected a single document" in (error.context or ""):
        return "several documents (---) in one file; a recipe is one: give the others as further files"
    hint = "; indent with spaces" if r"\t" in problem else ""
    context = f"{error.context}, " if error.context else ""
    return f"not valid YAML: {context}{problem}{hint}"
