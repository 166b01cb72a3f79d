"""Turn plain scalars of a recipe into the types that the schema asks for.

Where it wants text, the text as written is taken (`output_dir: 20240601`, `collapse_alarm: off`); where it wants a
number or a boolean, the value; where it says nothing (`kwargs`, `when`), the value by YAML's core schema.
"""

import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from redraft.rl.config.yaml_core import Plain, YamlError

_SWITCHES = {"on": True, "off": False, "yes": True, "no": False}


class Misfit:
    """Text or a boolean where a number belongs; pydantic would make one of it (`"5"` is 5, `true` is 1)."""

    def __init__(self, given: str | bool) -> None:
        self.given = given

    def __repr__(self) -> str:
        is_text = isinstance(_core(self.given), str)
        return repr(str(self.given)) if is_text else str(self.given)


def settle(value: Any, annotation: Any, where: str = "") -> Any:
    """Replace every `Plain` in a parsed recipe by the type that the schema asks for.

    Args:
        value: From `rl.config.yaml_core.parse_yaml`.
        annotation: The type that the schema gives it; `Any` where it gives none.
        where: Dotted place, for errors.

    Raises:
        YamlError: A number that cannot be represented, with its place.
    """
    kinds = alternatives(annotation)
    if isinstance(value, dict):
        return _settle_mapping(value, kinds, where)
    if isinstance(value, list):
        return [settle(item, item_type(kinds), f"{where}.{index}") for index, item in enumerate(value)]
    if value is None:
        return None
    if isinstance(value, str) and Any not in kinds and any(typing.get_origin(kind) is tuple for kind in kinds):
        return _settle_names(value, item_type(kinds))
    try:
        return _settle_scalar(value, kinds)
    except YamlError as error:
        raise YamlError(f"{where}: {error}") from None


def alternatives(annotation: Any) -> list[Any]:
    """List the types of a union, without their constraints."""
    if typing.get_origin(annotation) is Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return [kind for part in typing.get_args(annotation) for kind in alternatives(part)]
    return [annotation]


def item_type(kinds: Sequence[Any]) -> Any:
    """Return the type of a list's items."""
    return next((typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is tuple), Any)


def section_types(annotation: Any) -> list[type[BaseModel]]:
    """List the configuration classes inside `X`, `X | Y`, `X | None` or `tuple[X, ...]`."""
    kinds = alternatives(annotation)
    kinds += alternatives(item_type(kinds))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def fields_of(sections: Sequence[type[BaseModel]]) -> dict[str, FieldInfo]:
    """Collect the keys of several classes; where two have a key, the first class counts."""
    return {name: field for section in reversed(sections) for name, field in section.model_fields.items()}


def required_of(sections: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Collect the keys of several classes that have no default, each with an example of its value."""
    return {name: (field.examples or ["..."])[0] for name, field in fields_of(sections).items() if field.is_required()}


def kinds_of(section: type[BaseModel]) -> tuple[str, ...]:
    """Return the words that choose a class of a section; none if its keys do not depend on a `kind`."""
    field = section.model_fields.get("kind")
    return () if field is None else typing.get_args(field.annotation)


def _wants_text(kinds: Sequence[Any]) -> bool:
    """Tell whether text is among the types."""
    return str in kinds or any(isinstance(word, str) for word in _words(kinds))


def _words(kinds: Sequence[Any]) -> list[Any]:
    return [word for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind)]


def _is_container(kinds: Sequence[Any]) -> bool:
    return any(
        typing.get_origin(kind) in {dict, tuple} or (isinstance(kind, type) and issubclass(kind, BaseModel))
        for kind in kinds
    )


def _settle_mapping(value: dict[Any, Any], kinds: Sequence[Any], where: str) -> dict[Any, Any]:
    if Any in kinds:
        return {_core(key): settle(item, Any, f"{where}.{key}") for key, item in value.items()}
    fields = fields_of(section_types(typing.Union[tuple(kinds)]))  # noqa: UP007 - of a list that is known at run time
    settled = {}
    for key, item in value.items():
        annotation = fields[key].annotation if key in fields else Any
        own = alternatives(annotation)
        if item is None and key in fields and _is_container(own) and type(None) not in own:
            continue  # an empty section or list says nothing: its default counts
        settled["null" if key is None else str(key)] = settle(item, annotation, f"{where}.{key}".lstrip("."))
    return settled


def _settle_names(value: str, item: Any) -> Any:
    """Split a list of names that is written as one name, or as several with commas."""
    if typing.get_origin(item) is not Literal:
        return str(value)
    return [part.strip() for part in value.split(",")]


def _settle_scalar(value: Any, kinds: Sequence[Any]) -> Any:
    if Any in kinds or (_words(kinds) and not _wants_text(kinds)):
        return _core(value)
    if _wants_text(kinds) or _is_container(kinds):
        return str(value) if isinstance(value, str) else value
    if bool in kinds and isinstance(value, Plain) and value.lower() in _SWITCHES:
        return _SWITCHES[value.lower()]
    found = _core(value)
    fits = bool in kinds if isinstance(found, bool) else not isinstance(found, str)
    return found if fits else Misfit(value)


def _core(value: Any) -> Any:
    return value.value if isinstance(value, Plain) else value
