"""The scored view: what every likelihood estimator is made of, and the named streams that its draws come from."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.rl.views.canvas import CanvasBatch
from redraft.rollout.sampling import uniform

Stream = Literal["rank", "level", "strata", "denoising_step", "prompt_mask", "draft", "keep", "wrong", "substitute"]
_STREAMS: Final[tuple[str, ...]] = get_args(Stream)


@dataclass(frozen=True)
class View:
    """One noisy state per block and what is scored in it; one composite forward.

    Attributes:
        noisy: The noisy half of the composite input.
        target: The token whose log-probability is taken, per position.
        scored: Positions that are scored.
        weight: Of each scored log-probability in the completion's log-likelihood (estimate); 0 elsewhere.
        edit: Scored as T2T (the position showed a token) rather than M2T.
        rollout_log_prob: Nats, as the engine recorded them; nan or None: nothing recorded.
        denoising_step: Per block, the decoder forward whose state is shown; -1 or None: not a state of the decoder.
        acted: Slots that the decoder acted on at that step, scored or not; None with `denoising_step` None.
        context: The clean half, where it is not the canvas itself.
        anchor: The view belongs to the ELBO anchor, not to the policy's likelihood.
    """

    noisy: Int[Tensor, "batch length"]
    target: Int[Tensor, "batch length"]
    scored: Bool[Tensor, "batch length"]
    weight: Float[Tensor, "batch length"]
    edit: Bool[Tensor, "batch length"]
    rollout_log_prob: Float[Tensor, "batch length"] | None = None
    denoising_step: Int[Tensor, "batch blocks"] | None = None
    acted: Bool[Tensor, "batch length"] | None = None
    context: Int[Tensor, "batch length"] | None = None
    anchor: bool = False


def masked_view(
    batch: CanvasBatch, masked: Bool[Tensor, "batch length"], weight: Float[Tensor, "batch length"], mask_id: int
) -> View:
    """The canvas with some positions masked, all of them scored (M2T)."""
    return View(
        noisy=torch.where(masked, mask_id, batch.tokens),
        target=batch.tokens,
        scored=masked,
        weight=(weight * masked).double(),
        edit=torch.zeros_like(masked),
    )


def draw_uniforms(
    batch: CanvasBatch, stream: Stream, view: int, counter: Int[Tensor, "batch n"]
) -> Float[Tensor, "batch n"]:
    """Uniforms that depend on (noise seed of the row, stream, view, counter) alone.

    So the new, the old and the reference policy share them, and neither batch nor padding nor order changes them:
    kinds of draws are streams, not ranges of counters, which would move with the padding.
    """
    number = len(_STREAMS) * view + _STREAMS.index(stream)
    return uniform(batch.noise_seeds, torch.full_like(batch.noise_seeds, number), counter)


def position_counter(batch: CanvasBatch) -> Int[Tensor, "batch length"]:
    """Every row's absolute positions."""
    rows, length = batch.tokens.shape
    return torch.arange(length, device=batch.tokens.device).expand(rows, -1)


def block_counter(batch: CanvasBatch) -> Int[Tensor, "batch blocks"]:
    """Every row's block numbers."""
    rows, length = batch.tokens.shape
    return torch.arange(length // batch.block_length, device=batch.tokens.device).expand(rows, -1)


def ranks(batch: CanvasBatch, view: int) -> Int[Tensor, "batch blocks slots"]:
    """A random order of each block's editable positions, 0 to n - 1; the other slots come after them."""
    blocks = batch.editable.view(len(batch.tokens), -1, batch.block_length)
    noise = draw_uniforms(batch, "rank", view, position_counter(batch)).view_as(blocks)
    return noise.masked_fill(~blocks, 2.0).argsort(-1).argsort(-1)


def spread(per_block: Float[Tensor, "batch blocks"], batch: CanvasBatch) -> Float[Tensor, "batch length"]:
    """A number per block as one per position."""
    return per_block.repeat_interleave(batch.block_length, dim=1)


def draws_mark(views: list[View]) -> int:
    """A number that differs when the draws behind two lists of views differ.

    Log-probabilities carry it, so that a ratio of differently drawn ones is refused: its variance is about a thousand
    times larger than that of shared draws.
    """
    total = 0
    for index, view in enumerate(views):
        place = torch.arange(1, view.noisy.numel() + 1, device=view.noisy.device).view_as(view.noisy)
        mark = (place * (2 * view.noisy + view.scored)).sum() + (place * place * view.target * view.scored).sum()
        total = (total * 1_000_003 + index + int(mark)) % (1 << 61)
    return total
