"""RL post-training for diffusion language models that edit their own drafts.

    from redraft import load_recipe, train

    run = train(load_recipe("quickstart", "output_dir=runs/mine"))
    print(run.metrics("eval")[-1]["eval/accuracy"], run.policy)

docs/api.md has the whole of it. The names below load when they are first asked for, so importing them loads no torch.

The folders `rl/`, `rollout/`, `rewards/`, `recipes/` and `examples/` beside this one are linked here, so that they are
imported as parts of `redraft` and under no other name: `rl` and `rewards` are names that users' own folders bear.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redraft.api import evaluate, generate, load_recipe, train
    from redraft.rewards.result import RewardError, Verdict
    from redraft.rewards.reward import reward
    from redraft.rl.config.recipe import RecipeError
    from redraft.rl.config.schema import RunConfig
    from redraft.rl.data.files import DataError
    from redraft.rl.run_folder.reader import RunFolder

    __version__: str

__all__ = [
    "DataError",
    "RecipeError",
    "RewardError",
    "RunConfig",
    "RunFolder",
    "Verdict",
    "__version__",
    "evaluate",
    "generate",
    "load_recipe",
    "reward",
    "train",
]

_PLACES = {
    "evaluate": "redraft.api",
    "generate": "redraft.api",
    "load_recipe": "redraft.api",
    "train": "redraft.api",
    "DataError": "redraft.rl.data.files",
    "RecipeError": "redraft.rl.config.recipe",
    "RewardError": "redraft.rewards.result",
    "RunConfig": "redraft.rl.config.schema",
    "RunFolder": "redraft.rl.run_folder.reader",
    "Verdict": "redraft.rewards.result",
    "reward": "redraft.rewards.reward",
}


def __getattr__(name: str) -> Any:
    """Load a public name, or read the version of the installed package."""
    if name == "__version__":
        found = _version()
    elif name in _PLACES:
        found = getattr(import_module(_PLACES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List everything public, loaded or not, and what every module has."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("redraft")
    except PackageNotFoundError:  # a checkout on PYTHONPATH, not installed
        return "0+not.installed"
