"""The weights of one rank of the learner, cut into buckets and packed one at a time.

**Guarantees**
    * No rank ever holds more of another rank's weights than a bucket, and none waits for another inside a send but
      where its carrier broadcasts.
    * What is sent is the weights rounded to the types that the receivers asked for.
    * A perturbed tensor is restored bit for bit.

**Assumes**
    * All ranks are called in the same order: `open`, the buckets by number, `close`; and no update runs meanwhile.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from redraft.rl.parallel.pieces import Rows, own_rows
from redraft.rl.protocols import Canary
from redraft.rl.weight_sync.senders import Way, make_way
from redraft.rollout.weights.bucket import flat_bytes, pack, some_rows
from redraft.rollout.weights.carry import BroadcastGroup, Carrier, Meeting
from redraft.rollout.weights.manifest import Header, Manifest, Part, Wanted, WeightSyncError, make_manifest

STAGE = 1 << 40
"""Added to the policy version at each stage of a canary, so that no key that a stage wrote is read in another one."""

_STAGES: dict[Canary, tuple[int, int, int]] = {"perturbed": (0, 1, 1), "restored": (1, 2, 1), "checked": (2, 0, 0)}
"""Stage before, stage after, and number of buckets that change."""


@runtime_checkable
class Merging(Protocol):
    """A network whose rollout weights are made of several tensors, such as frozen weights and an adapter."""

    def merger(self) -> "Callable[[str, int, Tensor], Tensor] | None":
        """Return a function of (name, first row, rows) that makes the rows to send; None sends them as they are."""
        ...


class Outbox:
    """One rank's end of a weight sync; alone it is the `Sender` of a learner in one process.

    Args:
        model: The policy, whole or sharded.
        bucket_bytes: Most bytes of a bucket.
    """

    def __init__(self, model: nn.Module, bucket_bytes: int) -> None:
        self._model, self._bucket_bytes = model, bucket_bytes
        self._rank, self._world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._cut: tuple[Sequence[Wanted], Manifest] | None = None
        self._version, self._complete = 0, True
        self._canary: Canary | None = None
        self._rows: dict[str, Rows] = {}
        self._merge: Callable[[str, int, Tensor], Tensor] | None = None
        self._before: Tensor | None = None
        self._way: Way | None = None
        self._group: BroadcastGroup | None = None
        self._store: Any = None

    def of_version(self, version: int, canary: Canary | None = None, complete: bool = False) -> "Outbox":
        """Make the next `open` send these weights.

        Args:
            version: Of the policy as it is.
            canary: Perturb one tensor, or restore it, and send its bucket alone; or send none and end the check.
            complete: Send all buckets even so, for receivers that have no weights.
        """
        self._version, self._canary, self._complete = version, canary, complete or canary is None
        return self

    def meet(self, host: str, timeout_s: float) -> tuple[str, int]:
        """Open a place where a broadcast group finds itself; on rank 0. Returns its host and port."""
        timeout = datetime.timedelta(seconds=timeout_s)
        self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        return host, self._store.port

    def join(self, meeting: Meeting) -> None:
        """Join a group that broadcasts buckets, and leave the one before."""
        store = self._store if self._rank == 0 else None
        self._group = BroadcastGroup(meeting, self._rank, self._device, store)

    def open(self, wanted: Sequence[Wanted], carrier: Carrier) -> Header:
        """Agree with the receivers on what is sent; the same header on every rank.

        Raises:
            WeightSyncError: The receivers' policy is another one.
        """
        # FSDP gives the sharded weights here, even where a forward left them gathered.
        names = [one.name for one in wanted]
        merging = self._model.merger() if isinstance(self._model, Merging) else None
        found: Mapping[str, Tensor] = self._model.state_dict()
        _check_shapes(found, wanted)
        self._rows = {name: own_rows(found[name].detach()) for name in (names if merging else found) if name in found}
        self._merge = merging
        manifest = self._manifest(wanted)
        self._way = make_way(carrier, self._device, self._group)
        everything = tuple(range(len(manifest.buckets)))
        self._header = Header(self._version, manifest, everything)
        if self._canary is not None:
            number, part = self._canary_part(manifest)
            self._perturb(manifest.tensors[part.tensor].name, part, manifest.buckets[number].owner)
            base, after, changed = _STAGES[self._canary]
            self._header = Header(
                self._version + after * STAGE,
                manifest,
                everything if self._complete else (number,) * changed,
                None if self._complete else self._version + base * STAGE,
            )
        return self._header

    def send(self, number: int) -> Any:
        """Send a bucket of the header, or take part in it; see `Way.send`."""
        assert self._way is not None, "open comes first"
        bucket = self._header.manifest.buckets[number]

        def write(flat: Tensor) -> None:
            with torch.no_grad():
                pack(flat, self._header, number, self._read)

        return self._way.send(flat_bytes(bucket), bucket.owner, write if bucket.owner == self._rank else None)

    def close(self) -> None:
        """Give the memory of the last buckets back."""
        if self._way is not None:
            self._way.close()
        self._way, self._rows, self._merge = None, {}, None

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _manifest(self, wanted: Sequence[Wanted]) -> Manifest:
        """Cut the weights; once, because neither the receivers' tensors nor the ranks' shares change."""
        if self._cut is None or self._cut[0] != wanted:
            mine = {name: (first, len(rows) if rows.dim() else 1) for name, (first, rows) in self._rows.items()}
            held: list[dict[str, tuple[int, int]]] = [mine]
            if self._world > 1:
                held = [{} for _ in range(self._world)]
                dist.all_gather_object(held, mine)
            self._cut = wanted, make_manifest(wanted, held, self._bucket_bytes)
        return self._cut[1]

    def _read(self, name: str, first: int, rows: int) -> Tensor:
        own = self._rows[name]
        part = some_rows(own.tensor, first - own.first, rows)
        return part if self._merge is None else self._merge(name, first, part)

    def _canary_part(self, manifest: Manifest) -> tuple[int, Part]:
        """Choose the rows that are perturbed: of the largest vector, which in a network scales what all layers see."""
        weights = {name for name, _ in self._model.named_parameters()}

        def rank(place: tuple[int, Part]) -> tuple[bool, int, str]:
            wanted, rows = manifest.tensors[place[1].tensor], place[1].rows
            is_vector = len(wanted.shape) == 1
            return is_vector, rows if is_vector else -rows * wanted.row_bytes, wanted.name

        parts = [(number, part) for number, bucket in enumerate(manifest.buckets) for part in bucket.parts]
        return max((place for place in parts if manifest.tensors[place[1].tensor].name in weights), key=rank)

    def _perturb(self, name: str, part: Part, owner: int) -> None:
        if owner != self._rank:
            return
        own = self._rows[name]
        rows = some_rows(own.tensor, part.first - own.first, part.rows)
        with torch.no_grad():
            if self._canary == "perturbed" and self._before is None:  # a sync that is repeated finds it perturbed
                self._before = rows.clone()
                rows.mul_(-0.5)  # larger values could leave the logits of a confident policy where they are
            elif self._canary == "restored" and self._before is not None:
                rows.copy_(self._before)
                self._before = None


def _check_shapes(found: Mapping[str, Tensor], wanted: Sequence[Wanted]) -> None:
    for name, shape, _ in wanted:
        if name in found and tuple(found[name].shape) != shape:
            raise WeightSyncError(
                f"weights do not fit the rollout engine's policy: {name} is {tuple(found[name].shape)} in the learner"
                f" and {shape} in the engine"
            )
