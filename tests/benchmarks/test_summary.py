"""The learning benchmark's statistics, against numbers worked out by hand."""

import pytest

from benchmarks.learning.report import markdown, mean_curve
from benchmarks.learning.summary import Estimate, area, cells, scores, smoothed, standings


def record(preset, rate, seed, reward, steps=None, failed=None, held_out=0.5):
    return {
        "spec": {"preset": preset, "task": "sums", "mode": "q", "rate": rate, "seed": seed,
                 "steps": steps or len(reward)},
        "curves": {"reward": reward, "tokens_per_forward": [1.0 + 0.1 * step for step in range(len(reward))]},
        "held_out": None if failed else {"sampled": held_out},
        "forwards": {"learn": 2.0, "score": 0.0},
        "failed": failed,
        "alarm": None,
    }  # fmt: skip


def test_a_mean_comes_with_the_standard_error_of_its_seeds():
    # Deviations -.2, 0, .2: variance .08 / 2 = .04, error .2 / sqrt(3).
    found = Estimate.of([0.1, 0.3, 0.5])
    assert (found.mean, found.error) == (pytest.approx(0.3), pytest.approx(0.2 / 3**0.5))
    assert Estimate.of([0.7]) == Estimate(0.7, 0.0)


def test_the_area_counts_the_steps_that_a_failed_run_did_not_reach_as_nothing():
    assert area(record("a", 1e-3, 0, [0.2, 0.4])) == pytest.approx(0.3)
    assert area(record("a", 1e-3, 0, [0.2, 0.4], steps=6, failed="step 2: no")) == pytest.approx(0.1)


def test_curves_are_smoothed_by_means_of_successive_values():
    assert smoothed([1, 2, 3, 4], 2) == [1.5, 2.5, 3.5]
    assert smoothed([1, 3], 5) == [2]
    assert smoothed([], 5) == []


def test_best_final_and_held_out_are_of_smoothed_runs_and_a_failed_run_ends_at_nothing():
    up_and_down = [0.0] * 5 + [1.0] * 5 + [0.5] * 5
    found = scores([
        record("a", 1e-3, 1, up_and_down, held_out=0.6),
        record("a", 1e-3, 0, [0.2] * 5, steps=15, failed="step 5: no"),
    ])  # fmt: skip
    assert found.areas == pytest.approx((1 / 15, 0.5))  # in the order of the seeds
    assert found.best.mean == pytest.approx((1.0 + 0.2) / 2)
    assert found.final.mean == pytest.approx((0.5 + 0.0) / 2)
    assert found.held_out.mean == pytest.approx(0.3)
    assert found.tokens_per_forward == pytest.approx((1.2, (1.7 + 1.2) / 2, (2.2 + 1.2) / 2))


def grid():
    areas = {
        ("a", 1e-3): (0.3, 0.5), ("a", 3e-3): (0.6, 0.8), ("a", 1e-2): (0.1, 0.1),
        ("b", 1e-3): (0.2, 0.2), ("b", 3e-3): (0.65, 0.72), ("b", 1e-2): (0.3, 0.5),
        ("c", 1e-3): (0.1, 0.2), ("c", 3e-3): (0.2, 0.3), ("c", 1e-2): (0.49, 0.69),
    }  # fmt: skip
    return [
        record(preset, rate, seed, [value]) for (preset, rate), both in areas.items() for seed, value in enumerate(both)
    ]


def test_presets_stand_in_the_order_of_their_areas_at_their_best_rates():
    ((cell, found),) = cells(grid()).items()
    table = standings(found)
    assert cell == ("sums", "q")
    assert [(one.rank, one.preset, one.rate) for one in table] == [(1, "a", 3e-3), (2, "b", 3e-3), (3, "c", 1e-2)]
    assert [one.scores.area.mean for one in table] == pytest.approx([0.7, 0.685, 0.59])


def test_a_tie_is_a_gap_of_at_most_the_firsts_standard_error_and_a_paired_one_of_at_most_its_own():
    first, second, third = standings(cells(grid())["sums", "q"])
    assert first.scores.area.error == pytest.approx(0.1)  # .6 and .8
    assert (first.gap, first.tied, first.tied_paired) == (Estimate(0.0, 0.0), True, True)
    # Gaps of b: .6 - .65 = -.05 and .8 - .72 = .08: mean .015, deviation .065, error .065 sqrt(2) / sqrt(2).
    assert (second.gap.mean, second.gap.error) == pytest.approx((0.015, 0.065))
    assert (second.tied, second.tied_paired) == (True, True)
    # Gaps of c: .11 and .11.
    assert (third.gap.mean, third.gap.error) == pytest.approx((0.11, 0.0))
    assert (third.tied, third.tied_paired) == (False, False)


def test_a_gap_inside_the_firsts_error_but_outside_its_own_is_tied_unpaired_only():
    records = [record("a", 1e-3, seed, [value]) for seed, value in enumerate((0.6, 0.8))]
    records += [record("b", 1e-3, seed, [value]) for seed, value in enumerate((0.55, 0.75))]
    _, second = standings(cells(records)["sums", "q"])
    assert (second.tied, second.tied_paired) == (True, False)


def test_the_next_hotter_rate_is_ranked_among_those_that_have_one():
    first, second, third = standings(cells(grid())["sums", "q"])
    assert (first.hotter_rate, first.hotter.mean, first.hotter_rank) == (1e-2, pytest.approx(0.1), 2)
    assert (second.hotter_rate, second.hotter.mean, second.hotter_rank) == (1e-2, pytest.approx(0.4), 1)
    assert (third.hotter_rate, third.hotter, third.hotter_rank) == (None, None, None)


def test_the_report_has_a_row_per_preset_with_its_gap_and_its_hotter_rate():
    text = markdown(grid(), "Title")
    assert "## sums, Q decoding" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| 2 | b ")]
    cells_of_row = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells_of_row[2:6] == ["0.003", "0.685±0.035", "0.015±0.065", "yes"]
    assert "0.01: 0.400±0.100 (1/2)" in cells_of_row
    assert "| c | 0.150±0.050 | 0.250±0.050 | 0.590±0.100 |" in text


def test_mean_curves_end_where_the_first_run_ends():
    runs = [record("a", 1e-3, 0, [0.2] * 7), record("a", 1e-3, 1, [0.4] * 6)]
    assert mean_curve(runs, "reward") == [0.3, 0.3]
