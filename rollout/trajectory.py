"""What goes into a decode and what comes out: prompts, completions and the actions that made them. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids that steer decoding.

    Attributes:
        mask: The id of a position that is still empty.
        pad: Fills the canvas behind the last block of a request; no query ever attends to it.
        stops: Ids that end a completion, any of them; the first is the one that demonstrations end with.
    """

    mask: int
    pad: int
    stops: tuple[int, ...]

    @property
    def end(self) -> int:
        """The id that demonstrations end with. It is the first of `stops`, so what was learned ends a completion."""
        return self.stops[0]


@dataclass(frozen=True)
class Prompt:
    """One request.

    Attributes:
        id: Names the request in errors and results.
        token_ids: The prompt; may be empty.
        seed: Of the request's own random numbers; the completion depends on nothing else that is random.
        group: Requests with the same group are compared with each other.
    """

    id: str
    token_ids: tuple[int, ...]
    seed: int
    group: int = 0


class Edit(NamedTuple):
    """A visible token that was replaced; `position` counts from the first completion token."""

    forward: int
    position: int
    old: int
    new: int


@dataclass(frozen=True)
class DecodeTrace:
    """Every action of one decode, ordered by forward and then by position, as parallel tuples.

    The canvas before forward f is rebuilt from all masks by replaying the actions with a smaller `forward`.

    An example: mask id 9, blocks of 2, no prompt, greedy. Forward 0 fills position 0 with token 5. Forward 1 fills
    position 1 with 6 and edits position 0 to 4. Forward 2 finds no mask and changes nothing, so the block is final:

        num_forwards  3
        forward       (0, 1, 1)         forward 2 acted on nothing
        position      (0, 0, 1)
        old           (9, 5, 9)         9 is the mask: the first and the third action are unmasks, the second is an edit
        new           (5, 4, 6)
        log_prob      (0.0, 0.0, 0.0)   nothing was drawn

    The canvas before forward 1 is [5, 9], before forward 2 [4, 6]. `unmask_forward` is (0, 1), `edits` holds
    Edit(forward=1, position=0, old=5, new=4), and `last_edit_forward` is (1, -1).

    Attributes:
        mask: The mask id: an action whose `old` is the mask is an unmask, every other one an edit.
        num_forwards: Forwards in which the request took part.
        forward: Forward of the action, from 0 within the completion.
        position: Counted from the first completion token.
        old: Token at the position before the action.
        new: Token there after it; equal to `old` where a redraw kept the token.
        log_prob: Nats, of `new` under the distribution it was drawn from (tempered and truncated); 0.0 where the
            action was not drawn but taken as the argmax.
        log_prob_raw: Nats, of `new` under the untempered softmax without the mask token.
        routes: Experts of a mixture of experts, int16 `[num_forwards, layers, block_length, k]`: of every position of
            the active block, prompt positions in it included, in every forward. None if they were not recorded. Two
            traces that differ in routes alone are equal.
    """

    mask: int
    num_forwards: int
    forward: tuple[int, ...]
    position: tuple[int, ...]
    old: tuple[int, ...]
    new: tuple[int, ...]
    log_prob: tuple[float, ...]
    log_prob_raw: tuple[float, ...]
    routes: NDArray[np.int16] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def unmask_forward(self) -> tuple[int, ...]:
        """Per canvas position: the forward that unmasked it."""
        forward_of = {p: f for f, p, o in zip(self.forward, self.position, self.old, strict=True) if o == self.mask}
        return tuple(forward_of[position] for position in range(len(forward_of)))

    @cached_property
    def edits(self) -> tuple[Edit, ...]:
        """The edits that changed a token, in order; a redraw that kept its token is none."""
        actions = zip(self.forward, self.position, self.old, self.new, strict=True)
        return tuple(Edit(*action) for action in actions if action[2] not in (self.mask, action[3]))

    @cached_property
    def last_edit_forward(self) -> tuple[int, ...]:
        """Per canvas position: the last forward that changed its visible token, -1 if none did."""
        last = [-1] * len(self.unmask_forward)
        for edit in self.edits:
            last[edit.position] = edit.forward
        return tuple(last)

    @property
    def num_edits(self) -> int:
        """Number of edits that changed a token."""
        return len(self.edits)


@dataclass(frozen=True)
class Completion:
    """The answer to one prompt.

    Attributes:
        prompt_id: `Prompt.id` of the request.
        token_ids: The completion: cut after the first stop token or at the length limit.
        canvas_ids: Everything generated up to the end of the last decoded block; `token_ids` is a prefix of it.
        finish_reason: "stop" if `token_ids` ends with a stop token.
        trace: The actions that made `canvas_ids`.
        policy_version: Of the weights that were used.
    """

    prompt_id: str
    token_ids: tuple[int, ...]
    canvas_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    trace: DecodeTrace
    policy_version: int = 0

    @classmethod
    def cut(
        cls, prompt_id: str, generated: tuple[int, ...], limit: int, stops: tuple[int, ...], trace: DecodeTrace
    ) -> "Completion":
        """Cut what was generated at the length limit, and after the first stop token within it."""
        for size, token in enumerate(generated[:limit], start=1):
            if token in stops:
                return cls(prompt_id, generated[:size], generated, "stop", trace)
        return cls(prompt_id, generated[:limit], generated, "length", trace)

    @property
    def num_forwards(self) -> int:
        """Forwards in which the request took part."""
        return self.trace.num_forwards

    @property
    def tokens_per_forward(self) -> float:
        """Completion tokens per forward."""
        return len(self.token_ids) / self.num_forwards


@dataclass(frozen=True)
class RolloutGroup:
    """Completions of one group, in the order of their prompts."""

    prompts: tuple[Prompt, ...]
    completions: tuple[Completion, ...]


def group_rollouts(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[RolloutGroup]:
    """Collect completions by `Prompt.group`, in the order in which the groups first appear.

    Raises:
        ValueError: A completion does not belong to the prompt at its place.
    """
    members: dict[int, list[tuple[Prompt, Completion]]] = {}
    for prompt, completion in zip(prompts, completions, strict=True):
        if prompt.id != completion.prompt_id:
            raise ValueError(f"completion of prompt {completion.prompt_id!r} stands where {prompt.id!r} is expected")
        members.setdefault(prompt.group, []).append((prompt, completion))
    return [RolloutGroup(tuple(p for p, _ in pairs), tuple(c for _, c in pairs)) for pairs in members.values()]
