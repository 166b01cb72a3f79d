"""One reward of a recipe, with everything about it that a recipe can say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from redraft.rewards.result import RewardError
from redraft.rewards.reward import Declared, Isolation, Scope, registered
from redraft.rewards.user_files import is_file

DEFAULT_TIMEOUT_S = 30.0


class RewardTerm(BaseModel):
    """One reward of a mixture, as written in a recipe.

    Attributes:
        fn: A registered name, ``pkg.module:function`` or ``path/file.py:function``.
        name: Label in metrics; the function's name unless given.
        kwargs: Extra keyword arguments of the function.
        weight: Factor in the weighted sum; 0 reports the reward without training on it.
        gate: Multiply the task rewards of the sample with this score in place of adding it.
        shaping: Leave it out of the unshaped reward; it is added after the gates.
        attacks: Cheap answers that must score 0 when the reward is tried before a run; see `scoring.trial`. Naming any
            says that the reward is a verifier: a right answer scores 1.
        when: Columns and the value, or list of values, that a row must have for the reward to apply.
        scope: ``rows``: a call may hold any completions; ``group``: exactly those of one prompt; ``batch``: all.
        isolation: ``process`` runs it in a killable worker; ``inline`` calls it here, where nothing can stop it.
        timeout_s: Seconds one call may take under ``process``; None under ``inline``.
        on_error: What an exception, an invalid score, a deadline or a broken data row does: ``raise`` stops the run
            with one message, ``mask`` leaves the completion out and counts it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fn: str
    name: str = Field(default="", pattern=r"^[\w.\-]+$", validate_default=True)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    weight: float = 1.0
    gate: bool = False
    shaping: bool = False
    attacks: tuple[Literal["empty", "list_everything", "sys_exit", "always_equal"], ...] = ()
    when: dict[str, Any] = Field(default_factory=dict)
    scope: Scope = "rows"
    isolation: Isolation = "process"
    timeout_s: float | None = Field(default=None, gt=0)
    on_error: Literal["raise", "mask"] = "raise"

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        """Write out the defaults that depend on the function, so that a saved config says everything."""
        if not isinstance(values, dict) or not isinstance(values.get("fn"), str):
            return values
        fn = values["fn"]
        declared = {name: value for name, value in vars(_declared(fn)).items() if name in cls.model_fields}
        filled = {"name": fn.rpartition(":")[2], **declared} | values
        if filled["isolation"] == "process" and filled.get("timeout_s") is None:
            filled["timeout_s"] = DEFAULT_TIMEOUT_S
        return filled

    @field_validator("fn")
    @classmethod
    def _make_absolute(cls, fn: str) -> str:
        """A relative file means one thing here and another in a worker with its own current directory."""
        return _absolute(fn)

    @field_validator("kwargs")
    @classmethod
    def _make_function_absolute(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The same for a reward that is given the function of somebody else, as `trl_reward` is."""
        function = kwargs.get("function")
        return kwargs | {"function": _absolute(function)} if isinstance(function, str) else kwargs

    @model_validator(mode="after")
    def _check_timeout(self) -> "RewardTerm":
        if self.isolation == "inline" and self.timeout_s is not None:
            raise ValueError(
                f"timeout_s={self.timeout_s:g} has no effect on {self.name!r}: with isolation: inline nothing can be "
                "killed; remove it, set isolation: process, or use the function's own limit in kwargs"
            )
        return self

    @model_validator(mode="after")
    def _check_gate(self) -> "RewardTerm":
        if self.gate and (self.weight != 1 or self.shaping):
            raise ValueError(
                f"{self.name!r} is a gate: it multiplies, so weight and shaping have no effect; remove them"
            )
        return self

    def applies(self, columns: Mapping[str, Any]) -> bool:
        """Whether a row has what `when` asks for; a row without the column has not."""
        wanted = {name: value if isinstance(value, list) else [value] for name, value in self.when.items()}
        return all(columns.get(name) in values for name, values in wanted.items())


def _absolute(fn: str) -> str:
    if not is_file(fn):
        return fn
    place, _, attribute = fn.rpartition(":")
    try:
        return f"{Path(place).expanduser().resolve()}:{attribute}"
    except RuntimeError as error:  # ~user of nobody
        raise ValueError(f"{place}: {str(error).rstrip('.').lower()}") from None


def _declared(fn: str) -> Declared:
    if ":" in fn:  # not imported here: it may be the user's, and `rewards.scoring.configured` compares when it starts
        return Declared()
    try:
        return registered(fn).declared
    except RewardError as error:
        raise ValueError(str(error)) from error
