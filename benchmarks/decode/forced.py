"""Decodes whose tokens per forward are given, and what memory they touch.

The confidences of random weights mean nothing, so a wrapper of the scores decides how many slots pass. All the rest is
the decoder's and the policy's own work: the tokens, the logits that edits are looked for in, the cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from redraft.rollout.engine.protocol import DecodeSession, Outcome, Pass
from redraft.rollout.engine.scores import Piece, Reading, Scores


def forced_slots(
    tokens: Int[Tensor, "rows block"], positions: Int[Tensor, "rows block"], mask: int, rate: float
) -> Bool[Tensor, "rows block"]:
    """The leftmost masked slots that this forward fills, so that a completion gets `rate` tokens per forward.

    Block b has floor(B (b + 1) / rate) - floor(B b / rate) forwards. The last of them finds nothing to do, which ends
    the block; the n others fill its B slots evenly: after the j-th, ceil(B j / n) are filled.

    Args:
        tokens: The active blocks.
        positions: Of their slots.
        mask: Id of an empty slot.
        rate: Tokens per forward, at most a third of a block: two forwards to fill it and one to end it, or more.
    """
    size = tokens.shape[1]
    block = (positions[:, :1] // size).double()
    forwards = (size * (block + 1) / rate).floor() - (size * block / rate).floor()
    fills = forwards.long() - 1
    masked = tokens == mask
    filled = size - masked.sum(dim=-1, keepdim=True)
    after = filled * fills // size + 1
    wanted = -(-size * after // fills) - filled
    return masked & (masked.cumsum(dim=-1) <= wanted)


class ForcedSession:
    """A session whose scores let exactly the `forced_slots` pass, and no edit."""

    def __init__(self, session: DecodeSession, mask: int, rate: float) -> None:
        self._session, self._mask, self._rate = session, mask, rate

    def forward(self, batch: Pass, num_active: int, record: bool) -> Outcome:
        """See `DecodeSession`."""
        outcome = self._session.forward(batch, num_active, record)
        active = batch.tokens[:num_active], batch.positions[:num_active]
        return outcome._replace(scores=_ForcedScores(outcome.scores, forced_slots(*active, self._mask, self._rate)))

    def prefill(self, batch: Pass) -> None:
        """See `DecodeSession`."""
        self._session.prefill(batch)


class _ForcedScores:
    def __init__(self, scores: Scores, passing: Bool[Tensor, "rows slots"]) -> None:
        self._scores, self._passing = scores, passing

    def read(self, where: Bool[Tensor, "rows slots"]) -> Reading:
        """The tokens that were read, certain or hopeless."""
        reading = self._scores.read(where)
        certain = self._passing.to(reading.top_prob.dtype)
        return reading._replace(top_prob=certain, top_log_prob=torch.zeros_like(certain))

    def pieces(self, where: Bool[Tensor, "rows slots"]) -> Iterator[Piece]:
        """As they are."""
        return self._scores.pieces(where)


@dataclass
class Traffic:
    """What the passes of a decode had to read and write.

    Attributes:
        experts: Different experts that active blocks visited, summed over layers; of the passes that were asked.
        tokens: Token positions, by pass.
        kv_tokens: Positions whose keys and values were read or written, by pass.
        prefills: (tokens, positions read or written) of passes without active blocks.
    """

    experts: list[Tensor] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    kv_tokens: list[int] = field(default_factory=list)
    prefills: list[tuple[int, int]] = field(default_factory=list)

    @property
    def visits(self) -> float:
        """Different experts per pass, summed over layers."""
        return float(sum(self.experts)) / len(self.experts)


class TrafficSession:
    """A session that notes its traffic.

    With `num_experts` it counts visited experts too, for which it records routes whether or not they were asked for:
    such a pass runs outside CUDA graphs and is no measure of time.
    """

    def __init__(self, session: DecodeSession, traffic: Traffic, num_experts: int | None = None) -> None:
        self._session, self._num_experts, self._traffic = session, num_experts, traffic

    def forward(self, batch: Pass, num_active: int, record: bool) -> Outcome:
        """See `DecodeSession`."""
        outcome = self._session.forward(batch, num_active, record or self._num_experts is not None)
        self._traffic.tokens.append(batch.tokens.numel())
        self._traffic.kv_tokens.append(_kv_tokens(batch))
        if self._num_experts is not None:
            self._count(outcome, self._num_experts)
        return outcome if record else outcome._replace(routes=None)

    def prefill(self, batch: Pass) -> None:
        """See `DecodeSession`."""
        self._session.prefill(batch)
        self._traffic.prefills.append((batch.tokens.numel(), _kv_tokens(batch)))

    def _count(self, outcome: Outcome, num_experts: int) -> None:
        assert outcome.routes is not None
        visited = outcome.routes.transpose(0, 1).flatten(1).long()
        seen = torch.zeros(len(visited), num_experts, dtype=torch.bool, device=visited.device)
        self._traffic.experts.append(seen.scatter_(1, visited, True).sum())


def _kv_tokens(batch: Pass) -> int:
    """Read by each entry once, as far as it reaches; written once."""
    return int(batch.reach.amax(dim=1).sum()) + batch.tokens.numel()
