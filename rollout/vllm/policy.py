"""The policy inside our vLLM worker: loaded by name, put to sleep and woken, given new weights. Imports no vLLM."""

import gc
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any, NoReturn

import torch

from redraft.rollout.engine.paged_cache import CacheShape
from redraft.rollout.engine.protocol import DecodeSession, DiffusionModel, Outcome, Pass, as_diffusion_model
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.precision import set_precision
from redraft.rollout.vllm.options import WorkerOptions
from redraft.rollout.weights import PendingWeights
from redraft.rollout.worker import RolloutPolicy, load_rollout_policy


def free_host_bytes() -> int:
    """Read how much memory programs can still take."""
    with open("/proc/meminfo") as lines:
        sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024


class Asleep:
    """A session whose pages were given back: every call fails."""

    def forward(self, batch: Pass, num_active: int, record: bool) -> Outcome:
        """Fail: the engine is asleep."""
        self.prefill(batch)

    def prefill(self, batch: Pass) -> NoReturn:
        """Fail: the engine is asleep."""
        raise RuntimeError("the engine is asleep; wake_up first")


class ResidentPolicy:
    """A policy whose weights can leave the device or be dropped, and come back.

    Attributes:
        options: How the policy is loaded.
        policy: The policy; None while its weights are dropped.
    """

    def __init__(self, options: WorkerOptions) -> None:
        """Load the policy."""
        set_precision()
        self.options = options
        self.policy: RolloutPolicy | None = None
        self._engine: TorchEngine | None = None
        self._incoming: PendingWeights | None = None
        self.wake_weights()
        self.device = self._awake_engine().device

    @property
    def version(self) -> int:
        """Of the weights in place."""
        return self._present().version

    @property
    def cache_shape(self) -> CacheShape:
        """Keys and values of a token."""
        return self._model().cache_shape

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, keys and values."""
        return next(self._model().parameters()).dtype

    @property
    def page_bytes(self) -> int:
        """Keys and values of a block."""
        return self.cache_shape.bytes_per_token(self.dtype) * self.options.decode.block_length

    def memory_for(self, num_pages: int) -> int:
        """Count bytes for pages, page 0 included: as many pages as are wanted and the device can hold."""
        most = self._awake_engine().max_pages(self.options.decode.block_length)
        # On a CPU there is no limit, but the host's memory has other uses too.
        if most is None:
            return min(num_pages * self.page_bytes, free_host_bytes() // 2)
        return min(num_pages, most + 1) * self.page_bytes

    def open(self, num_pages: int) -> DecodeSession:
        """Open a session with that many pages besides page 0.

        Raises:
            RuntimeError: The weights are asleep.
        """
        return self._awake_engine().open(num_pages, self.options.decode.block_length, self.options.tokens.mask)

    def sleep(self, level: int) -> None:
        """Give memory back: at level 1 the weights move to the CPU, from level 2 on they are dropped."""
        self._engine = None
        if level >= 2 and self.options.weights_by_sync:
            self._present().drop()
        elif level >= 2:
            self.policy = None
        else:
            self._present().model.to("cpu")
        # vLLM exempts everything that exists after its start from garbage collection, pages and weights included.
        gc.unfreeze()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wake_weights(self) -> None:
        """Bring the weights back; where they were dropped, memory for the next update, or those of the folder."""
        options = self.options
        if self.policy is None:
            load_model = resolve_name(options.load_model)
            self.policy = load_rollout_policy(load_model, options.path, options.dtype, options.device)
        elif next(self.policy.model.parameters()).is_meta:
            self.policy.take(self.device)
        else:
            self.policy.model.to(self.device)
        self._engine = TorchEngine(self._present().model, logits_bytes=options.logits_bytes)

    def start_update(self) -> None:
        """Begin an update.

        Raises:
            RuntimeError: The weights are asleep, or an update has begun.
        """
        self._awake_engine()
        if self._incoming is not None:
            raise RuntimeError("start_weight_update: an update has begun already; call finish_weight_update first")
        self._incoming = PendingWeights()

    def add_weights(self, info: Mapping[str, Any]) -> None:
        """Take weights, all or a part, see `PendingWeights.add`; a part that cannot be read ends the update.

        Raises:
            RuntimeError: No update has begun.
        """
        incoming = self._taken("update_weights")
        incoming.add(info)
        self._incoming = incoming

    def finish_update(self) -> None:
        """Install the weights that came.

        Raises:
            RuntimeError: No update has begun, or no weights came.
            Exception: What `RolloutPolicy.install` raises if these are not the weights that were sent.
        """
        self._present().install(self._taken("finish_weight_update").update())

    def _taken(self, verb: str) -> PendingWeights:
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            raise RuntimeError(f"{verb}: call start_weight_update first")
        return incoming

    def _present(self) -> RolloutPolicy:
        if self.policy is None:
            raise RuntimeError("the weights were dropped (sleep level 2); wake_up(tags=['weights']) first")
        return self.policy

    def _model(self) -> DiffusionModel:
        return as_diffusion_model(self._present().model, "decoded")

    def _awake_engine(self) -> TorchEngine:
        if self._engine is None:
            raise RuntimeError("the weights are asleep; wake_up(tags=['weights']) first")
        return self._engine
