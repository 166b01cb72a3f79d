"""Lay mappings over each other in which a `kind` chooses the keys, and write out choices of one word."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from redraft.rl.config.scalars import fields_of, section_types

_ONE_WORD = ("kind", "preset")


def opened(value: Any, annotation: Any) -> Any:
    """Write out choices of one word: `elbo` becomes `{kind: elbo}`, and `algorithm: ebpo` `{preset: ebpo}`.

    Args:
        value: A part of a recipe, as parsed.
        annotation: The type that the schema gives it.
    """
    sections = section_types(annotation)
    fields = fields_of(sections)
    if isinstance(value, BaseModel):
        return _given(value)
    if isinstance(value, str):
        word = next((name for name in _ONE_WORD if name in fields), None)
        return value if word is None else {word: value}
    if not isinstance(value, Mapping) or not sections:
        return value
    return {key: opened(item, fields[key].annotation) if key in fields else item for key, item in value.items()}


def _given(section: BaseModel) -> dict[str, Any]:
    """Write out the keys that the maker of a section gave, and its kind; its defaults stay open."""
    names = [name for name in type(section).model_fields if name == "kind" or name in section.model_fields_set]
    return {name: opened(getattr(section, name), None) for name in names}


def lay_over(base: Any, extra: Any, empties: bool = True) -> Any:
    """Merge two mappings; keys of `extra` win, and another `kind` or `preset` replaces the section.

    Kind `none` has no keys. Keys over it begin a section of the kind that the schema gives a mapping without one.

    Args:
        base: The earlier one.
        extra: The later one.
        empties: Whether an empty mapping in `extra` empties that of `base`; otherwise it leaves it as it is.
    """
    if not (isinstance(base, Mapping) and isinstance(extra, Mapping)):
        return extra
    if not extra:
        return extra if empties else base
    if any(word in base and word in extra and base[word] != extra[word] for word in _ONE_WORD):
        return extra
    if base.get("kind") == "none" and "kind" not in extra:
        return extra
    return {**base, **{key: lay_over(base.get(key), value, empties) for key, value in extra.items()}}
