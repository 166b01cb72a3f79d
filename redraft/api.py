"""The functions of `redraft`: the verbs of the command for a program or a notebook.

What is heavy is imported inside the functions: importing this module takes milliseconds.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redraft.rl.config.schema import RunConfig
    from redraft.rl.run_folder.reader import RunFolder

logger = logging.getLogger(__name__)

Chat = Sequence[Mapping[str, str]]
"""Messages with `role` and `content`."""


def load_recipe(recipe: str | Path, *changes: str | Path) -> "RunConfig":
    """Read, merge and check a recipe, as `redraft train` does with its words.

    Example::

        config = load_recipe("quickstart", "mine.yaml", "trainer.total_steps=3")

    Args:
        recipe: The name of a built-in recipe, or the path of a YAML file.
        changes: Further recipes, merged from left to right, and `key.sub=value` words, which come last.

    Raises:
        RecipeError: There is no such recipe, or something in it does not fit. It is a ValueError.
    """
    from redraft.rl.config.recipe import load_words

    for word in (recipe, *changes):
        if not isinstance(word, str | Path):
            raise TypeError(
                f"load_recipe takes each change as a word of its own, got {word!r:.80}; write"
                ' load_recipe("quickstart", "mine.yaml", "seed=1")'
            )
    return load_words([recipe, *changes])


def train(config: "RunConfig", *, resume: bool = False) -> "RunFolder":
    """Train a policy, after the warm start where the recipe has one; prints one line a step, as `redraft train` does.

    Ctrl-C ends the run with a checkpoint after the step that is under way, and then raises KeyboardInterrupt, so that a
    loop over runs ends too. `resume=True` goes on from there and ends with the same weights as a run that was never
    stopped.

    Example::

        run = train(load_recipe("quickstart", "output_dir=runs/mine"))
        print(run.metrics("eval")[-1]["eval/accuracy"], run.policy)

    Args:
        config: From `load_recipe`.
        resume: Continue from the newest complete checkpoint of `config.output_dir`.

    Returns:
        The run's folder.

    Raises:
        ValueError: The recipe, its data or its rewards do not fit each other; nothing was trained.
        RewardError: A reward failed.
        KeyboardInterrupt: Ctrl-C, SIGTERM or a closed terminal ended the run before its last step.
    """
    from redraft.rl.process import prepared_process
    from redraft.rl.run_folder.reader import RunFolder

    _check_recipe(config, "train")
    with prepared_process(logger.warning):
        from redraft.rl.monitor.display import open_display
        from redraft.rl.verbs import train_recipe

        with open_display(config) as display:
            outcome = train_recipe(config, display, resume)
    if outcome.stopped:
        raise KeyboardInterrupt(
            f"stopped after step {outcome.steps}, with a checkpoint; continue with train(config, resume=True)"
        )
    return RunFolder(config.output_dir)


def evaluate(config: "RunConfig", policy: str | Path | None = None) -> dict[str, float]:
    """Measure a policy on the held-out rows with the recipe's evaluation settings.

    Example::

        evaluate(load_recipe("quickstart"))["eval/accuracy"]

    Args:
        config: From `load_recipe`, with an evaluation section.
        policy: Policy folder, run folder (its newest policy), or `owner/name` of a model on the hub; the newest one of
            `config.output_dir` where it is left out.

    Returns:
        `eval/accuracy` (the mean of the first reward), `eval/rows`, `eval/tokens_per_forward` and
        `eval/edits_per_completion`.

    Raises:
        RecipeError: The recipe has no evaluation section.
        FileNotFoundError: There is no policy.
    """
    from redraft.rl.process import prepared_process

    _check_recipe(config, "evaluate")
    if policy is not None:
        _check_folder(policy, "evaluate")
    with prepared_process(logger.warning):
        from redraft.rl.verbs import evaluate_policy

        return evaluate_policy(config, policy)[1]


def generate(
    model: str | Path,
    prompts: Sequence[str | Chat],
    *,
    mode: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    decode: Mapping[str, Any] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "auto",
    slots: int = 64,
) -> list[dict[str, Any]]:
    """Complete prompts with the editing decoder, as `redraft generate` does.

    Example::

        rows = generate(run.policy, ["12+3=", "40+7="], max_new_tokens=16)
        print([row["completion"] for row in rows])

    Args:
        model: Policy folder, run folder (its newest policy), or `owner/name` of a model on the hub (`@revision`).
        prompts: Texts, or chats as lists of messages.
        mode: `q` (careful), `s` (fast) or `llada2.0` (no editing); without it as the model's generation_config.json
            says, else `q`.
        max_new_tokens: Longest completion.
        temperature: 0 is greedy.
        decode: Further settings of the decoder by their names in a recipe's `decode` section, e.g.
            `{"threshold": 0.7, "block_length": 16}`.
        seed: Of the draws.
        dtype: `float32`, `bfloat16` or `float64`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        slots: Completions decoded together.

    Returns:
        One dictionary a prompt, in their order: `prompt`, `completion`, `completion_ids`, `finish_reason`,
        `num_forwards`, `num_edits` and `tokens_per_forward`.

    Raises:
        ValueError: A prompt that the policy cannot read or has no room for, or a setting that does not fit.
    """
    from redraft.rl.process import prepared_process

    _check_folder(model, "generate")
    _check_generate(prompts, decode, {"seed": seed, "max_new_tokens": max_new_tokens, "slots": slots})
    given = {"max_completion_length": max_new_tokens, "temperature": temperature, **(decode or {})}
    rows = [(f"prompts:{number}", {"prompt": _plain(prompt)}) for number, prompt in enumerate(prompts)]
    with prepared_process(logger.warning):
        from redraft.rl.files import expand
        from redraft.rl.run_folder.checkpoint import find_policy
        from redraft.rl.stages.generate import complete_rows, decode_settings

        folder = str(find_policy(expand(model)))
        made = complete_rows(
            folder,
            rows,
            decode_settings(folder, mode, given),
            seed=seed,
            dtype=dtype,
            device=device,
            slots=slots,
            trace=False,
            advance=lambda done, total: None,
        )
        return list(made)


def _check_recipe(config: object, function: str) -> None:
    from redraft.rl.config.schema import RunConfig
    from redraft.rl.run_folder.reader import RunFolder

    if isinstance(config, RunConfig):
        return
    remedy = "load_recipe(...)"
    if isinstance(config, str | Path):
        remedy = f"load_recipe({json.dumps(str(config))})"
    elif isinstance(config, RunFolder):
        remedy = f"{config}.config"
    raise TypeError(f"{function} takes a recipe from load_recipe, got {config!r:.80}; write {function}({remedy})")


def _check_folder(policy: object, function: str) -> None:
    from redraft.rl.run_folder.reader import RunFolder

    if not isinstance(policy, str | Path):
        remedy = f"; write {policy}.policy" if isinstance(policy, RunFolder) else ""
        raise TypeError(f"{function} takes the path of a policy, got {policy!r:.80}{remedy}")


def _check_generate(prompts: object, decode: object, counts: Mapping[str, object]) -> None:
    """Refuse what would be taken for something else: a text is a sequence of one-letter prompts."""
    if isinstance(prompts, str):
        raise TypeError(f"prompts: must be a list of prompts, got text; write [{json.dumps(prompts[:40])}]")
    if isinstance(prompts, bytes | Mapping) or not isinstance(prompts, Iterable):
        raise TypeError(f"prompts: must be a list of prompts, got {prompts!r:.80}")
    if decode is not None and not isinstance(decode, Mapping):
        raise TypeError(
            f'decode: must be a mapping of settings, such as {{"threshold": 0.7}}, got {decode!r:.80}; the modes are'
            " given as mode="
        )
    for name, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool):
            raise TypeError(f"{name}: must be an integer, got {count!r:.80}")
        if name != "seed" and count < 1:
            raise ValueError(f"{name}: must be at least 1, got {count}")


def _plain(prompt: Any) -> Any:
    """Copy a chat of mappings as the dictionaries that the checks of a row expect; they judge everything else."""
    if isinstance(prompt, str) or not isinstance(prompt, Sequence):
        return prompt
    return [dict(turn.items()) if isinstance(turn, Mapping) else turn for turn in prompt]
