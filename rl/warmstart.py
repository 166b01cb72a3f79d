"""The supervised stage of a recipe: a policy from scratch (or from `model.path`), left as a Hugging Face folder."""

import shutil
from pathlib import Path

import torch

from rewards.worker import RewardWorker
from rl.codec import Codec
from rl.config import RunConfig
from rl.data import load_rows
from rl.evaluate import evaluate
from rl.local import LocalRollouts
from rl.policy import RolloutPolicy, build_policy, load_policy, load_text_side, save_policy
from rl.recipe import RecipeError
from rl.recorder import Recorder
from rl.sft import TrainOptions, encode_rows, train_supervised
from rollout.worker import RolloutWorker


def policy_folder(config: RunConfig) -> Path:
    """Where the run's first policy is: `model.path`, or the warm start's result."""
    return Path(config.model.path) if config.model.path else Path(config.output_dir) / "sft" / "hf"


def ensure_policy(config: RunConfig, recorder: Recorder) -> Path:
    """The run's first policy; makes it with the warm start when it is not there yet."""
    folder = policy_folder(config)
    if not folder.is_dir():
        if config.model.path or config.sft is None:
            raise FileNotFoundError(f"model.path: no folder {folder}; give a folder with config.json and safetensors")
        run_warm_start(config, recorder)
    return folder


def run_warm_start(config: RunConfig, recorder: Recorder) -> Path:
    """Run the recipe's `sft` section.

    Returns:
        The folder of the trained policy, `<output_dir>/sft/hf`.

    Raises:
        RecipeError: The recipe has no `sft` section.
    """
    if config.sft is None:
        raise RecipeError("the recipe has no sft section; add one with at least sft.data")
    torch.set_num_threads(config.cluster.learner_threads)
    if config.model.path:
        model = load_policy(config.model.path, config.model.dtype, config.model.device)
        tokenizer, tokens = load_text_side(config.model.path)
    else:
        assert config.model.init is not None
        model, tokenizer, tokens = build_policy(config.model.init, config.model.dtype, config.model.device, config.seed)
    block_length = config.rollout.decode.block_length
    demonstrations = encode_rows(load_rows(config.sft.data, config.seed), tokenizer, tokens, block_length)
    rewards = RewardWorker(config.rewards)
    try:
        rollouts = LocalRollouts(RolloutWorker(lambda: RolloutPolicy(model, 0), tokens, config.rollout.max_rows))
        held_out = load_rows(config.evaluation.data, config.seed) if config.evaluation else []

        def accuracy() -> dict[str, float]:
            if config.evaluation is None:
                return {}
            codec = Codec(tokenizer, config.seed)
            return evaluate(rollouts, rewards, codec, held_out, config.evaluation.decode)

        train_supervised(
            model,
            demonstrations,
            config.sft,
            TrainOptions(Path(config.output_dir) / "sft", config.seed, block_length, tokens),
            accuracy,
            lambda step, metrics: recorder.metrics("sft", step, metrics),
        )
    finally:
        rewards.close()
    # Written beside its place and renamed: a folder that is there is a whole policy.
    final = Path(config.output_dir) / "sft" / "hf"
    partial = final.with_name(".hf.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_policy(model, partial, tokenizer)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    return final
