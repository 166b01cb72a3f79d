"""The base of every section of a recipe, and sections whose keys a `kind` chooses."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A frozen block of a recipe; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


S = TypeVar("S", bound=Section)


def kind_or(default: str) -> BeforeValidator:
    """Read a kind alone, `elbo`, as `{kind: elbo}`, and a mapping without a kind as one of the default kind."""

    def choose(value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        return {"kind": default, **value} if isinstance(value, Mapping) else value

    return BeforeValidator(choose)


def refuse(rules: Iterable[Callable[[S], str | None]], section: S) -> S:
    """Return a section that breaks no rule.

    Args:
        rules: Functions that return the text of their refusal, or None.
        section: The section, whose keys fit one by one.

    Raises:
        ValueError: A rule is broken; the first one counts.
    """
    for rule in rules:
        if problem := rule(section):
            raise ValueError(problem)
    return section
