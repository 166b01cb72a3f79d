"""The policy inside our vLLM worker: loaded by name, put to sleep and woken, given new weights. Imports no vLLM."""

import gc
import pickle
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any, NoReturn

import torch

from redraft.rollout.engine.paged_cache import CacheShape
from redraft.rollout.engine.protocol import DecodeSession, DiffusionModel, Outcome, Pass, as_diffusion_model
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.precision import set_precision
from redraft.rollout.vllm.options import WorkerOptions
from redraft.rollout.weights.manifest import Wanted
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
        self._begun = False
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
            self.policy.refill(self.device)
        else:
            self.policy.model.to(self.device)
        self._engine = TorchEngine(self._present().model, logits_bytes=options.logits_bytes)

    def wanted(self) -> list[Wanted]:
        """List the policy's tensors; see `Receiver.wanted`."""
        return self._present().wanted()

    def join(self, info: Mapping[str, Any]) -> None:
        """Prepare for buckets that are broadcast.

        Args:
            info: Empty for buckets that come as objects or files; else `{"meeting": Meeting, "place": number}`.

        Raises:
            ValueError: It is neither.
        """
        if info and info.keys() != {"meeting", "place"}:
            raise ValueError(
                f"init_info must be empty or {{'meeting': Meeting, 'place': number}}; got the keys {sorted(info)}"
            )
        self._present().join(info.get("meeting"), info.get("place", 0))

    def start_update(self) -> None:
        """Begin an update.

        Raises:
            RuntimeError: The weights are asleep, or an update has begun.
        """
        self._awake_engine()
        if self._begun:
            raise RuntimeError("start_weight_update: an update has begun already; call finish_weight_update first")
        self._begun = True

    def add_weights(self, info: Mapping[str, Any]) -> None:
        """Take a part of the update that has begun; one that is not what was sent ends it.

        Args:
            info: First `{"header": Header}`, then for each bucket `{"number": number, "bucket": what brings it}`.
                Header and bucket may be pickled, for a worker in another process.

        Raises:
            RuntimeError: No update has begun.
            ValueError: `info` is neither.
            WeightSyncError: These are not the weights that were sent; the weights in place are then of no version.
        """
        if not self._begun:
            raise RuntimeError("update_weights: call start_weight_update first")
        self._begun = False
        if info.keys() == {"header"}:
            header = info["header"]
            self._present().start_update(pickle.loads(header) if isinstance(header, bytes) else header)
        elif info.keys() == {"number", "bucket"}:
            bucket = info["bucket"]
            self._present().take(info["number"], pickle.loads(bucket) if isinstance(bucket, bytes) else bucket)
        else:
            raise ValueError(
                "update_info must be {'header': ...} and then {'number': ..., 'bucket': ...} for each bucket; got the"
                f" keys {sorted(info)}"
            )
        self._begun = True

    def finish_update(self) -> None:
        """End the update.

        Raises:
            RuntimeError: No update has begun, or no header came.
            WeightSyncError: A bucket never came.
        """
        if not self._begun:
            raise RuntimeError("finish_weight_update: call start_weight_update first")
        self._begun = False
        self._present().finish_update()

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
