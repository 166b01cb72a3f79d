"""A user's script: every public name, as a type checker and a reader see it. `.ci/wheel` checks it on the wheel."""

from pathlib import Path
from typing import Any, assert_type

from redraft import (
    DataError,
    RecipeError,
    RewardError,
    RunConfig,
    RunFolder,
    Verdict,
    __version__,
    evaluate,
    generate,
    load_recipe,
    reward,
    train,
)


@reward("brevity", shaping=True)
def brevity(completions: list[str], **columns: Any) -> list[Verdict]:
    """Score short completions high."""
    return [Verdict(1.0 / (1 + len(text)), metrics={"characters": len(text)}) for text in completions]


def load(words: list[str]) -> RunConfig:
    """Load the quickstart with changes, and leave with a line where one of them is wrong."""
    try:
        return load_recipe("quickstart", *words)
    except (RecipeError, DataError, RewardError) as error:
        raise SystemExit(str(error)) from None


def main() -> None:
    """Train the quickstart for three steps and look at what it left."""
    config = load_recipe("quickstart", Path("mine.yaml"), "trainer.total_steps=3")
    assert_type(load(["seed=1"]), RunConfig)
    assert_type(config.trainer.total_steps, int)
    run = train(config, resume=False)
    assert_type(run, RunFolder)
    assert_type(run.policy, Path)
    assert_type(run.checkpoints, list[Path])
    assert_type(run.metrics("train"), list[dict[str, Any]])
    assert_type(run.samples(step=3), list[dict[str, Any]])
    assert_type(RunFolder(run.path).config.seed, int)
    assert_type(evaluate(config), dict[str, float])
    assert_type(evaluate(config, policy=run.policy), dict[str, float])
    assert_type(evaluate(config, run.path), dict[str, float])
    chat = [{"role": "user", "content": "40+7="}]
    rows = generate(run.policy, ["12+3=", chat], mode="s", max_new_tokens=16, decode={"threshold": 0.7}, seed=1)
    assert_type(rows, list[dict[str, Any]])
    assert_type(__version__, str)


if __name__ == "__main__":
    main()
