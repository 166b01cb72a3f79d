"""Lay parts of recipes over each other, and write out choices of one word."""

from collections.abc import Iterable, Mapping, Sequence
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


class ItemError(ValueError):
    """A key over a list that is not the number of one of its items."""


def lay_over(base: Any, extra: Any, *, empties: bool = True, kinds: Sequence[str] = _ONE_WORD, where: str = "") -> Any:
    """Merge two parts of recipes; keys of `extra` win, and numbers as keys change items of a list.

    Kind `none` has no keys. Keys over it begin a section of the kind that the schema gives a mapping without one.

    Args:
        base: The earlier one.
        extra: The later one.
        empties: Whether an empty mapping in `extra` empties that of `base`; otherwise it leaves it as it is.
        kinds: Keys of which another value replaces the whole mapping.
        where: Dotted place of both, for errors.

    Raises:
        ItemError: A list has no item of a number.
    """
    if isinstance(base, list) and isinstance(extra, Mapping) and extra:
        items = _numbered(base, extra, where)
        return [*lay_over(items, extra, empties=empties, kinds=kinds, where=where).values()]
    if not (isinstance(base, Mapping) and isinstance(extra, Mapping)):
        return extra
    if not extra:
        return extra if empties else base
    if any(word in base and word in extra and base[word] != extra[word] for word in kinds):
        return extra
    if "kind" in kinds and "kind" not in extra and base.get("kind") == "none":
        return extra
    places = {key: f"{where}.{key}".lstrip(".") for key in extra}
    laid = {key: lay_over(base.get(key), extra[key], empties=empties, kinds=kinds, where=places[key]) for key in extra}
    return {**base, **laid}


def _numbered(items: Sequence[Any], numbers: Iterable[str], where: str) -> dict[str, Any]:
    """Return a list as a mapping with its numbers as keys; refuse other numbers than these."""
    mapping = {str(number): item for number, item in enumerate(items)}
    valid = f"{where}.0 to {where}.{len(items) - 1}" if items else "it has no items"
    for number in numbers:
        if number not in mapping:
            raise ItemError(
                f"{where}.{number}: {where} is a list, its items have numbers: {valid}; or give the whole list,"
                f" {where}=[...]"
            )
    return mapping
