"""Recipes of real models: their cards say what `redraft plan` computes, and what was not tried is called so.

Where the plan's formulas changed, `PYTHONPATH=tests:. python tests/rl/test_recipe_cards.py` writes the cards anew.
"""

import pytest

from conftest import ROOT
from plans import FLASH, MINI, cards_of
from redraft.rl.config.places import built_in
from redraft.rl.config.recipe import load_recipe
from redraft.rl.models.shape import Shape
from redraft.rl.plan.machine import GIB, size_text
from redraft.rl.plan.plan import Plan, make_plan
from redraft.rl.plan.setup import Assumptions

REAL = {name: 1 if "_lora_" in name else 8 for name in built_in("recipes") if name.startswith("llada2_")}
"""GPUs that each recipe is made for."""


def planned(name: str, shape: Shape, gpus: int) -> Plan:
    return make_plan(load_recipe([name]), shape, cards_of(gpus), Assumptions())


def figures(name: str) -> list[str]:
    """The lines of a recipe's card that are computed."""
    plan = planned(name, MINI, REAL[name])
    (card,), seconds = plan.cards, plan.seconds
    assert seconds is not None
    lines = {role: [line for line in card.lines if line.role == role] for role in ("learner", "rollout")}
    parts = {role: ", ".join(f"{line.name} {line.size / GIB:.1f}" for line in lines[role]) for role in lines}
    state, weights = plan.checkpoint_bytes
    needed, there = card.needed_bytes / GIB, card.card_bytes / GIB
    return [
        f"# Hardware   {REAL[name]} x 80 GB ({needed:.1f} of {there:.1f} GiB each)",
        f"# Learner    {parts['learner']} GiB",
        f"# Rollout    {parts['rollout']} GiB",
        f"# One step   {plan.batch.completions} completions of at most {plan.setup.completion_tokens} tokens; at least"
        f" {seconds.rollout:.0f} + {seconds.update:.0f} s (rollouts, update)",
        f"# Disk       {size_text(state + weights)} per checkpoint, and 30 GiB for the model",
    ]


@pytest.mark.parametrize("name", REAL)
def test_a_card_says_what_plan_computes(name):
    head = built_in("recipes")[name].read_text().partition("\nseed:")[0].splitlines()
    assert head[0].endswith("Not run yet.")
    assert [line for line in head if line in figures(name)] == figures(name)
    assert any(line.startswith("# Failing    ") for line in head)


def test_every_recipe_fits_its_machine_and_flash_is_refused_with_the_reason():
    assert {len(REAL), *REAL.values()} == {8, 1}
    for name, gpus in REAL.items():
        assert planned(name, MINI, gpus).fits, name
    for gpus in (8, 64):
        refused = planned("llada2_mini_full", FLASH, gpus).refused
        assert any(
            "rollout engines over several GPUs are not built yet; use a smaller model" in text for text in refused
        )


def write_cards() -> None:
    """Replace the computed lines of every card, which stand together below the empty comment."""
    for name in REAL:
        path = ROOT / "recipes" / f"{name}.yaml"
        head, _, rest = path.read_text().partition("\n#\n")
        kept = rest.splitlines(keepends=True)[len(figures(name)) :]
        path.write_text(f"{head}\n#\n" + "".join(f"{line}\n" for line in figures(name)) + "".join(kept))


if __name__ == "__main__":
    write_cards()
