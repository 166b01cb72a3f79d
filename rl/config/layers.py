"""Mappings laid over each other where a `kind` chooses the keys, and choices written as one word."""

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
        return value.model_dump()
    if isinstance(value, str):
        word = next((name for name in _ONE_WORD if name in fields), None)
        return value if word is None else {word: value}
    if not isinstance(value, Mapping) or not sections:
        return value
    return {key: opened(item, fields[key].annotation) if key in fields else item for key, item in value.items()}


def lay_over(base: Any, extra: Any) -> Any:
    """`extra` wins key by key. Another `kind` replaces the whole section: no key of the old kind survives.

    An empty mapping empties.
    """
    if not (isinstance(base, Mapping) and isinstance(extra, Mapping) and extra):
        return extra
    if "kind" in base and "kind" in extra and base["kind"] != extra["kind"]:
        return extra
    return {**base, **{key: lay_over(base.get(key), value) for key, value in extra.items()}}
