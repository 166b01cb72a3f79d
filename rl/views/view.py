"""The scored view, which every likelihood estimator is made of, and the named streams of its random draws."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.rl.views.canvas import CanvasBatch
from redraft.rollout.sampling import uniform

Stream = Literal["rank", "level", "strata", "denoising_step", "prompt_mask", "draft", "keep", "wrong", "substitute"]
_STREAMS: Final[tuple[str, ...]] = get_args(Stream)
"""Number and order of the streams enter every draw: a change here gives all seeded runs other noise."""


@dataclass(frozen=True)
class View:
    """One noisy state per block, and what is scored in it. One composite forward scores one view.

    Example: a prompt of 2 tokens, a canvas of 6 and blocks of 4. Block 0 has n = 2 generated tokens of which the view
    masks k = 1, block 1 has n = 4 of which it masks k = 2. Each masked position weighs n / k = 2. If the network gives
    the true tokens there log-probabilities of -0.5, -1 and -0.25 nats, the view estimates a log-likelihood of
    2 (-0.5) + 2 (-1) + 2 (-0.25) = -3.5 nats:

    >>> mask = 9
    >>> canvas = torch.tensor([[1, 2, 5, 6, 7, 8, 4, 3]])
    >>> scored = torch.tensor([[False, False, False, True, True, False, True, False]])
    >>> view = View(
    ...     noisy=torch.where(scored, mask, canvas),
    ...     target=canvas,
    ...     scored=scored,
    ...     weight=2.0 * scored,
    ...     edit=torch.zeros_like(scored),
    ... )
    >>> view.noisy.tolist()
    [[1, 2, 5, 9, 9, 8, 9, 3]]
    >>> view.target[view.scored].tolist()
    [6, 7, 4]
    >>> (view.weight[view.scored] * torch.tensor([-0.5, -1.0, -0.25])).sum().item()
    -3.5

    Attributes:
        noisy: The noisy half of the composite input.
        target: The token whose log-probability is taken, per position.
        scored: Positions that are scored.
        weight: Of each scored log-probability in the completion's log-likelihood (estimate); 0 elsewhere.
        edit: Scored as T2T (the position showed a token) rather than M2T.
        rollout_log_prob: Nats, as the engine recorded them; nan where it recorded none, None if it did nowhere.
        denoising_step: Per block, the decoder forward whose state is shown, counted within the completion; -1 for a
            block that shows no state of the decoder, None if none does.
        acted: Positions that the decoder acted on at that denoising step, scored or not; None with `denoising_step`
            None, and where several denoising steps are scored from one state.
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
    """Mask some positions of the canvas, and score all of them (M2T)."""
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
    """Draw uniforms in [0, 1) that depend on (noise seed of the sequence, stream, view, counter) and on nothing else.

    So the current, the old and the reference policy share them, and neither batch nor padding nor order changes them.
    Different kinds of draws are different streams. Ranges of counters would not do, because they move with the padding.
    """
    number = len(_STREAMS) * view + _STREAMS.index(stream)
    return uniform(batch.noise_seeds, torch.full_like(batch.noise_seeds, number), counter)


def position_counter(batch: CanvasBatch) -> Int[Tensor, "batch length"]:
    """Number the positions of every sequence from 0."""
    size, length = batch.tokens.shape
    return torch.arange(length, device=batch.tokens.device).expand(size, -1)


def block_counter(batch: CanvasBatch) -> Int[Tensor, "batch blocks"]:
    """Number the blocks of every sequence from 0."""
    size, length = batch.tokens.shape
    return torch.arange(length // batch.block_length, device=batch.tokens.device).expand(size, -1)


def ranks(batch: CanvasBatch, view: int) -> Int[Tensor, "batch blocks positions"]:
    """Put each block's editable positions into a random order, 0 to n - 1; its other positions come after them."""
    blocks = batch.editable.view(len(batch.tokens), -1, batch.block_length)
    noise = draw_uniforms(batch, "rank", view, position_counter(batch)).view_as(blocks)
    order = noise.masked_fill(~blocks, 2.0).argsort(-1)
    return order.argsort(-1)  # the inverse permutation: each position's place in the order


def spread(per_block: Float[Tensor, "batch blocks"], batch: CanvasBatch) -> Float[Tensor, "batch length"]:
    """Repeat a number per block for every position of the block."""
    return per_block.repeat_interleave(batch.block_length, dim=1)


def draws_mark(views: list[View]) -> int:
    """Compute a number that differs when the draws behind two lists of views differ.

    Log-probabilities carry it, so that a ratio of differently drawn ones is refused: its variance is about a thousand
    times larger than that of shared draws.
    """
    total = 0
    for index, view in enumerate(views):
        place = torch.arange(1, view.noisy.numel() + 1, device=view.noisy.device).view_as(view.noisy)
        mark = (place * (2 * view.noisy + view.scored)).sum() + (place * place * view.target * view.scored).sum()
        total = (total * 1_000_003 + index + int(mark)) % (1 << 61)
    return total
