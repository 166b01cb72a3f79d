"""Every preset at one budget of forwards."""

import pytest

from rl.bench.algorithms import algorithms, at_budget
from rl.presets import PRESETS


@pytest.mark.parametrize("forwards", [1, 2, 3, 4])
def test_every_preset_has_a_form_at_every_budget(forwards):
    found = algorithms(forwards)
    assert found.keys() == PRESETS.keys()
    assert all(algorithm.preset == name for name, algorithm in found.items())


def test_what_a_preset_may_choose_follows_the_budget_and_what_defines_it_stays():
    assert at_budget("ebpo", 4).num_mc == at_budget("bgpo", 4).num_mc == at_budget("vrpo", 4).num_mc == 4
    assert at_budget("d2", 4).merge == 4
    assert (at_budget("tracerl", 4).merge, at_budget("tracerl", 4).shrink) == (0, 2)
    assert (at_budget("coupled_grpo", 2).num_mc, at_budget("coupled_grpo", 4).num_mc) == (3, 3)
    assert at_budget("coupled_grpo", 5).num_mc == 5
    assert (at_budget("espo", 1).num_mc, at_budget("espo", 3).num_mc, at_budget("espo", 4).num_mc) == (2, 2, 4)
    assert (at_budget("diffu_grpo", 2).num_mc, at_budget("diffu_grpo", 2).num_iterations) == (1, 2)
    assert (at_budget("wd1", 2).num_mc, at_budget("wd1", 2).num_iterations) == (1, 1)
