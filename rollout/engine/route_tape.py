"""The tape of one forward of a mixture of experts: the routes that its routers choose, or that they replay.

A route is the list of experts that one token visits in one layer. Only the experts come from a tape; their weights
are always gathered from the live dense scores, so a router that learns has its gradient on replayed routes too
(docs/math.md eq 47).

Source: rollout routing replay, arXiv 2510.11370; routing replay between passes, GSPO, arXiv 2507.18071.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int, Int16
from torch import Tensor

Routes = Int16[Tensor, "layers tokens k"]
"""Expert indices; -1 in all k places where the route is not known."""


class Agreement(NamedTuple):
    """Counts of (layer, token) pairs, to be summed over forwards; equality is that of sets of experts.

    Attributes:
        known: Pairs whose route was given.
        used: Pairs of `known` that ran on the given experts; under replay these are all.
        live: Pairs of `known` whose router chose the given experts without replay.
    """

    known: float
    used: float
    live: float


class RouteTape:
    """Routes of one forward, written layer by layer.

    A layer that runs again, as under activation checkpointing, gets the experts that it used before: a router near a
    tie may choose others the second time, and the gradient would be that of another network.

    Args:
        num_layers: Routed layers of the network.
        given: Routes to take or to compare with; a token whose route is -1 is routed live. None records only.
        replay: Take the given routes; False only compares with them.
    """

    def __init__(self, num_layers: int, given: Routes | None = None, replay: bool = True) -> None:
        if given is not None and len(given) != num_layers:
            raise ValueError(f"routes of {len(given)} layers were given to a network with {num_layers} routed layers")
        self._given, self._replay = given, replay
        self._live: list[Tensor | None] = [None] * num_layers
        self._used: list[Tensor | None] = [None] * num_layers

    def exchange(self, layer: int, live: Int[Tensor, "tokens k"]) -> Int[Tensor, "tokens k"]:
        """Note what the router of a layer chose; return the experts to use.

        Args:
            layer: Place among the routed layers.
            live: The router's own choice.

        Raises:
            ValueError: Routes for another number of tokens or experts were given.
        """
        if (before := self._used[layer]) is not None:
            return before.to(live)
        used = live
        if self._given is not None:
            given = self._given[layer]
            if given.shape != live.shape:
                raise ValueError(
                    f"routes given for [tokens, k] = {list(given.shape)}, but {list(live.shape)} are routed"
                )
            if self._replay:
                used = torch.where((given < 0).any(-1, keepdim=True), live, given.to(live))
        self._live[layer], self._used[layer] = live.to(torch.int16), used.to(torch.int16)
        return used

    @property
    def routes(self) -> Routes:
        """The experts that the forward used, in the routers' order.

        Raises:
            RuntimeError: The forward has not run.
        """
        return _stack(self._used)

    def agreement(self) -> Agreement:
        """Count how many of the given routes were used, and how many the routers chose without replay."""
        if self._given is None:
            return Agreement(0.0, 0.0, 0.0)
        given = self._given.sort(-1).values
        known = (given >= 0).all(-1)
        same = [(_stack(routes).sort(-1).values == given).all(-1) & known for routes in (self._used, self._live)]
        return Agreement(*(float(count.sum()) for count in (known, *same)))


def _stack(layers: list[Tensor | None]) -> Tensor:
    written = [layer for layer in layers if layer is not None]
    if len(written) < len(layers):
        raise RuntimeError(f"{len(written)} of {len(layers)} routed layers wrote to the tape: run the forward first")
    return torch.stack(written)
