"""Where recipes lie: the built-in ones by name, and the files that a recipe names beside itself.

A word without an ending and without a folder, `quickstart`, is the name of a built-in recipe; `./quickstart` and
`quickstart.yaml` are files. A relative path inside a recipe counts from the working directory, and where nothing is
there, from the folder of the recipe. A built-in recipe's paths always count from its own folder: it must mean the same
in every working directory.
"""

import shutil
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import redraft  # the package on top of this one: for its folder only
from redraft.rewards.user_files import is_file
from redraft.rl.config.yaml_core import read_yaml
from redraft.rl.files import check_output_folder, expand
from redraft.words import did_you_mean, guess_and_valid

GROUPS = ("recipes", "examples")
ENDINGS = (".yaml", ".yml")
# Keys that may be paths inside these sections; of a reward's arguments, only `function` of the adapters is known to be.
_INSIDE: Mapping[str, Set[str]] = {"kwargs": {"function"}, "when": set(), "init": set()}


def built_in(group: str) -> dict[str, Path]:
    """Find the YAML files of `recipes` or `examples` that are installed with the package, by name."""
    folder = Path(redraft.__file__).parent / group
    return {path.stem: path for path in sorted(folder.rglob("*.yaml"))}


def built_in_recipe(word: str | Path) -> Path | None:
    """Find the built-in recipe or example that a word names; return None for a path and for an unknown name."""
    if not isinstance(word, str) or not is_bare_name(word):
        return None
    return next((found[word] for group in GROUPS if word in (found := built_in(group))), None)


def is_bare_name(word: str) -> bool:
    """Decide whether a word can only be a name: it is no path, no YAML file and no `key=value`."""
    return not (set(word) & set("/\\=~") or word.endswith(ENDINGS)) and word not in {"", ".", ".."}


def locate(word: str | Path) -> Path:
    """Find the file of a recipe by name or path; a file that is written as a path need not exist."""
    return built_in_recipe(word) or expand(word)


def ask_nearest(word: str | Path) -> str:
    """Ask whether the built-in name that is written most like a word is meant; empty where none is near."""
    return did_you_mean(word, [name for group in GROUPS for name in built_in(group)], cutoff=0.6)


def find_built_in(name: str) -> Path:
    """Find the file of a built-in recipe or example.

    Raises:
        ValueError: There is none of this name.
    """
    found = built_in_recipe(name)
    if found is None:
        names = [name for group in GROUPS for name in built_in(group)]
        raise ValueError(f"{name}: no built-in recipe; {guess_and_valid(name, names)}")
    return found


def copy_recipe(recipe: Path, to: str | Path) -> list[Path]:
    """Copy a recipe and the files beside it that it names.

    Args:
        recipe: The file.
        to: A folder, which may be one that is to be made, or a file that ends in `.yaml`.

    Returns:
        The files that were written.

    Raises:
        FileExistsError: One is there already; nothing was written.
        OSError: The place cannot be written.
        ValueError: It is empty, or a file that is no recipe.
    """
    target = _target(recipe, to)
    named = companions(read_yaml(recipe), recipe)
    pairs = [(recipe, target), *((path, target.parent / path.relative_to(recipe.parent)) for path in named)]
    there = next((made for _, made in pairs if made.exists()), None)
    if there is not None:
        raise FileExistsError(f"{there}: is there already and stays as it is; give another place")
    for source, made in pairs:
        try:
            made.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, made)
        except OSError as error:
            raise OSError(f"{made}: cannot be written: {error.strerror or error}") from error
    return [made for _, made in pairs]


def _target(recipe: Path, to: str | Path) -> Path:
    """Choose the file that a recipe is copied to, in a folder that can be written."""
    place = Path(to)
    if place.suffix in ENDINGS:
        check_output_folder(place.parent)
        return place
    check_output_folder(to)  # as written: the path of an empty text would be the working directory
    if place.suffix and not place.is_dir():
        raise ValueError(f"{to}: a recipe ends in {' or '.join(ENDINGS)}; a folder with a dot must be there already")
    return place / recipe.name


def anchored(content: Any, recipe: Path) -> Any:
    """Make the paths of a parsed recipe that lead to files beside it absolute; see the top of this file.

    Args:
        content: What the file holds.
        recipe: The file.
    """
    owned = any(recipe == path for group in GROUPS for path in built_in(group).values())

    def anchor(value: str, place: str) -> str:
        beside = recipe.parent / place
        if not beside.exists() or (Path(place).exists() and not owned):
            return value
        return type(value)(value.replace(place, str(beside.resolve()), 1))

    return _rewritten(content, anchor)


def companions(content: Any, recipe: Path) -> list[Path]:
    """Find the files in the folder of a recipe, or below it, that the recipe names."""
    found: list[Path] = []

    def collect(value: str, place: str) -> str:
        if (recipe.parent / place).is_file() and ".." not in Path(place).parts:
            found.append(recipe.parent / place)
        return value

    _rewritten(content, collect)
    return list(dict.fromkeys(found))


def _rewritten(content: Any, change: Callable[[str, str], str], keys: Set[str] = frozenset({"fn", "path"})) -> Any:
    """Replace every value that names a relative file with `change(value, relative path in it)`."""
    if isinstance(content, list):
        return [_rewritten(item, change, keys) for item in content]
    if not isinstance(content, dict):
        return content
    made = {}
    for key, value in content.items():
        place = _relative_place(str(key), value) if key in keys else ""
        made[key] = change(value, place) if place else _rewritten(value, change, _INSIDE.get(str(key), keys))
    return made


def _relative_place(key: str, value: Any) -> str:
    """Return the relative path in a value, as written; empty for names of rewards, data sets and hub repositories."""
    if not isinstance(value, str):
        return ""
    place = value if key == "path" else value.rpartition(":")[0] if is_file(value) else ""
    is_written_as_path = place.startswith(("./", "../")) or Path(place).suffix != ""
    return place if is_written_as_path and not Path(place).is_absolute() and not place.startswith("~") else ""
