"""Named random streams."""

import random

import numpy as np
import torch

from redraft.rl.seeding import SEED_BITS, derive_seed, make_generator


def test_seeds_are_the_same_in_every_process_and_version():
    # Written down once: a change here changes every run that is resumed or repeated.
    assert derive_seed(0, "noise") == 3343075862103950159
    assert derive_seed(3, "rollout", 7, 1) == 114960122181158682


def test_every_part_of_a_name_matters():
    names = [(seed, purpose, *indices) for seed in (0, 1, 11) for purpose in ("noise", "rollout")
             for indices in [(), (0,), (1,), (1, 1), (11,), (1, 11), (11, 1)]]  # fmt: skip
    assert len({derive_seed(*name) for name in names}) == len(names)


def test_seeds_fit_a_signed_tensor_with_room_to_spare():
    seeds = [derive_seed(0, "noise", index) for index in range(2000)]
    assert all(0 <= seed < 2**SEED_BITS for seed in seeds)
    assert max(seeds) > 0.99 * 2**SEED_BITS
    assert torch.tensor(seeds).tolist() == seeds


def test_a_generator_starts_at_the_head_of_its_stream():
    first, again = make_generator(5, "shuffle", 2), make_generator(5, "shuffle", 2)
    other = make_generator(5, "shuffle", 3)
    draw = torch.rand(8, generator=first)
    assert torch.equal(draw, torch.rand(8, generator=again))
    assert not torch.equal(draw, torch.rand(8, generator=other))


def test_global_generators_are_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    seed = torch.rand(1, generator=make_generator(0, "x"))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    torch.manual_seed(1)
    assert torch.equal(seed, torch.rand(1, generator=make_generator(0, "x")))
