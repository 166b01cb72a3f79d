"""One reward of a recipe, with all keys that a recipe may give it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from redraft.rewards.result import RewardError
from redraft.rewards.reward import Declared, Isolation, Scope, registered
from redraft.rewards.user_files import is_file

DEFAULT_TIMEOUT_S = 30.0


class RewardTerm(BaseModel):
    """One reward of a mixture, as written in a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fn: str = Field(description="A registered name, pkg.module:function or path/file.py:function.")
    name: str = Field(
        default="",
        pattern=r"^[\w.\-]+$",
        validate_default=True,
        description="Label in metrics; by default the function's name.",
    )
    kwargs: dict[str, Any] = Field(default_factory=dict, description="Extra keyword arguments of the function.")
    weight: float = Field(
        default=1.0, description="Factor in the weighted sum; 0 reports the reward without training on it."
    )
    gate: bool = Field(
        default=False, description="Multiply the task rewards of the sample with this score in place of adding it."
    )
    shaping: bool = Field(
        default=False, description="Leave it out of the unshaped reward; it is added after the gates."
    )
    attacks: tuple[Literal["empty", "list_everything", "sys_exit", "always_equal"], ...] = Field(
        default=(),
        description="Cheap answers that must score 0 when the reward is tried before a run (scoring.trial). A reward"
        " with any of them is a verifier, whose right answers score 1.",
    )
    when: dict[str, Any] = Field(
        default_factory=dict,
        description="Columns with the value, or list of values, that a row must have for the reward to apply.",
    )
    scope: Scope = Field(
        default="rows",
        description="What one call gets: any completions (rows), those of one prompt (group), or all (batch).",
    )
    isolation: Isolation = Field(
        default="process",
        description="process runs it in a worker that can be killed; inline calls it in the process that scores, where"
        " a call that hangs cannot be stopped.",
    )
    timeout_s: float | None = Field(
        default=None, gt=0, description="Seconds one call may take under process; must be absent under inline."
    )
    on_error: Literal["raise", "mask"] = Field(
        default="raise",
        description="What follows from an exception, an invalid score, a missed deadline or a broken data row: raise"
        " stops the run, mask leaves the completion out and counts it (scoring.configured has the exceptions).",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        """Write out the defaults that depend on the function, so that a saved config holds all that was in force."""
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
        """Make a file absolute: a worker with another current directory would look for it elsewhere."""
        return _absolute(fn)

    @field_validator("kwargs")
    @classmethod
    def _make_function_absolute(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Do the same for the function that an adapter such as `trl_reward` wraps."""
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
        """Tell whether a row has the values that `when` asks for; a row without the column has not."""
        wanted = {name: value if isinstance(value, list) else [value] for name, value in self.when.items()}
        return all(columns.get(name) in values for name, values in wanted.items())


def _absolute(fn: str) -> str:
    if not is_file(fn):
        return fn
    place, _, attribute = fn.rpartition(":")
    try:
        return f"{Path(place).expanduser().resolve()}:{attribute}"
    except RuntimeError as error:  # a ~user that does not exist
        raise ValueError(f"{place}: {str(error).rstrip('.').lower()}") from None


def _declared(fn: str) -> Declared:
    # A function named by its place is not imported here, because it may be the user's own code. `ConfiguredReward`
    # compares what it declares with the term when it starts.
    if ":" in fn:
        return Declared()
    try:
        return registered(fn).declared
    except RewardError as error:
        raise ValueError(str(error)) from error
