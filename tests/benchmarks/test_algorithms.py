"""Every preset at one budget of forwards."""

from pathlib import Path

import pytest

from benchmarks.learning.algorithms import algorithms, at_budget, read_variants
from redraft.rl.config.presets import PRESETS
from short_names import flat


@pytest.mark.parametrize("forwards", [1, 2, 3, 4])
def test_every_preset_has_a_form_at_every_budget(forwards):
    found = algorithms(forwards)
    assert found.keys() == PRESETS.keys()
    assert all(algorithm.preset == name for name, algorithm in found.items())


def test_what_a_preset_may_choose_follows_the_budget_and_what_defines_it_stays():
    def found(name: str, forwards: int, *keys: str) -> list:
        settings = flat(at_budget(name, forwards))
        return [settings[key] for key in keys]

    assert found("ebpo", 4, "num_mc") == found("bgpo", 4, "num_mc") == found("vrpo", 4, "num_mc") == [4]
    assert found("d2", 4, "merge") == [4]
    assert found("tracerl", 4, "shrink") == [2]
    assert found("coupled_grpo", 2, "num_mc") == found("coupled_grpo", 4, "num_mc") == [3]
    assert found("coupled_grpo", 5, "num_mc") == [5]
    assert [found("espo", forwards, "num_mc") for forwards in (1, 3, 4)] == [[2], [2], [4]]
    assert found("diffu_grpo", 2, "num_mc", "num_iterations") == [1, 2]
    assert found("wd1", 2, "num_mc", "num_iterations") == [1, 1]


def test_variants_are_read_as_they_stand_and_named_where_they_are_wrong(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("mine: {preset: vrbpo, estimator: {num_mc: 5}}\n")
    assert flat(read_variants(path)["mine"])["num_mc"] == 5
    for text, message in (
        ("mine: {preset: vrbpo, estimator: {num_mcs: 5}}", r"mine.yaml: mine: .*num_mcs"),
        ("vrbpo: {estimator: {num_mc: 5}}", r"mine.yaml: vrbpo: presets have these names"),
        ("- vrbpo", r"must map names to algorithm sections"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"(?s){message}"):
            read_variants(path)


def test_the_committed_variants_are_valid():
    assert len(read_variants(Path(__file__).parents[2] / "benchmarks" / "vrbpo_variants.yaml")) > 5
