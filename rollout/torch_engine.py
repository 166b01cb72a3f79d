"""The engine that runs a torch model, with an exact block cache of keys and values.

A pass is a batch of blocks, one block per batch entry: the active block of each row, and every uncommitted block
before it (the prompt in a row's first pass, a block that ended by budget later). All of them write their keys and
values before any of them reads, layer by layer, so a row's blocks see each other inside one pass; rows need not be
of one length, and no slot is computed for padding.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Int16
from torch import Tensor, nn

from rollout.blocks import block_causal_mask


@runtime_checkable
class ModelConfig(Protocol):
    """What the engine reads from a model's config."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def max_position_embeddings(self) -> int:
        """Positions, in tokens."""
        ...


@runtime_checkable
class BlockModel(Protocol):
    """A module that maps tokens to hidden states through a cache, and hidden states to logits."""

    @property
    def config(self) -> ModelConfig:
        """Sizes."""
        ...

    def hidden_states(
        self,
        input_ids: Int[Tensor, "batch query"],
        position_ids: Int[Tensor, "batch query"],
        attention_mask: Bool[Tensor, "batch query key"],
        cache: "BlockCache",
    ) -> Float[Tensor, "batch query hidden"]:
        """Hidden states after the final norm; calls ``cache.update`` once per layer."""
        ...

    def logits(self, hidden: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n vocab"]:
        """The head."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of ``nn.Module``."""
        ...


@runtime_checkable
class Tape(Protocol):
    """The routes of one forward."""

    @property
    def routes(self) -> Int16[Tensor, "layers tokens k"]:
        """Experts that every token visited in every routed layer."""
        ...


@runtime_checkable
class RoutedModel(Protocol):
    """What a block model with a mixture of experts can do besides."""

    def route_tape(self) -> Tape:
        """A fresh tape for one forward."""
        ...

    def hidden_states(
        self,
        input_ids: Int[Tensor, "batch query"],
        position_ids: Int[Tensor, "batch query"],
        attention_mask: Bool[Tensor, "batch query key"],
        cache: "BlockCache",
        tape: Tape,
    ) -> Float[Tensor, "batch query hidden"]:
        """As `BlockModel.hidden_states`; writes the routes of all positions, row by row, to the tape."""
        ...


class BlockCache:
    """Keys and values of every canvas position, per layer, written and read for a batch of blocks at once."""

    def __init__(self, num_rows: int, length: int) -> None:
        """Makes room for ``num_rows`` canvases of ``length`` tokens; memory is taken layer by layer on first use."""
        self._num_rows = num_rows
        self._length = length
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows = self._positions = torch.empty(0, dtype=torch.int64)
        self._reach = 0

    def aim(self, rows: Int[Tensor, " batch"], positions: Int[Tensor, "batch query"], reach: int) -> None:
        """Says which canvas row and positions each batch entry holds, and how many tokens the pass reads back."""
        self._rows, self._positions, self._reach = rows, positions, reach

    def update(
        self, layer: int, key: Float[Tensor, "batch heads query dim"], value: Float[Tensor, "batch heads query dim"]
    ) -> tuple[Float[Tensor, "batch heads key dim"], Float[Tensor, "batch heads key dim"]]:
        """Writes the pass's keys and values to their positions and returns those of positions 0 to the reach."""
        if layer not in self._layers:
            shape = (self._num_rows, key.shape[1], self._length, key.shape[3])
            # Zeros, not empty: masked positions still enter the attention product, and 0 * nan is nan.
            self._layers[layer] = (key.new_zeros(shape), value.new_zeros(shape))
        keys, values = self._layers[layer]
        return self._exchange(keys, key), self._exchange(values, value)

    def _exchange(self, stored: Tensor, fresh: Tensor) -> Tensor:
        stored[self._rows[:, None], :, self._positions] = fresh.transpose(1, 2)
        return stored[:, :, : self._reach].index_select(0, self._rows)


class TorchSession:
    """One decode call on a torch model."""

    def __init__(self, model: BlockModel, num_rows: int, length: int, block_length: int) -> None:
        """Opens an empty cache."""
        self._model = model
        self._block_length = block_length
        self._cache = BlockCache(num_rows, length)

    def forward(
        self,
        canvas: Int[Tensor, "rows length"],
        rows: Int[Tensor, " live"],
        committed: Int[Tensor, " live"],
        active: Int[Tensor, " live"],
    ) -> Float[Tensor, "live block vocab"]:
        """See `DecodeSession.forward`."""
        batch_rows, starts = lay_out(rows, committed, active, self._block_length)
        positions = starts[:, None] + torch.arange(self._block_length, device=canvas.device)
        reach = int(active.max()) + self._block_length
        keys = torch.arange(reach, device=canvas.device).expand(len(starts), -1)
        # The slots of a block see the same keys, so one row of the mask serves them all.
        mask = block_causal_mask(starts[:, None], keys, self._block_length).expand(-1, self._block_length, -1)
        self._cache.aim(batch_rows, positions, reach)
        hidden = self._hidden_states(canvas[batch_rows[:, None], positions], positions, mask)
        return self._model.logits(hidden[: len(rows)])

    def _hidden_states(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        return self._model.hidden_states(tokens, positions, mask, self._cache)


class RecordingTorchSession(TorchSession):
    """One decode call on a torch model with a mixture of experts, whose routes are kept until the next forward."""

    def __init__(self, model: BlockModel, num_rows: int, length: int, block_length: int) -> None:
        """Opens an empty cache.

        Raises:
            TypeError: If the model cannot record routes.
        """
        super().__init__(model, num_rows, length, block_length)
        if not isinstance(model, RoutedModel):
            raise TypeError(f"{type(model).__name__} has no route_tape: its routes cannot be recorded")
        self._routed: RoutedModel = model
        self._live, self._tape = 0, model.route_tape()

    def forward(
        self,
        canvas: Int[Tensor, "rows length"],
        rows: Int[Tensor, " live"],
        committed: Int[Tensor, " live"],
        active: Int[Tensor, " live"],
    ) -> Float[Tensor, "live block vocab"]:
        """See `DecodeSession.forward`."""
        self._live = len(rows)
        return super().forward(canvas, rows, committed, active)

    def routes(self) -> Int16[Tensor, "live layers block k"]:
        """See `RecordingSession.routes`: the first blocks of a pass are the active ones."""
        active = self._tape.routes[:, : self._live * self._block_length]
        return active.unflatten(1, (self._live, self._block_length)).transpose(0, 1)

    def _hidden_states(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        self._tape = self._routed.route_tape()
        return self._routed.hidden_states(tokens, positions, mask, self._cache, self._tape)


class TorchEngine:
    """Decodes with any module that has ``hidden_states``, ``logits`` and ``config``, in its dtype, on its device.

    Every decode opens a session with a cache of its own, so weights may change between decodes.
    """

    def __init__(self, model: nn.Module) -> None:
        """Wraps ``model``; its train or eval mode is left as it is.

        Raises:
            TypeError: If the module lacks a part of `BlockModel`.
        """
        if not isinstance(model, BlockModel):
            raise TypeError(f"{type(model).__name__} must have hidden_states, logits and config to be decoded with")
        self._model = model

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return next(self._model.parameters()).device

    @property
    def max_length(self) -> int:
        """Positions that the model can address, in tokens."""
        return self._model.config.max_position_embeddings

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._model.config.vocab_size

    def open(self, num_rows: int, length: int, block_length: int) -> TorchSession:
        """Starts a decode of ``num_rows`` rows on canvases of ``length`` tokens."""
        return TorchSession(self._model, num_rows, length, block_length)

    def open_recording(self, num_rows: int, length: int, block_length: int) -> RecordingTorchSession:
        """Starts the same with routes; raises TypeError if the model cannot record them."""
        return RecordingTorchSession(self._model, num_rows, length, block_length)


def lay_out(
    rows: Int[Tensor, " live"], committed: Int[Tensor, " live"], active: Int[Tensor, " live"], block_length: int
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """The blocks of a pass: first the active block of each row, then the uncommitted blocks before them.

    Returns:
        The canvas row and the first position of each block.
    """
    pending = (active - committed) // block_length
    owner = torch.repeat_interleave(pending)
    index = torch.arange(len(owner), device=rows.device) - (pending.cumsum(0) - pending)[owner]
    starts = committed[owner] + index * block_length
    return torch.cat([rows, rows[owner]]), torch.cat([active, starts])
