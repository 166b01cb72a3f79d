"""Save a learner's weights, moments and version, and continue from them: alone, or on all ranks together.

**Guarantees**
    * Every rank writes and reads its own part only. No process holds the whole state.
    * What was saved by any number of ranks is continued by any other, bit for bit.
    * A state is loaded whole or refused: on all ranks, with one error, and by the names of its keys if they differ.

**Assumes**
    * All ranks call with the same folder, which is on a file system that they share.
    * The experts of a layer can be shared equally by the ranks, which `RankLayout.check_experts` has tested.

**Rejected alternatives**
    * One file per rank, read by the same rank again: a run could continue on as many GPUs as it began on only.
"""

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from redraft.rl.learner.learner import Learner
from redraft.rl.models.adapter import adapters_of
from redraft.rl.parallel.lockstep import Lockstep
from redraft.rl.parallel.together import Together

_OTHER_VERSION = "it was written by another version of redraft: resume with that one, or start anew elsewhere"


def save_state(learner: Learner, folder: Path) -> None:
    """Write `state/` into a checkpoint folder.

    Raises:
        OSError: A file cannot be written, on this rank or on another.
    """
    group, alone = _ranks(learner.lockstep)
    try:
        with _single_process():
            save(learner_state(learner), checkpoint_id=folder / "state", process_group=group, no_dist=alone)
    except CheckpointException as error:
        raise OSError(_reasons(error)) from error


def load_state(learner: Learner, folder: Path) -> None:
    """Continue from `state/` of a checkpoint folder.

    Raises:
        ValueError: It is damaged, of another policy, or holds more or less than this learner has.
    """
    group, alone = _ranks(learner.lockstep)
    state, planner = learner_state(learner), _ExactPlanner()
    try:
        with _single_process():
            load(state, checkpoint_id=folder / "state", planner=planner, process_group=group, no_dist=alone)
    except CheckpointException as error:
        if planner.difference:
            raise ValueError(f"{folder}/state {planner.difference}; {_OTHER_VERSION}") from None
        raise ValueError(
            f"{folder}/state cannot be read ({_reasons(error)}); remove {folder} to resume from an earlier one"
        ) from error
    set_state_dict(
        learner.model,
        learner.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=_options(learner.model),
    )
    learner.policy_version = state["policy_version"]


def learner_state(learner: Learner) -> dict[str, Any]:
    """Collect what a learner continues from; the tensors are the learner's own.

    Of a policy with adapters these are the adapters and their moments: the run's first policy has the frozen weights.

    States of before experts were placed across groups hold the same tensors in another order. They lack the key that
    names the order, and so are refused.
    """
    model, optimizer = get_state_dict(learner.model, learner.optimizer, options=_options(learner.model))
    version = learner.policy_version
    return {"model": model, "optimizer": optimizer, "policy_version": version, "expert_order": "across groups"}


def _options(model: nn.Module) -> StateDictOptions:
    has_adapters = bool(adapters_of(model))
    return StateDictOptions(ignore_frozen_params=has_adapters, strict=not has_adapters)


def _ranks(lockstep: Lockstep) -> tuple[Any, bool]:
    """Return the process group, and whether there is none."""
    return (lockstep.group, False) if isinstance(lockstep, Together) else (None, True)


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
    return "; ".join(
        dict.fromkeys(getattr(root, "strerror", None) or f"{type(root).__name__}: {root}" for root in roots)
    )


def _root(error: BaseException) -> BaseException:
    return error if error.__context__ is None else _root(error.__context__)


@contextlib.contextmanager
def _single_process() -> Iterator[None]:
    """Silence DCP's warning that it runs in one process, which is intended here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
