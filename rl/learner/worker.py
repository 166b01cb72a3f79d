"""The learner worker: the `Learner` and its saved state.

It is a plain class that runs in process; `rl.cluster.ray_parts` makes a Ray actor of it.
"""

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from redraft.rl.config.by_device import is_colocated
from redraft.rl.config.schema import RunConfig
from redraft.rl.learner.learner import Learner
from redraft.rl.models.registry import load_policy, resolve_device, resolve_dtype, resolve_rollout_dtype, save_policy
from redraft.rl.protocols import Experience
from redraft.rollout.trajectory import SpecialTokens
from redraft.rollout.weights import WeightUpdate, snapshot

_OTHER_VERSION = "it was written by another version of redraft: resume with that one, or start anew elsewhere"


class LearnerWorker:
    """A learner that hands out its weights, saves its state and continues from it."""

    def __init__(self, path: str, config: RunConfig, tokens: SpecialTokens, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        on_gpu = resolve_device(config.model.device).type == "cuda"
        self.takes_turns = on_gpu and is_colocated(config, on_gpu)
        # The reference policy of the KL term is the policy in `path`, even if a checkpoint is loaded afterwards.
        self.learner = Learner(load_policy(path, config.model.dtype, config.model.device), config, tokens)

    def update(self, rows: Sequence[Experience]) -> dict[str, float]:
        """Learn from one batch and return metrics; see `Learner.update`."""
        metrics = self.learner.update(rows)
        if self.takes_turns:
            torch.cuda.empty_cache()  # what torch keeps for later, an engine on the same GPU could not use
        return metrics

    def weights(self) -> WeightUpdate:
        """Copy the current weights in the engine's type, with their version and fingerprint."""
        dtype = resolve_dtype(resolve_rollout_dtype(self.learner.config))
        return snapshot(self.learner.model, self.learner.policy_version, dtype)

    def save(self, folder: str) -> None:
        """Write `hf/` (published layout) and `state/` (optimizer, version) into a checkpoint folder.

        Raises:
            OSError: A file cannot be written.
        """
        save_policy(self.learner.model, Path(folder) / "hf", None)
        try:
            with _single_process():
                save(self._state(), checkpoint_id=Path(folder) / "state", no_dist=True)
        except CheckpointException as error:
            raise OSError(_reasons(error)) from error

    def load(self, folder: str) -> None:
        """Continue from a checkpoint folder, bit for bit.

        Raises:
            ValueError: `state/` is damaged, of another policy, or holds more or less than this learner has.
        """
        state, planner = self._state(), _ExactPlanner()
        try:
            with _single_process():
                load(state, checkpoint_id=Path(folder) / "state", planner=planner, no_dist=True)
        except CheckpointException as error:
            if planner.difference:
                raise ValueError(f"{folder}/state {planner.difference}; {_OTHER_VERSION}") from None
            raise ValueError(
                f"{folder}/state cannot be read ({_reasons(error)}); remove {folder} to resume from an earlier one"
            ) from error
        model, optimizer = self.learner.model, self.learner.optimizer
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.learner.policy_version = state["policy_version"]

    def _state(self) -> dict:
        model, optimizer = get_state_dict(self.learner.model, self.learner.optimizer)
        return {"model": model, "optimizer": optimizer, "policy_version": self.learner.policy_version}


class _ExactPlanner(DefaultLoadPlanner):
    """A plan that loads a state only if it has exactly the learner's keys.

    DCP itself fills the keys that it is given, and drops all else that was saved without a warning.

    Attributes:
        difference: The keys that are too many or missing, in words; empty if there are none.
    """

    difference = ""

    def set_up_planner(self, state_dict: Any, metadata: Any = None, is_coordinator: bool = False) -> None:
        """Compare the keys before anything is read."""
        super().set_up_planner(state_dict, metadata, is_coordinator)
        saved, own = metadata.state_dict_metadata.keys(), self.state_dict.keys()
        parts: list[str] = []
        if saved - own:
            parts.append(f"holds what the learner does not take: {_listed(saved - own)}")
        if own - saved:
            parts.append(f"lacks {_listed(own - saved)}")
        self.difference = " and ".join(parts)
        if self.difference:
            raise ValueError(self.difference)


def _listed(keys: Iterable[str], shown: int = 5) -> str:
    """Name some keys; keys that differ only in a number appear once, with * for the number."""
    kinds = sorted({re.sub(r"\.\d+\.", ".*.", key) for key in keys})
    rest = f" and {len(kinds) - shown} more" if len(kinds) > shown else ""
    return ", ".join(kinds[:shown]) + rest


def _reasons(error: CheckpointException) -> str:
    """Say what went wrong first on every rank; DCP's own text is a traceback per rank, of what went wrong last."""
    roots = [_root(failure) for failure, _ in error.failures.values()]
    return "; ".join(getattr(root, "strerror", None) or f"{type(root).__name__}: {root}" for root in roots)


def _root(error: BaseException) -> BaseException:
    return error if error.__context__ is None else _root(error.__context__)


@contextlib.contextmanager
def _single_process() -> Iterator[None]:
    """Silence DCP's warning that it runs in one process, which is intended here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
