"""Run the supervised stage of a recipe: train a policy from scratch, or that of `model.path`, into `sft/hf`."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redraft.rl.atomic import atomic_write
from redraft.rl.cluster.backend import local_pipeline
from redraft.rl.config.recipe import RecipeError
from redraft.rl.config.schema import RunConfig
from redraft.rl.data.codec import Codec
from redraft.rl.data.load import load_rows, rows_fingerprint, source_name
from redraft.rl.data.reading import Reader
from redraft.rl.data.tasks import Row
from redraft.rl.models.hub import Part, find_first, is_hub_name
from redraft.rl.models.registry import build_policy, load_policy, load_text_side, save_policy
from redraft.rl.run_folder.checkpoint import complete_checkpoints, warm_start_policy
from redraft.rl.run_folder.files import read_json, write_whole, writing
from redraft.rl.run_folder.inputs import policy_fingerprint
from redraft.rl.run_folder.recorder import Recorder
from redraft.rl.stages.demonstrations import Demonstration, encode_rows
from redraft.rl.stages.evaluate import evaluate_rows
from redraft.rl.stages.model_card import describe_policy
from redraft.rollout.chat import Tokenizer
from redraft.rollout.trajectory import SpecialTokens

SETTINGS = "settings.json"  # beside hf/; says what the warm start was made with


def policy_folder(config: RunConfig, part: Part = "text") -> Path:
    """Find the run's first policy: the warm start's result, or `model.path`.

    A recipe with both goes on from the warm start once `redraft sft` has made it, and from `model.path` before.

    Args:
        config: The recipe.
        part: What is needed of a policy on the hub.
    """
    made = _made_folder(config)
    if not config.model.path or (config.sft and made.is_dir()):
        return made
    path, revision = config.model.path, config.model.revision
    return find_first(path, revision, part).folder.resolve() if is_hub_name(path) else Path(path).resolve()


def present_policy(config: RunConfig) -> Path:
    """Find the first policy of a run that has begun, as `policy_folder` does.

    Raises:
        FileNotFoundError: The folder is gone.
    """
    folder = policy_folder(config)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: the run's first policy is gone; put it back to resume, or start anew")
    return folder


def plan_start(config: RunConfig, say: Callable[[str], None]) -> list[Demonstration]:
    """Load the demonstrations of the warm start, or none if the run's first policy is there already. Writes nothing.

    Args:
        config: The recipe.
        say: Called with one line if the recipe has both `model.path` and a warm start, to say which of them it is.

    Raises:
        RecipeError: The warm start in the run folder was made with other settings.
        DataError: A demonstration is missing, or cannot be learned.
    """
    folder = policy_folder(config)
    if folder != _made_folder(config):
        if config.sft:
            say(f"starting from {folder} (model.path); the sft section runs only with redraft sft, before")
        return []
    if not folder.is_dir():
        return _demonstrations(config)
    if changed := _changed_settings(folder.parent, config):
        raise RecipeError(
            f"{folder} is a warm start with other settings (seed, model, sft, rollout.decode.block_length,"
            " or with sft.target_accuracy data, evaluation or rewards), or of other rows or another policy than now:"
            f" {', '.join(changed)} differ; delete {folder.parent} or choose another output_dir=FOLDER"
        )
    if config.model.path:
        say(f"starting from {folder}, which redraft sft made from model.path")
    return []


def run_warm_start(config: RunConfig, recorder: Recorder, held_out: Sequence[Row]) -> Path:
    """Run the recipe's `sft` section, as `redraft sft` does.

    Args:
        config: The recipe.
        recorder: Where results go.
        held_out: Rows that the warm start is measured on.

    Returns:
        The folder of the trained policy, `<output_dir>/sft/hf`.

    Raises:
        RecipeError: The recipe has no `sft` section, or RL has already started from this folder's warm start.
        DataError: A demonstration is missing, or cannot be learned.
    """
    if config.sft is None:
        raise RecipeError("the recipe has no sft section; add one with at least sft.data")
    if complete_checkpoints(recorder.run):
        raise RecipeError(f"{recorder.run} already holds RL checkpoints; choose another output_dir=FOLDER")
    demonstrations = _demonstrations(config)  # before anything is written, as a row may be refused
    recorder.begin()
    return make_warm_start(config, recorder, held_out, demonstrations)


def make_warm_start(
    config: RunConfig, recorder: Recorder, held_out: Sequence[Row], demonstrations: Sequence[Demonstration]
) -> Path:
    """Train the warm start on checked demonstrations, and return its folder, as `run_warm_start` does."""
    # transformers' trainer takes 2.5 s to import: only a run that has a warm start to make waits for it.
    from redraft.rl.stages.sft import train_supervised

    assert config.sft is not None
    recorder.drop_stage("sft")
    torch.set_num_threads(config.cluster.learner_threads)
    model, tokenizer, tokens = _first_policy(config)
    with _accuracy(config, model, tokenizer, tokens, held_out) as accuracy:
        train_supervised(
            model,
            demonstrations,
            config.sft,
            accuracy,
            lambda step, metrics: recorder.metrics("sft", step, metrics),
            folder=Path(config.output_dir) / "sft",
            seed=config.seed,
            block_length=config.rollout.decode.block_length,
            tokens=tokens,
        )
    folder = _made_folder(config)
    with writing(folder), atomic_write(folder) as partial:
        save_policy(model, partial, tokenizer)
        describe_policy(partial, config, None, tokenizer)
        write_whole(folder.parent / SETTINGS, json.dumps(_settings(config), indent=1))
    return folder


def _made_folder(config: RunConfig) -> Path:
    return warm_start_policy(Path(config.output_dir)).resolve()


def _first_policy(config: RunConfig) -> tuple[nn.Module, Tokenizer, SpecialTokens]:
    dtype, device = config.model.dtype, config.model.device
    if config.model.path:
        folder = str(find_first(config.model.path, config.model.revision, "all").folder)
        return load_policy(folder, dtype, device), *load_text_side(folder)
    assert config.model.init is not None
    return build_policy(config.model.init, dtype, device, config.seed, block_length=config.rollout.decode.block_length)


def _demonstrations(config: RunConfig) -> list[Demonstration]:
    assert config.sft is not None
    rows, block_length = load_rows(config.sft.data, config.seed), config.rollout.decode.block_length
    return encode_rows(rows, Reader.of_first(config), block_length, source_name(config.sft.data))


@contextlib.contextmanager
def _accuracy(
    config: RunConfig, model: nn.Module, tokenizer: Tokenizer, tokens: SpecialTokens, held_out: Sequence[Row]
) -> Iterator[Callable[[], dict[str, float]]]:
    """Yield a function that evaluates the model as it then is; its result is empty if the recipe has no evaluation."""
    if config.evaluation is None:
        yield dict
        return
    decode = config.evaluation.decode
    with local_pipeline(config, model, tokens, Codec(tokenizer, config.seed)) as pipeline:
        yield lambda: evaluate_rows(pipeline, held_out, decode)


def _changed_settings(folder: Path, config: RunConfig) -> list[str]:
    """Name what differs from the settings that a warm start was made with. Earlier versions kept fewer settings."""
    saved, now = read_json(folder / SETTINGS, f"delete {folder} to make the warm start anew"), _settings(config)
    return [name for name in sorted(saved.keys() | now.keys()) if saved.get(name, now.get(name)) != now.get(name)]


def _settings(config: RunConfig) -> dict[str, Any]:
    """Collect what the warm start depends on; if an accuracy ends it, how that is measured belongs to it too."""
    settings = {
        "seed": config.seed,
        "block_length": config.rollout.decode.block_length,
        "model": config.model.model_dump(mode="json", exclude={"device", "lora", "revision"}),
        "sft": config.sft.model_dump(mode="json") if config.sft else None,
    }
    if config.sft:
        settings["sft rows"] = rows_fingerprint(load_rows(config.sft.data, config.seed))
    if config.model.path and (is_hub_name(config.model.path) or Path(config.model.path).is_dir()):
        settings["policy"] = policy_fingerprint(find_first(config.model.path, config.model.revision, "all").folder)
    if config.evaluation and config.sft and config.sft.target_accuracy:
        settings["data"] = config.data.model_dump(mode="json")
        settings["evaluation"] = config.evaluation.model_dump(mode="json", exclude={"eval_steps"})
        settings["rewards"] = [term.model_dump(mode="json") for term in config.rewards]
    return settings
