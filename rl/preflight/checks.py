"""Check machine, rewards and rows before anything is trained, so that a run that cannot work ends in a minute."""

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from redraft.rl.config.schema import RunConfig
from redraft.rl.data.load import source_name
from redraft.rl.data.reading import Reader, check_prompts
from redraft.rl.data.rows import Row
from redraft.rl.learner.optim import require_torchao
from redraft.rl.preflight.launcher import check_ray_address
from redraft.rl.preflight.verifiers import check_calls, check_measure
from redraft.rollout.vllm.engine import require_vllm

logger = logging.getLogger(__name__)


def check_machine(config: RunConfig) -> None:
    """Refuse a run whose packages, GPUs or cluster are not here.

    Raises:
        VLLMMissingError: vLLM is asked for and not installed.
        ValueError: Ray or torchao is asked for and not installed, or more GPUs than a cluster of this machine has; or
            several ranks are asked for in one process.
        RayAddressError: No cluster answers at RAY_ADDRESS.
    """
    if config.rollout.engine == "vllm":
        require_vllm()
    if config.trainer.optimizer.kind == "adamw8bit":
        require_torchao()
    if config.cluster.backend != "ray":
        _check_one_rank(config)
        return
    if find_spec("ray") is None:
        raise ValueError("cluster.backend: ray is not installed: pip install 'ray[default]', or use inprocess")
    check_ray_address()
    asked = config.cluster.learner_gpus + config.rollout.num_actors * config.cluster.rollout_gpus
    ranks, here = config.trainer.parallel.ranks or 1, torch.cuda.device_count()
    keys = "cluster.learner_gpus and rollout.num_actors * cluster.rollout_gpus ask"
    if ranks > asked and here and config.model.device != "cpu":
        keys, asked = "trainer.parallel.ranks asks", ranks
    if asked > here and not os.environ.get("RAY_ADDRESS"):
        raise ValueError(
            f"{keys} for {asked:g} GPUs, but this machine has {here}; lower it, or name a cluster with RAY_ADDRESS"
        )


def _check_one_rank(config: RunConfig) -> None:
    for name in ("ranks", "expert_parallel"):
        asked = getattr(config.trainer.parallel, name) or 1
        if asked > 1:
            raise ValueError(
                f"trainer.parallel.{name}={asked} needs {asked} processes, and cluster.backend: inprocess has one; use"
                " cluster.backend=ray, or 1"
            )


def check_reward_calls(config: RunConfig, train: Sequence[Row], held_out: Sequence[Row]) -> None:
    """Refuse rewards that cannot be called on the rows that they will score; see `preflight.verifiers.check_calls`."""
    rows_of = {source_name(config.data): train} if train else {}
    if config.evaluation is not None:
        rows_of[source_name(config.evaluation.data)] = held_out
        check_measure(config.rewards, held_out)
    check_calls(config.rewards, rows_of)


def check_run(config: RunConfig, train: Sequence[Row], held_out: Sequence[Row], folder: Path) -> None:
    """Refuse rows that the run's first policy cannot read, or has no room for.

    Args:
        config: The recipe.
        train: Rows to learn from.
        held_out: Evaluation rows.
        folder: Where the first policy is, or where the warm start will write it.

    Raises:
        DataError: Names the first such row.
    """
    reader = Reader.of_first(config, folder)
    trained, asked = reader.limits.block_length, config.rollout.decode.block_length
    if trained != asked:
        logger.warning("%s was trained with blocks of %d tokens, not %d", folder, trained, asked)
    check_prompts(train, reader, config.rollout.decode, source_name(config.data))
    _check_held_out(config, held_out, reader)


def check_evaluation(config: RunConfig, held_out: Sequence[Row], folder: Path | None = None) -> None:
    """Refuse an evaluation whose rewards or rows would fail.

    Args:
        config: The recipe; without an evaluation section there is nothing to check.
        held_out: Evaluation rows.
        folder: Where the policy is; the recipe's `model` decides unless given.

    Raises:
        RewardError: A reward cannot be called on the rows.
        DataError: The policy cannot read a row.
    """
    if config.evaluation is not None:
        check_reward_calls(config, [], held_out)
        _check_held_out(config, held_out, Reader.of_first(config, folder))


def _check_held_out(config: RunConfig, held_out: Sequence[Row], reader: Reader) -> None:
    if config.evaluation is not None:
        check_prompts(held_out, reader, config.evaluation.decode, source_name(config.evaluation.data))
