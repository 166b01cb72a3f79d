"""The editing decoder on one tiny block, exactly: a dynamic programme over every content that the block can have.

With a policy's log-probabilities at all contents in one table, the decoder (`unmask_confidence: top`,
`edit_sampling: sample`) is a Markov chain on the table's rows. Its expected reward is then a plain differentiable
function of the table, so autograd gives the true policy gradient: the ruler that every estimator is held against.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.editing import edit_set, unmask_set
from redraft.rollout.engine.scores import read

MAX_STATES = 8192  # the chain is a dense matrix: 512 MiB in float64


@dataclass(frozen=True)
class BlockSpace:
    """All contents of one block: its tokens are the digits of the state's number, the first slot's the highest.

    Attributes:
        length: Slots.
        vocab_size: Token ids, the mask among them.
        mask: The id of an empty slot.
    """

    length: int
    vocab_size: int
    mask: int

    def __post_init__(self) -> None:
        if self.size > MAX_STATES:
            raise ValueError(
                f"{self.vocab_size} tokens in {self.length} slots make {self.size} states; at most {MAX_STATES}"
                " are enumerated, use fewer slots or tokens"
            )

    @property
    def size(self) -> int:
        """Number of states."""
        return self.vocab_size**self.length

    @cached_property
    def places(self) -> Int[Tensor, " length"]:
        """What a digit of each slot is worth."""
        return self.vocab_size ** torch.arange(self.length - 1, -1, -1)

    @cached_property
    def states(self) -> Int[Tensor, "states length"]:
        """The tokens of every state."""
        return torch.arange(self.size)[:, None] // self.places % self.vocab_size

    @cached_property
    def masked(self) -> Bool[Tensor, "states length"]:
        """The empty slots of every state."""
        return self.states == self.mask

    @cached_property
    def full(self) -> Bool[Tensor, " states"]:
        """States without an empty slot."""
        return ~self.masked.any(-1)

    @property
    def blank(self) -> int:
        """The state in which a block begins."""
        return int((self.mask * self.places).sum())

    def index(self, blocks: Int[Tensor, "*n length"]) -> Int[Tensor, "*n"]:
        """The states of some contents."""
        return (blocks * self.places).sum(-1)


def block_logits(
    model: nn.Module, prompt: tuple[int, ...], space: BlockSpace
) -> Float[Tensor, "states length vocab_size"]:
    """The policy's logits at every state of the block behind a prompt of whole blocks; the mask token at -inf.

    Raises:
        ValueError: If the prompt does not end with a block.
    """
    if len(prompt) % space.length:
        raise ValueError(f"the prompt has {len(prompt)} tokens, not a whole number of blocks of {space.length}")
    earlier = torch.tensor(prompt, dtype=torch.int64).expand(space.size, -1)
    logits = model(torch.cat([earlier, space.states], dim=1), space.length)[:, len(prompt) :]
    return logits.masked_fill(torch.arange(space.vocab_size) == space.mask, -torch.inf)


class Chain(NamedTuple):
    """The decoder as a Markov chain.

    Attributes:
        log_prob: Nats, of each token in each slot under the sampling distribution.
        unmask: Slots that a forward fills.
        edit: Slots that a forward redraws.
        transition: Probability of each state (column) after a forward on each state (row).
    """

    log_prob: Float[Tensor, "states length vocab_size"]
    unmask: Bool[Tensor, "states length"]
    edit: Bool[Tensor, "states length"]
    transition: Float[Tensor, "states states"]


def make_chain(
    logits: Float[Tensor, "states length vocab_size"],
    space: BlockSpace,
    config: DecodeConfig,
    order: Literal["decoder", "random"] = "decoder",
) -> Chain:
    """The chain of a policy.

    Slots are chosen on the untempered probabilities by the decoder's own rules; they are no part of the likelihood.

    Args:
        logits: See `block_logits`.
        space: The block's states.
        config: Thresholds, temperature and budget.
        order: "random" fills one masked slot a forward, any with the same probability, and edits nothing: the
            textbook sampler, whose likelihood the ELBO bounds.

    Raises:
        ValueError: If the config's sampling is not the one whose likelihood is exact.
    """
    if config.unmask_confidence != "top" or config.edit_sampling != "sample" or config.temperature == 0:
        raise ValueError(
            "the exact chain needs unmask_confidence: top, edit_sampling: sample and a temperature above 0, got"
            f" {config.unmask_confidence}, {config.edit_sampling} and {config.temperature}"
        )
    if config.top_k or config.top_p < 1:
        raise ValueError(f"the exact chain has no truncation, got top_k {config.top_k} and top_p {config.top_p}")
    log_prob = (logits / config.temperature).log_softmax(-1)
    if order == "random":
        edit = torch.zeros_like(space.masked)
        return Chain(log_prob, space.masked, edit, _random_order_transition(log_prob, space))
    unmask, edit = _position_sets(logits.detach(), space, config)
    return Chain(log_prob, unmask, edit, _transition(log_prob, unmask | edit, space))


def _position_sets(
    logits: Float[Tensor, "states length vocab_size"], space: BlockSpace, config: DecodeConfig
) -> tuple[Bool[Tensor, "states length"], Bool[Tensor, "states length"]]:
    """What `rollout.decoding.editing.denoise` fills and redraws in every state."""
    reading = read(logits)
    threshold, editing_threshold = (
        torch.full((space.size,), value, dtype=torch.float64) for value in (config.threshold, config.editing_threshold)
    )
    leftmost = config.unmask_fallback == "leftmost"
    unmask = unmask_set(space.masked, reading.top_prob, reading.top_prob, threshold, leftmost)
    return unmask, edit_set(space.states, ~space.masked, reading, editing_threshold)


def _transition(
    log_prob: Float[Tensor, "states length vocab_size"], acting: Bool[Tensor, "states length"], space: BlockSpace
) -> Float[Tensor, "states states"]:
    """Product over slots: a drawn token where the slot acts, the token it has where it does not."""
    stay = nn.functional.one_hot(space.states, space.vocab_size).to(log_prob.dtype)
    slots = torch.where(acting[..., None], log_prob.exp(), stay)
    rows = slots[:, 0]
    for slot in range(1, space.length):
        rows = (rows[:, :, None] * slots[:, slot, None]).flatten(1)
    return rows


def _random_order_transition(
    log_prob: Float[Tensor, "states length vocab_size"], space: BlockSpace
) -> Float[Tensor, "states states"]:
    """The mean over masked slots of filling that slot alone; full states stay."""
    share = space.masked.to(log_prob.dtype) / space.masked.sum(-1, keepdim=True).clamp_min(1)
    total = torch.diag(space.full.to(log_prob.dtype))
    for slot in range(space.length):
        alone = torch.zeros_like(space.masked)
        alone[:, slot] = space.masked[:, slot]
        total = total + share[:, slot, None] * _transition(log_prob, alone, space)
    return total


def expected_return(
    chain: Chain, reward: Float[Tensor, " states"], space: BlockSpace, post_steps: int
) -> Float[Tensor, " states"]:
    """Expected reward of the final block from every state, had no mask-free forward been taken there yet.

    With P the chain, R the reward and F_n the value of a full state when n mask-free forwards are left:
    F_0 = R; F_n(s) = sum_{s' != s} P(s'|s) F_{n-1}(s') + P(s|s) R(s), since an unchanged full block is final; and a
    state with masks is worth sum_{s'} P(s'|s) value(s'), which ends, because every forward fills at least one slot.

    Args:
        chain: The decoder.
        reward: Of each state as the final block; states with masks are never final.
        space: The block's states.
        post_steps: Mask-free forwards that the block may take, `DecodeConfig.post_steps`.

    Returns:
        One value per state; that of `space.blank` is the policy's return, and differentiable.
    """
    stay = chain.transition.diagonal()
    full = reward
    for _ in range(post_steps):
        full = chain.transition @ full + stay * (reward - full)
    # Masked states lead to masked states, and full ones only to full ones, so the two recursions never mix.
    full = torch.where(space.full, full, 0.0)
    value = full
    for _ in range(space.length):
        value = torch.where(space.full, full, chain.transition @ value)
    return value


class Visits(NamedTuple):
    """Where decodes go.

    Attributes:
        forwards: Expected number of forwards on each state.
        final: Probability of each state as the final block; sums to 1.
    """

    forwards: Float[Tensor, " states"]
    final: Float[Tensor, " states"]


def visits(chain: Chain, space: BlockSpace, post_steps: int) -> Visits:
    """Follows the probability of a blank block forward through the chain; the adjoint of `expected_return`."""
    mass = torch.zeros(space.size, dtype=chain.transition.dtype)
    mass[space.blank] = 1.0
    forwards, arrived = torch.zeros_like(mass), torch.zeros_like(mass)
    for _ in range(space.length):
        forwards = forwards + mass
        mass = mass @ chain.transition
        arrived = arrived + mass * space.full
        mass = mass * ~space.full
    final = torch.zeros_like(mass)
    for _ in range(post_steps):
        forwards = forwards + arrived
        unchanged = arrived * chain.transition.diagonal()
        final = final + unchanged
        arrived = arrived @ chain.transition - unchanged
    return Visits(forwards, final + arrived)
