"""Which rank of a sharded learner holds what: sizes, and the owner of every expert. Integers only; loads no torch.

Guarantees:
    * Every expert has exactly one owner among the ranks of a replica, and every rank owns equally many.
    * The ranks of one expert-parallel group have consecutive numbers, so a launcher that fills node after node puts
      each group inside one node.

Assumes:
    * Experts are counted by their place in the stacked parameter. Which published expert lies at which place is the
      model's business, because a layout's own order would make a resume with other sizes read other experts.

Rejected alternatives:
    * Ranks that own unequally many experts: a resume on another number of ranks could not read the pieces back.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class RankLayout:
    """Sizes of a learner's ranks.

    16 ranks in nodes of 8 are `RankLayout(16, 8)`: dense weights in 16 pieces (`dp`), experts spread over 8 ranks
    (`ep`), and each such share cut in two again (`efsdp`). Rank 9 is place 1 of the second expert-parallel group; of
    256 experts it owns 48 to 63, the second half of the 32 that ranks 1 and 9 share.

    Attributes:
        world: Ranks of the learner, one per GPU.
        ep: Ranks that share out the experts of every layer, and send each other rows of tokens.
        replicate: Whole copies of the weights; each is sharded over `dp` ranks.

    Raises:
        ValueError: A size is not positive, or does not divide another.
    """

    world: int
    ep: int = 1
    replicate: int = 1

    def __post_init__(self) -> None:
        for name in ("world", "ep", "replicate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.world % self.replicate:
            raise ValueError(f"replicate={self.replicate} must divide the {self.world} ranks of the learner")
        if self.dp % self.ep:
            raise ValueError(
                f"expert_parallel={self.ep} must divide the {self.dp} ranks that share a copy of the weights; use"
                f" {_list_of_divisors(self.dp)}"
            )

    @property
    def dp(self) -> int:
        """Count the ranks that share one copy of the dense weights."""
        return self.world // self.replicate

    @property
    def efsdp(self) -> int:
        """Count the pieces that an expert-parallel rank's experts are cut into."""
        return self.dp // self.ep

    def check_experts(self, experts: int) -> None:
        """Refuse a number of experts per layer that the ranks of a replica cannot share equally.

        Raises:
            ValueError: It is not a multiple of ep * efsdp, or there are no experts to spread.
        """
        if not experts and self.ep > 1:
            raise ValueError(f"expert_parallel={self.ep}: the network has no experts; use 1")
        if experts % self.dp:
            raise ValueError(
                f"{experts} experts per layer cannot be shared equally by {self.dp} ranks (expert_parallel={self.ep}"
                f" times {self.efsdp}); use {_list_of_divisors(experts)} ranks"
            )

    def check_node(self, gpus_per_node: int) -> None:
        """Refuse an expert-parallel group that would span nodes: its rows would leave NVLink.

        Raises:
            ValueError: A group does not lie inside one node.
        """
        if (self.world > gpus_per_node and gpus_per_node % self.ep) or self.ep > gpus_per_node:
            raise ValueError(
                f"expert_parallel={self.ep} does not fit into nodes of {gpus_per_node} GPUs; use"
                f" {_list_of_divisors(gpus_per_node)}"
            )

    def coordinates(self, rank: int) -> tuple[int, int, int]:
        """Return the replica of a rank, its place on `efsdp`, and its place on `ep`.

        Raises:
            ValueError: There is no such rank.
        """
        if not 0 <= rank < self.world:
            raise ValueError(f"rank {rank}: the learner has ranks 0 to {self.world - 1}")
        replica, inside = divmod(rank, self.dp)
        return replica, *divmod(inside, self.ep)

    def experts_of(self, rank: int, experts: int) -> range:
        """Return the places of the experts that a rank owns, out of `experts` per layer."""
        self.check_experts(experts)
        _, piece, place = self.coordinates(rank)
        share, own = experts // self.ep, experts // self.dp
        first = place * share + piece * own
        return range(first, first + own)

    def owner(self, place: int, experts: int) -> int:
        """Return the rank of replica 0 that owns the expert at a place, out of `experts` per layer.

        Raises:
            ValueError: There is no such place.
        """
        self.check_experts(experts)
        if not 0 <= place < experts:
            raise ValueError(f"place {place}: the layer has experts 0 to {experts - 1}")
        on_ep, inside = divmod(place, experts // self.ep)
        return inside // (experts // self.dp) * self.ep + on_ep


def widest_ep(world: int, experts: int, gpus_per_node: int) -> int:
    """Choose the most expert-parallel ranks that lie inside one node: fewer bytes are gathered than with any less.

    Args:
        world: Ranks of the learner.
        experts: Per layer; without experts there is nothing to spread.
        gpus_per_node: Ranks that NVLink joins.
    """
    if not experts:
        return 1
    return world if world <= gpus_per_node else math.gcd(world, gpus_per_node)


def _list_of_divisors(number: int) -> str:
    """Write the divisors of a number for an error: `1, 2 or 4`."""
    found = [str(part) for part in range(1, number + 1) if number % part == 0]
    return " or ".join(filter(None, [", ".join(found[:-1]), found[-1]])) if found else "1"
