"""Reading recipes: YAML files merged left to right, then `key.sub=value` overrides, then validation.

Every mistake becomes one `RecipeError` that says where it is and what would be valid.
"""

import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rl.config import RunConfig


class RecipeError(ValueError):
    """A recipe, an override or a value in one that cannot be used."""


def load_recipe(paths: Sequence[str | Path], overrides: Sequence[str] = ()) -> RunConfig:
    """Read, merge and check a recipe.

    Args:
        paths: YAML files; later ones win key by key.
        overrides: `key.sub=value` words; values are YAML, so `true`, `1e-4` and `[1, 2]` mean what they look like.

    Returns:
        The validated configuration.

    Raises:
        RecipeError: Missing file, bad YAML, unknown key (with the nearest valid one) or a value that does not fit.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _merge(merged, _read_yaml(Path(path)))
    for word in overrides:
        merged = _merge(merged, _parse_override(word))
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        source = ", ".join(map(str, paths))
        raise RecipeError("\n".join(f"{source}: {_describe(problem)}" for problem in error.errors())) from None


def dump_recipe(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load_recipe` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        nearby = sorted(str(p) for p in Path("recipes").glob("*.yaml"))
        raise RecipeError(f"{path}: no such recipe; recipes here: {', '.join(nearby) or 'none in ./recipes'}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, got {type(content).__name__}")
    return _fix_floats(content)


def _fix_floats(value: Any) -> Any:
    """YAML 1.1 reads `1e-4` as text; people mean the number."""
    if isinstance(value, dict):
        return {key: _fix_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_fix_floats(item) for item in value]
    if isinstance(value, str) and value[:1].isdigit() and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _parse_override(word: str) -> dict[str, Any]:
    key, equals, text = word.removeprefix("--").partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(f"override {word!r}: write key.sub=value, e.g. trainer.learning_rate=1e-4")
    try:
        value = _fix_floats(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise RecipeError(f"override {word!r}: the value is not valid YAML: {error}") from None
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _describe(problem: Any) -> str:
    """One pydantic problem as one sentence with the nearest valid key where a key is unknown."""
    location = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        got = "" if isinstance(problem["input"], dict) else f", got {problem['input']!r}"
        return f"{location}: {message}{got}"
    key, valid = str(problem["loc"][-1]), sorted(_keys_at(problem["loc"][:-1]))
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
    return f"{location}: unknown key {key!r}; {hint}"


def _keys_at(location: Iterable[Any]) -> list[str]:
    model: type[BaseModel] | None = RunConfig
    for part in location:
        if isinstance(part, str) and model is not None and part in model.model_fields:
            model = _section_type(model.model_fields[part].annotation) or model
    return list(model.model_fields) if model else []


def _section_type(annotation: Any) -> type[BaseModel] | None:
    """The configuration class inside `X`, `X | None` or `Sequence[X]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next(filter(None, map(_section_type, typing.get_args(annotation))), None)
