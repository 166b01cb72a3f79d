"""Pydantic's problems with a recipe as sentences for the person who wrote it."""

import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from redraft.rl.config.scalars import alternatives, item_type, section_type
from redraft.words import did_you_mean, guess_or_valid, problem_line

_MESSAGES = {
    "int_from_float": "Input should be a valid integer",
    "too_short": "must have at least one item",
    "finite_number": "must be a finite number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "string_type": "must be text",
    "missing": "is missing",
}


def describe_all(error: ValidationError, schema: type[BaseModel]) -> list[str]:
    """One sentence per problem; those that only follow from another one are left out."""
    problems = error.errors()
    told = [problem for problem in problems if not (problem["type"] == "too_short" and problem["input"])]
    return [_describe(problem, schema) for problem in told or problems]


def _describe(problem: Any, schema: type[BaseModel]) -> str:
    location, kind = problem["loc"], problem["type"]
    place = ".".join(map(str, location)) or "recipe"
    if kind == "extra_forbidden":
        return f"{place}: {_unknown(location, schema)}"
    if kind in {"tuple_type", "model_type", "dict_type"}:
        message = f"must be {_shape(location, schema, kind)}"
    else:
        message = _MESSAGES.get(kind, "")
    return problem_line(problem, "" if location else "recipe", message)


def _shape(location: tuple[Any, ...], schema: type[BaseModel], kind: str) -> str:
    """How the list or mapping at a place is written."""
    name = location[-1] if location else "recipe"
    if isinstance(name, int):
        return "a mapping, e.g. {fn: math_accuracy}"
    if kind != "tuple_type":
        return f"a mapping, e.g. {name}: {{key: value}}"
    section = _section_at(location[:-1], schema)
    item = item_type(alternatives(section.model_fields[name].annotation)) if section else Any
    example = typing.get_args(item)[0] if typing.get_origin(item) is Literal else "{fn: math_accuracy}"
    return f"a list, e.g. {name}: [{example}]"


def _unknown(location: tuple[Any, ...], schema: type[BaseModel]) -> str:
    key = str(location[-1])
    section = _section_at(location[:-1], schema)
    valid = sorted(section.model_fields) if section else []
    if "." in key:
        return f"unknown key {key!r}; in a file a key inside a section is written {_nested(key)}"
    elsewhere = [path for path in _paths(schema) if path.rpartition(".")[2] == key]
    if elsewhere and not did_you_mean(key, valid, cutoff=0.8):
        return f"unknown key {key!r}; did you mean {' or '.join(elsewhere)}?"
    return f"unknown key {key!r}; {guess_or_valid(key, valid)}"


def _nested(key: str) -> str:
    *sections, last = key.split(".")
    return "".join(f"{section}: {{" for section in sections) + f"{last}: ..." + "}" * len(sections)


def _section_at(location: Iterable[Any], schema: type[BaseModel]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = schema
    for part in location:
        if isinstance(part, str) and section is not None and part in section.model_fields:
            section = section_type(section.model_fields[part].annotation)
    return section


def _paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        inner = section_type(field.annotation)
        if inner is not None:
            is_list = item_type(alternatives(field.annotation)) is inner
            yield from _paths(inner, f"{prefix}{name}.0." if is_list else f"{prefix}{name}.")
