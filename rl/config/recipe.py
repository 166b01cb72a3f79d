"""Read recipes: YAML files merged left to right, then `key.sub=value` overrides, then validation.

Every mistake becomes one `RecipeError` that says where it is and what would be valid. docs/recipes.md holds the rules.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.errors import describe_all
from redraft.rl.config.layers import ItemError, lay_over, opened
from redraft.rl.config.places import ENDINGS, anchored, ask_nearest, built_in, built_in_recipe, is_bare_name, locate
from redraft.rl.config.presets import PRESETS
from redraft.rl.config.resolve import lay_over_recipe
from redraft.rl.config.scalars import settle
from redraft.rl.config.schema import RunConfig
from redraft.rl.config.yaml_core import YamlError, dump_yaml, parse_yaml, read_yaml
from redraft.rl.files import expand
from redraft.words import did_you_mean


class RecipeError(ValueError):
    """A recipe, an override or a value in one that cannot be used."""


def load_recipe(paths: Sequence[str | Path], overrides: Sequence[str] = ()) -> RunConfig:
    """Read, merge and check a recipe.

    Args:
        paths: YAML files, or names of built-in recipes; later ones win key by key.
        overrides: `key.sub=value` words; values are YAML, so `true`, `1e-4` and `[1, 2]` mean what they look like.
            Of two for one key the later one wins.

    Returns:
        The validated configuration.

    Raises:
        RecipeError: Missing file, bad YAML, unknown key (with the nearest valid one) or a value that does not fit.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        with _named(str(path)):
            merged = _merge(merged, _read(path))
    choices: Any = None
    for word in overrides:
        override = _parse_override(word)
        with _named(f"override {word!r}"):
            # Choices of one command line lie over each other first: a preset may stand before or behind a key of it.
            if "algorithm" in override:
                choices = lay_over(choices, opened(override["algorithm"], AlgorithmConfig), where="algorithm")
            if "algorithm" not in override or _empties(override):
                merged = _merge(merged, override)
    if choices is not None:
        with _named("overrides"):
            merged = _merge(merged, {"algorithm": choices})
    source = ", ".join(map(str, paths))
    try:
        return RunConfig.model_validate(settle(merged, RunConfig))
    except YamlError as error:
        raise RecipeError(f"{source}: {error}") from None
    except ValidationError as error:
        lines = [f"{source}: {line}" for line in describe_all(error, RunConfig)]
        raise RecipeError("\n".join(lines + _needs_base(paths))) from None


def load_words(words: Sequence[str | Path]) -> RunConfig:
    """Read the recipe of a command line: recipes in any order among the `key.sub=value` words, which come last.

    Args:
        words: A recipe, then recipes and overrides; see `load_recipe`.

    Raises:
        RecipeError: As `load_recipe`.
    """
    further = [word for word in words[1:] if _is_recipe(word)]
    return load_recipe([words[0], *further], [str(word) for word in words[1:] if word not in further])


def _is_recipe(word: str | Path) -> bool:
    """Decide whether a further word is a recipe or an override; the name of a file may hold `=`."""
    if isinstance(word, Path) or built_in_recipe(word):
        return True
    if is_bare_name(word) and (guess := ask_nearest(word)):
        raise RecipeError(f"{word}: no recipe of this name; {guess} `redraft recipes list` shows all")
    return word.endswith(ENDINGS) and ("=" not in word or Path(word).is_file())


def dump_recipe(config: RunConfig) -> str:
    """Write the resolved configuration as YAML that `load_recipe` reads back to an equal one."""
    settings = config.model_dump()
    return dump_yaml({**settings, "algorithm": _choices_first(settings["algorithm"])})


def _choices_first(section: Any) -> Any:
    """Put `preset` and `kind` before the keys that depend on them."""
    if not isinstance(section, dict):
        return section
    words = {name: section[name] for name in ("preset", "kind") if name in section}
    return words | {name: _choices_first(value) for name, value in section.items() if name not in words}


def _read(word: str | Path) -> dict[str, Any]:
    path = locate(word)
    if path.is_dir():
        raise RecipeError(f"{path}: is a folder; a recipe is a YAML file")
    if not path.exists():
        raise RecipeError(f"{word}: no such recipe; {_remedy(word)}")
    try:
        content = read_yaml(path)
    except YamlError as error:
        raise RecipeError(str(error)) from None
    if not isinstance(content, dict):
        got = {type(None): "nothing: the file is empty", list: "a list"}.get(type(content), "text")
        raise RecipeError(f"{path}: a recipe is a mapping of sections, got {got}")
    return anchored(content, path)


def _remedy(word: str | Path) -> str:
    """Say what to write in place of a recipe that is not there."""
    if isinstance(word, str) and is_bare_name(word):
        guess = ask_nearest(word)
        return f"{guess} `redraft recipes list` shows the built-in ones; a file of yours ends in .yaml".lstrip()
    if isinstance(word, str) and "=" in word:
        return "the recipe comes first, then its changes: redraft train quickstart seed=1"
    here = _recipes_in(Path("recipes"))
    name = Path(word).stem
    if built_in_recipe(name):
        form = "no folder, no ending" if isinstance(word, str) else "as text, not as a Path"
        guess = f"did you mean the built-in {name!r} ({form})?"
    else:
        near = did_you_mean(str(word), [*here, *_recipes_in(expand(word).parent)], cutoff=0.8)
        guess = near or ask_nearest(name)
    listed = f"recipes here: {', '.join(here) or 'none in ./recipes'}"
    return f"{guess} {listed}; `redraft recipes list` shows the built-in ones".lstrip()


def _recipes_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.yaml"))


def _needs_base(paths: Sequence[str | Path]) -> list[str]:
    """Explain what is missing where only examples were given, which change a recipe and are none."""
    examples = built_in("examples").values()
    if not all(built_in_recipe(path) in examples for path in paths):
        return []
    names = " ".join(map(str, paths))
    return [f"{names}: an example changes the recipe that stands before it: redraft train quickstart {names}"]


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Name the file or the override whose key is wrong."""
    try:
        yield
    except ItemError as error:
        raise RecipeError(f"{source}: {error}") from None


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Lay `extra` over `base`; another kind replaces a section of `algorithm`, and elsewhere is a value like others."""
    others = opened({key: value for key, value in extra.items() if key != "algorithm"}, RunConfig)
    merged = lay_over(base, others, kinds=()) if others else dict(base)  # an empty file empties nothing
    if "algorithm" in extra:
        merged["algorithm"] = lay_over_recipe(base.get("algorithm"), opened(extra["algorithm"], AlgorithmConfig))
    return merged


def _empties(override: Any) -> bool:
    """Tell whether an override empties a section."""
    return override in (None, {}) or (
        isinstance(override, dict) and len(override) == 1 and _empties(next(iter(override.values())))
    )


def _parse_override(word: str) -> dict[str, Any]:
    key, equals, text = word.partition("=")
    if word in PRESETS:
        raise RecipeError(f"override {word!r}: this is a preset; write algorithm={word}")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise RecipeError(f"override {word!r}: write key.sub=value, e.g. trainer.learning_rate=1e-4")
    try:
        value = parse_yaml(text, f"override {word!r}")
    except YamlError as error:
        is_syntax = "not valid YAML" in str(error)
        raise RecipeError(f"{error}" + f"; put text in quotes twice: {key}='\"...\"'" * is_syntax) from None
    for part in reversed(parts):
        value = {part: value}
    return value
