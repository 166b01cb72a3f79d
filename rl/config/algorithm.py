"""The `algorithm` section of a recipe: a preset, and the choices that change it.

docs/algorithms.md says which to take when. Importing it loads no torch.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from redraft.rl.config.choices import Choices
from redraft.rl.config.layers import opened
from redraft.rl.config.presets import PRESETS
from redraft.rl.config.resolve import resolved
from redraft.rl.config.rules import RULES
from redraft.rl.config.scalars import kinds_of, section_types
from redraft.rl.config.section import refuse
from redraft.words import guess_and_valid


class AlgorithmConfig(Choices):
    """A published method by name, or the default method, with the choices that are written beside it."""

    preset: str | None = Field(
        default=None, description="A published method; without it, vrbpo. The other keys of this section change it."
    )

    @field_validator("preset")
    @classmethod
    def _is_published(cls, name: str | None) -> str | None:
        if name is None or name in PRESETS:
            return name
        for section, field in Choices.model_fields.items():
            if any(name in kinds_of(kind) for kind in section_types(field.annotation)):
                raise ValueError(f"{name!r} is a kind of {section}; write algorithm: {{{section}: {name}}}")
        raise ValueError(f"unknown preset {name!r}; {guess_and_valid(name, PRESETS)}")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_is_not_written(cls, given: Any) -> Any:
        if isinstance(given, cls):
            return given
        settings = opened(given, cls)
        return resolved(settings) if isinstance(settings, Mapping) else settings

    @model_validator(mode="after")
    def _choices_fit_each_other(self) -> "AlgorithmConfig":
        return refuse(RULES, self)
