"""The model card of a policy folder: what it began as, how it was trained, and what was measured."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from redraft.rewards.term import RewardTerm
from redraft.rl.config.schema import RunConfig
from redraft.rl.config.sections import DataConfig
from redraft.rl.models.generation import write_generation
from redraft.rl.models.hub import find_model, is_hub_name
from redraft.rl.run_folder.files import ORIGIN, RESOLVED, read_json, step_number
from redraft.rl.run_folder.reader import RunFolder
from redraft.rl.run_folder.recorder import environment
from redraft.rollout.chat import Tokenizer

CARD = "README.md"
OURS = "<!-- Written by redraft. Take this line out to keep your own changes. -->"
_LICENCE = ("license", "license_name", "license_link")
_HONEST = (
    "These figures are the run's own: one seed, this decoder, these rows. They are no comparison with other models, and"
    " say nothing about what was not measured: other tasks, safety, facts."
)
_USE = (
    "`redraft generate --model THIS_FOLDER --prompts FILE --out FILE`; generation_config.json holds the thresholds of"
    " the editing decoder."
)


def describe_policy(folder: Path, config: RunConfig, step: int | None, tokenizer: Tokenizer) -> None:
    """Write generation_config.json and the card of a policy that a run has just saved.

    Args:
        folder: The policy's; without config.json it holds no whole policy, and nothing is written.
        config: The run's recipe.
        step: As in `card_of_run`.
        tokenizer: The policy's.
    """
    if (folder / "config.json").is_file():
        write_generation(folder, tokenizer, (config.evaluation or config.rollout).decode)
        write_card(folder, card_of_run(Path(config.output_dir), config, step))


def describe_export(source: Path, folder: Path, named: str, dtype: str, tokenizer: Tokenizer) -> bool:
    """Write generation_config.json and the card of an exported policy.

    Args:
        source: The policy's folder before.
        folder: The exported one.
        named: What the user called the source.
        dtype: That was asked for; empty where it is as before.
        tokenizer: The policy's.

    Returns:
        False where a README that is not ours stands in `folder`; it stays as it is.
    """
    write_generation(folder, tokenizer, None)
    found, card = _run_of(source), source / CARD
    if found is not None:
        run, step = found
        return write_card(folder, card_of_run(run, RunFolder(run).config, step))
    if card.is_file() and OURS in (text := card.read_text(encoding="utf-8", errors="replace")):
        return write_card(folder, text)
    return write_card(folder, card_of_copy(named.partition("@")[0], source, dtype))


def write_card(folder: Path, text: str) -> bool:
    """Write a card; return False, and leave the file as it is, where a README that is not ours stands there."""
    file = folder / CARD
    if file.is_file() and OURS not in file.read_text(encoding="utf-8", errors="replace"):
        return False
    file.write_text(text, encoding="utf-8")
    return True


def card_of_run(run: Path, config: RunConfig, step: int | None) -> str:
    """Describe a policy of a run.

    Args:
        run: Its folder, whose metrics are read.
        config: Its recipe.
        step: Batches that the policy learned from; None for the warm start.
    """
    name, model = Path(config.output_dir).name, config.model
    trained = "supervised training" if step is None else "reinforcement learning"
    body = [
        f"# {name}, {'warm start' if step is None else f'step {step}'}",
        f"A diffusion language model that edits its own drafts, made from {_start(run, config)} by {trained}, with"
        " Redraft.",
        "## How it was trained",
        *(f"* {line}" for line in _training(config, step)),
        "## What was measured",
        *_measured(run, config, step or 0),
    ]
    base = None
    if model.path is not None:
        try:
            base = find_model(model.path, model.revision, "text").folder
        except (OSError, ValueError):  # the model is gone: its licence cannot be read any more
            base = None
    return _card(model.path, _data_sets(config), body, base)


def card_of_copy(source: str, folder: Path, dtype: str) -> str:
    """Describe a copy of a policy which, as far as its folder says, no run of ours trained."""
    stored = f" in {dtype}" if dtype else ""
    body = [f"# A copy of {source}", f"Written by `redraft export`{stored}; the weights were not trained."]
    return _card(source, [], body, folder)


def _card(base: str | None, data_sets: Sequence[str], body: Sequence[str], folder: Path | None) -> str:
    """Put the head of metadata, with the licence of the base model in `folder`, before the text."""
    from huggingface_hub import ModelCardData

    head = ModelCardData(
        base_model=base if base and is_hub_name(base) else None,
        datasets=list(data_sets) or None,
        pipeline_tag="text-generation",
        library_name="redraft",
        tags=["diffusion-language-model", "text-editing"],
    )
    licence = _licence(folder)
    made = yaml.safe_dump({**head.to_dict(), **licence}, sort_keys=False).strip()
    versions = environment()["versions"]
    written = ", ".join(f"{name} {versions[name]}" for name in ("redraft", "torch", "transformers"))
    lines = [f"---\n{made}\n---", OURS, *body, "## How to use it", _USE, f"Written with {written}."]
    if base is not None and not licence:
        lines.append("The licence is that of the model it was made from, whose card named none.")
    return "\n\n".join(_joined(lines)) + "\n"


def _joined(lines: Sequence[str]) -> Iterator[str]:
    """Keep the lines of lists and tables together."""
    block: list[str] = []
    for line in lines:
        if block and not (line[0] == block[-1][0] and line[0] in "*|"):
            yield "\n".join(block)
            block = []
        block.append(line)
    yield "\n".join(block)


def _start(run: Path, config: RunConfig) -> str:
    """Name the policy that the run began with."""
    if config.model.path is None:
        return "random weights"
    if not (run / ORIGIN).is_file():
        return f"`{config.model.path}`"
    kept = read_json(run / ORIGIN, "delete it")
    return f"[{kept['path']}](https://huggingface.co/{kept['path']}) at commit `{kept['commit']}`"


def _training(config: RunConfig, step: int | None) -> Iterator[str]:
    if config.sft is not None:
        yield f"supervised first, on {_rows(config.sft.data)}, at most {config.sft.max_steps} steps"
    if step is None:
        return
    algorithm, rollout, trainer, lora = config.algorithm, config.rollout, config.trainer, config.model.lora
    preset = f", preset {algorithm.preset}" if algorithm.preset else ""
    yield f"method: estimator {algorithm.estimator.kind}, loss {algorithm.loss.kind}{preset}"
    yield f"rewards: {', '.join(map(_reward, config.rewards))}"
    yield f"prompts: {_rows(config.data)}"
    yield f"batches: {step}, of {rollout.prompts_per_step} prompts with {rollout.num_generations} completions each"
    yield f"learning rate {trainer.learning_rate:g}, optimizer {trainer.optimizer.kind}, seed {config.seed}"
    yield "all weights were trained" if lora is None else f"adapters of rank {lora.rank} were trained ({lora.targets})"


def _reward(term: RewardTerm) -> str:
    gate = ", a gate" if term.gate else ""
    return f"`{Path(term.fn).name}` (weight {term.weight:g}{gate})"


def _rows(data: DataConfig) -> str:
    name = f", {data.name}" if data.name else ""
    return f"`{data.path}`{name}, split {data.split}" + (f", {data.max_rows} rows of it" if data.max_rows else "")


def _data_sets(config: RunConfig) -> list[str]:
    """Name the data sets of the hub that the policy learned from."""
    sections = [config.data, config.sft.data if config.sft else None]
    return sorted({data.path for data in sections if data and is_hub_name(data.path)})


def _measured(run: Path, config: RunConfig, step: int) -> Iterator[str]:
    """Yield the first evaluation, and the last one that is not of a later policy."""
    rows = RunFolder(run).metrics("eval") if (run / RESOLVED).is_file() else []
    found = [row for row in rows if row["step"] <= step]
    if not found or config.evaluation is None:
        yield "Nothing: there was no evaluation."
        return
    shown = {row["step"]: row for row in (found[0], found[-1])}
    yield f"On {_rows(config.evaluation.data)}; `eval/accuracy` is the mean of the first reward."
    yield "| | " + " | ".join(f"step {number}" for number in shown) + " |"
    yield "|---" * (len(shown) + 1) + "|"
    for name in found[-1]:
        if name.startswith("eval/"):
            yield f"| `{name}` | " + " | ".join(_number(row, name) for row in shown.values()) + " |"
    yield _HONEST


def _number(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.4g}" if name in row else ""


def _licence(folder: Path | None) -> dict[str, Any]:
    """Read the licence in the head of the base model's card; empty where there is none."""
    from huggingface_hub import metadata_load

    if folder is None or not (folder / CARD).is_file():
        return {}
    try:
        head = metadata_load(folder / CARD) or {}
    except (ValueError, yaml.YAMLError):
        return {}
    return {key: head[key] for key in _LICENCE if head.get(key)}


def _run_of(policy: Path) -> tuple[Path, int | None] | None:
    """Find the run that a policy folder is part of, and the step; None for the step of a warm start."""
    policy = policy.absolute()
    if policy.parts[-2:] == ("sft", "hf"):
        run, step = policy.parents[1], None
    elif policy.name == "hf" and (step := step_number(policy.parent.name)) is not None:
        run = policy.parents[2]
    else:
        return None
    return (run, step) if (run / RESOLVED).is_file() else None
