"""What the decoder needs from a policy, and what every network offers: the two contracts of this project.

`DiffusionModel` and `RoutedModel` describe a network. The engine, the learner and vLLM read it through them and
through nothing else. `Engine` and `DecodeSession` describe forwards over blocks whose keys and values live in pages;
the decoder reads a policy through them.
"""

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Int16
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from redraft.rollout.engine.paged_cache import CacheShape, PagedCache
from redraft.rollout.engine.route_tape import Routes, RouteTape
from redraft.rollout.engine.scores import Scores

Result = TypeVar("Result")

AttentionMask = Bool[Tensor, "#b #q k"] | BlockMask
"""True where query q may attend to key k. One row may stand for all queries of an entry."""


class Geometry(NamedTuple):
    """How a network reads a canvas and where its predictions stand.

    Attributes:
        attention: "blocks": a position sees its own block and earlier ones, so the keys of final blocks stay valid.
            "full": every position sees every other one.
        shift: The hidden state of position i predicts the token of position i + shift: 0 is the same position, 1 is
            the next one, as in networks that were trained autoregressively.
    """

    attention: Literal["blocks", "full"]
    shift: Literal[0, 1]


BLOCK_CAUSAL: Final = Geometry(attention="blocks", shift=0)
"""Block-causal attention and predictions of the own position: LLaDA2. The engine and the likelihood support this."""


@runtime_checkable
class DiffusionModel(Protocol):
    """A network that fills masks: tokens to hidden states, and hidden states to logits.

    Every family of networks offers this. To add a family is to write a module with these members.
    """

    @property
    def vocab_size(self) -> int:
        """Number of token ids; the rows of the head."""
        ...

    @property
    def max_positions(self) -> int:
        """Positions that the network can address, in tokens."""
        ...

    @property
    def geometry(self) -> Geometry:
        """The mask that the network was trained under, and the position that a hidden state predicts."""
        ...

    @property
    def cache_shape(self) -> CacheShape:
        """Keys and values that a cache keeps of every token."""
        ...

    @property
    def head_weight(self) -> Float[Tensor, "vocab hidden"]:
        """Matrix of the language-model head, which has no bias."""
        ...

    def hidden_states(
        self,
        input_ids: Int[Tensor, "b q"],
        position_ids: Int[Tensor, "b q"],
        attention_mask: AttentionMask,
        cache: PagedCache | None = None,
    ) -> Float[Tensor, "b q hidden"]:
        """Compute hidden states after the final norm; with a cache, call `cache.update` once per layer.

        Args:
            input_ids: Token ids.
            position_ids: Absolute positions.
            attention_mask: Keys are what the cache returns, or the queries themselves without a cache.
            cache: Keys and values of earlier positions.
        """
        ...

    def through_head(self, hidden: Float[Tensor, "*n hidden"], use: Callable[[Tensor, Tensor], Result]) -> Result:
        """Call `use(hidden, weight)` with the head's matrix, which may be sharded outside of this call."""
        ...

    def logits(self, hidden: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n vocab"]:
        """Compute `hidden head_weight^T`, in fp32 at least."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters, as `nn.Module` does."""
        ...


@runtime_checkable
class RoutedModel(Protocol):
    """What a mixture of experts offers besides `DiffusionModel`: routes that can be recorded and replayed."""

    def route_tape(self, given: Routes | None = None, replay: bool = True) -> RouteTape:
        """Return a tape for one forward, see `RouteTape`."""
        ...

    def hidden_states(
        self,
        input_ids: Int[Tensor, "b q"],
        position_ids: Int[Tensor, "b q"],
        attention_mask: AttentionMask,
        cache: PagedCache | None = None,
        tape: RouteTape | None = None,
    ) -> Float[Tensor, "b q hidden"]:
        """As `DiffusionModel.hidden_states`; the tokens of the tape are the positions, entry by entry."""
        ...


def as_diffusion_model(model: object, use: str) -> DiffusionModel:
    """Return `model` as a network with block-causal attention and without a shift.

    The engine and the likelihood support this one geometry so far, and both ask here.

    Args:
        model: Any module.
        use: What it is for, a participle: "decoded", "scored".

    Raises:
        TypeError: The module lacks a part of `DiffusionModel`.
        ValueError: It declares another geometry than `BLOCK_CAUSAL`.
    """
    name = type(model).__name__
    if not isinstance(model, DiffusionModel):
        parts = "hidden_states, logits, head_weight, through_head, cache_shape, geometry, vocab_size and max_positions"
        raise TypeError(f"{name} must have {parts} to be {use}")
    attention, shift = model.geometry
    if attention != BLOCK_CAUSAL.attention:
        raise ValueError(
            f"{name} has attention {attention!r} and cannot be {use} yet; use a network with 'blocks', block-causal"
            " attention"
        )
    if shift != BLOCK_CAUSAL.shift:
        raise ValueError(
            f"{name} has shift {shift}, its hidden states predict the next position, and cannot be {use} yet; use a"
            " network with shift 0"
        )
    return model


def as_routed_model(model: object) -> RoutedModel:
    """Return `model` as a `RoutedModel`.

    Raises:
        TypeError: The network cannot record routes.
    """
    if not isinstance(model, RoutedModel):
        raise TypeError(f"{type(model).__name__} can neither record nor replay routes: it has no route_tape")
    return model


class Pass(NamedTuple):
    """One forward: entries of whole blocks, each with the same number of tokens.

    Attributes:
        tokens: Token ids.
        positions: Absolute positions.
        write: Page that takes the keys and values of each block of the entry.
        table: Pages of the entry's sequence in the order of positions, from position 0 on; behind its reach any page.
        reach: Tokens at the beginning of the table that a query may attend to; one number per query, or one for all.
    """

    tokens: Int[Tensor, "entries queries"]
    positions: Int[Tensor, "entries queries"]
    write: Int[Tensor, "entries blocks"]
    table: Int[Tensor, "entries pages"]
    reach: Int[Tensor, "entries #queries"]


class Outcome(NamedTuple):
    """What a forward returns for its active blocks.

    Attributes:
        scores: Logits of every position, for the token at that position.
        routes: Experts that the tokens visited; None if they were not asked for.
    """

    scores: Scores
    routes: Int16[Tensor, "active layers block k"] | None


@runtime_checkable
class DecodeSession(Protocol):
    """Pages of keys and values, filled by one version of the weights.

    In a pass every entry writes its pages before any entry reads, layer by layer: entries of one pass see each
    other's blocks.
    """

    def forward(self, batch: Pass, num_active: int, record: bool) -> Outcome:
        """Run a pass whose first `num_active` entries are active blocks, one block each.

        Args:
            batch: The pass.
            num_active: Number of those entries; the others are run for their keys and values alone.
            record: Return the routes too.

        Raises:
            TypeError: Routes are asked of a policy that has none.
        """
        ...

    def prefill(self, batch: Pass) -> None:
        """Run a pass for its keys and values alone."""
        ...


@runtime_checkable
class Engine(Protocol):
    """A policy that decodes blocks."""

    @property
    def device(self) -> torch.device:
        """Device of the tensors of a pass."""
        ...

    @property
    def max_length(self) -> int:
        """Positions that the policy can address, in tokens."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    def max_pages(self, block_length: int) -> int | None:
        """Number of pages that fit into memory; None if there is no limit."""
        ...

    def open(self, num_pages: int, block_length: int, mask: int) -> DecodeSession:
        """Open a session with empty pages.

        Args:
            num_pages: Pages that can be handed out; one more, page 0, takes what is never read.
            block_length: Tokens per page.
            mask: The mask token, which is never written.
        """
        ...
