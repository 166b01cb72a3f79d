"""Describe what pydantic found wrong in a recipe, one sentence per problem."""

import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.choices import RegulariserConfig
from redraft.rl.config.moved import MOVED, where_now
from redraft.rl.config.presets import PRESETS
from redraft.rl.config.scalars import alternatives, fields_of, item_type, kinds_of, required_of, section_types
from redraft.rl.config.yaml_core import Plain
from redraft.words import did_you_mean, guess_and_valid, guess_or_valid, problem_line

_MESSAGES = {
    "int_from_float": "Input should be a valid integer",
    "too_short": "must have at least one item",
    "finite_number": "must be a finite number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "string_type": "must be text",
    "missing": "is missing",
}

_MOST_MOVED = 3  # flat keys that are named one by one; more are a recipe of an earlier version


def describe_all(error: ValidationError, schema: type[BaseModel]) -> list[str]:
    """Write one sentence per problem; leave out those that only follow from another."""
    problems = error.errors()
    first = [problem for problem in problems if not (problem["type"] == "too_short" and problem["input"])]
    moved = [problem for problem in problems if _moved(problem, schema)]
    lines = [_describe(problem, schema) for problem in first or problems if problem not in moved]
    return lines + (_older_recipe(moved) if len(moved) > _MOST_MOVED else [_describe(one, schema) for one in moved])


def _describe(problem: Any, schema: type[BaseModel]) -> str:
    kind, at = problem["type"], _Place.of(problem["loc"], schema)
    place = ".".join(map(str, at.names))
    if moved := _moved(problem, schema):
        return f"{place} {moved}"
    if kind == "extra_forbidden":
        return f"{place}: {_unknown(at, schema)}"
    if kind == "union_tag_invalid":
        return f"{place}.kind: {_wrong_kind(problem['input']['kind'], at)}"
    if kind == "literal_error" and (valid := re.findall(r"'([^']*)'", problem["ctx"]["expected"])):
        given = "null" if problem["input"] is None else repr(problem["input"])
        return f"{place}: unknown value {given}; {guess_and_valid(problem['input'], valid)}"
    if kind in {"tuple_type", "model_type", "model_attributes_type", "dict_type"}:
        message = f"must be {_shape(at, kind)}"
    else:
        message = _MESSAGES.get(kind, "") + _weight(problem, at)
    placed: Any = {**problem, "loc": tuple(at.names)}
    line = problem_line(placed, "", message)
    if kind == "greater_than" and _can_be_none(at):
        line += f"; write {at.names[-2]}: none to switch it off"
    return f"{line.removesuffix('None')}null" if problem["input"] is None and line.endswith(", got None") else line


def _moved(problem: Any, schema: type[BaseModel]) -> str | None:
    """Say where a key of an earlier `algorithm` section is now; return None for other problems."""
    kind, at = problem["type"], _Place.of(problem["loc"], schema)
    if kind == "extra_forbidden" and (AlgorithmConfig in at.parents or _was_regulariser(at)):
        return where_now(str(at.names[-1]), problem["input"])
    if kind == "union_tag_invalid" and at.names[-1] == "anchor" and isinstance(word := problem["input"]["kind"], str):
        weight = Plain(word).value  # a number alone was the anchor's weight
        return None if isinstance(weight, str) else where_now("anchor", weight)
    return None


def _was_regulariser(at: "_Place") -> bool:
    return RegulariserConfig in at.parents and at.names[-1] in {"beta", "anchor_mc"}


def _can_be_none(at: "_Place") -> bool:
    """Tell whether the section that holds the last name can be switched off by its kind."""
    return any("none" in kinds_of(section) for section in at.kinds)


def _weight(problem: Any, at: "_Place") -> str:
    """Show how a section with a required key is written; return nothing for other problems."""
    if problem["type"] != "missing" or not _can_be_none(at):
        return ""
    section, key = at.names[-2:]
    example = required_of(at.parents)[key]
    return f"; write {section}: {{kind: {problem['input']['kind']}, {key}: {example}}}, or {section}: none"


def _older_recipe(moved: Sequence[Any]) -> list[str]:
    place, names = ".".join(map(str, moved[0]["loc"][:-1])), ", ".join(str(problem["loc"][-1]) for problem in moved)
    return [
        f"{place}{': ' if place else ''}flat keys of an earlier version or of TRL: {names}; docs/algorithms.md shows"
        " the sections that they are in now, and a recipe with one of them is refused with its new place"
    ]


@dataclass(frozen=True)
class _Place:
    """Where a problem is.

    Attributes:
        names: Keys and numbers of items, from the root of the recipe.
        sections: Classes that may stand there, of which a kind chooses one.
        parents: Classes of the section that holds the last name; one, where the kind is known.
        kinds: All classes that the kind of that section chooses from.
    """

    names: Sequence[Any]
    sections: Sequence[type[BaseModel]]
    parents: Sequence[type[BaseModel]]
    kinds: Sequence[type[BaseModel]]

    @classmethod
    def of(cls, location: Sequence[Any], schema: type[BaseModel]) -> "_Place":
        """Follow pydantic's location, which names the kind behind each section that has kinds."""
        names: list[Any] = []
        sections = parents = kinds = others = [schema]
        for part in location:
            chosen = [section for section in sections if part in kinds_of(section)]
            if len(sections) > 1 and chosen:
                sections, others = chosen, sections
                continue
            names.append(part)
            if isinstance(part, str):
                parents, kinds = sections, others
                fields = fields_of(sections)
                sections = others = section_types(fields[part].annotation) if part in fields else []
        return cls(names, sections, parents, kinds)


def _wrong_kind(given: Any, at: _Place) -> str:
    valid = [word for section in at.sections for word in kinds_of(section)]
    if given is None:
        return f"null is no kind; leave it out, or write one of: {', '.join(valid)}"
    if not isinstance(given, str):
        return f"a kind is one word, got {given!r}; valid: {', '.join(valid)}"
    if given in PRESETS:
        return f"{given!r} is a preset; write algorithm: {given}; valid kinds: {', '.join(valid)}"
    return f"unknown kind {given!r}; {guess_and_valid(given, valid)}"


def _shape(at: _Place, kind: str) -> str:
    """Show how the list or mapping at a place is written."""
    name = at.names[-1] if at.names else "recipe"
    if isinstance(name, int):
        return "a mapping, e.g. {fn: math_accuracy}"
    if words := PRESETS if AlgorithmConfig in at.sections else [k for one in at.sections for k in kinds_of(one)]:
        return f"one word or a mapping, e.g. {name}: {next(iter(words))}"
    if kind != "tuple_type":
        return f"a mapping, e.g. {name}: {{key: value}}"
    fields = fields_of(at.parents)
    item = item_type(alternatives(fields[name].annotation)) if name in fields else Any
    example = typing.get_args(item)[0] if typing.get_origin(item) is Literal else "{fn: math_accuracy}"
    return f"a list, e.g. {name}: [{example}]"


def _unknown(at: _Place, schema: type[BaseModel]) -> str:
    key, valid = str(at.names[-1]), sorted(fields_of(at.parents))
    if "." in key:
        return f"unknown key {key!r}; in a file a key inside a section is written {_nested(key)}"
    if key in {"kind", "name"} and "preset" in valid:
        return f"unknown key {key!r}; did you mean 'preset'?"
    if key == "kind":
        return f"unknown key 'kind': this section has no kinds; valid keys: {', '.join(valid)}"
    if of := [kind for section in at.kinds if key in section.model_fields for kind in kinds_of(section)]:
        return f"this is a key of kind {', '.join(of)}; valid here: {', '.join(valid)}"
    elsewhere = [path for path in dict.fromkeys(_paths(schema)) if path.rpartition(".")[2] == key]
    if ".".join(map(str, at.names)) in elsewhere:
        return f"this is a key of another kind; valid here: {', '.join(valid)}"
    elsewhere = elsewhere or [f"algorithm.{place}" for place in MOVED.get(key, ())]
    if elsewhere and not did_you_mean(key, valid, cutoff=0.8):
        return f"unknown key {key!r}; did you mean {' or '.join(elsewhere)}?"
    return f"unknown key {key!r}; {guess_or_valid(key, valid)}"


def _nested(key: str) -> str:
    *sections, last = key.split(".")
    return "".join(f"{section}: {{" for section in sections) + f"{last}: ..." + "}" * len(sections)


def _paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        inner = section_types(field.annotation)
        is_list = item_type(alternatives(field.annotation)) in inner
        for kind in inner:
            yield from _paths(kind, f"{prefix}{name}.0." if is_list else f"{prefix}{name}.")
