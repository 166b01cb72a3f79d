"""What a recipe can say about a reward: when it applies, what it sees, what its failures do."""

import contextlib
import sys

import pytest

from redraft.rewards import RewardError, RewardMixture, RewardTerm, Sample, names, resolve

REWARDS = """
import os, time
from redraft.rewards import Verdict, reward

def length(prompts, completions):
    return [float(len(text)) for text in completions]

def picky(prompts, completions):
    return [float(text) for text in completions]

def not_finite(prompts, completions):
    return [float("inf") if text == "bad" else 1.0 for text in completions]

def hangs(prompts, completions):
    if "hang" in completions:
        time.sleep(60)
    return [1.0 for _ in completions]

def dies(prompts, completions):
    if "die" in completions:
        os._exit(3)
    return [1.0 for _ in completions]

def broken_row(prompts, completions, gold):
    return [Verdict(None, "gold_error", "gold is empty") if not g else 1.0 for g in gold]

@reward("rank_in_group", scope="group")
def rank_in_group(prompts, completions):
    assert len(set(prompts)) == 1, prompts
    return [float(sorted(completions).index(text)) for text in completions]

def size_of_call(completions):
    return [float(len(completions))] * len(completions)

def cheaper(completions, parts, of):
    return [None if part[of] is None else -part[of] / 2 for part in parts]

def optional(completions, factor=2.0, extra=None):
    return [factor + (more or 0.0) for more in extra]

def rich(completions):
    return [{"score": 1.0, "status": "ok", "detail": "fine", "metrics": {"words": len(text.split())}}
            for text in completions]

def rich_without_metrics(completions):
    return [{"score": 1.0, "metrics": None}]

def rich_without_score(completions):
    return [{"points": 1.0}]
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "own.py"
    path.write_text(REWARDS)
    return path


def samples(*completions, **columns):
    rows = range(len(completions))
    return [Sample(f"p{row // 2}", completions[row], None, {k: v[row] for k, v in columns.items()}, group=row // 2)
            for row in rows]  # fmt: skip


def verdicts(own, function, completions, columns=None, **settings):
    with contextlib.closing(RewardMixture([RewardTerm(fn=f"{own}:{function}", name="r", **settings)])) as mixture:
        scored = mixture.score(samples(*completions, **(columns or {})))
    return [one.verdicts["r"] for one in scored]


def test_when_chooses_rows_by_their_columns(own):
    terms = [
        RewardTerm(fn=f"{own}:length", name="math", when={"task": "math"}),
        RewardTerm(fn=f"{own}:length", name="other", weight=10, when={"task": ["code", "chat"], "easy": True}),
    ]
    rows = samples("a", "bb", "ccc", "dddd", task=["math", "code", "chat", "law"], easy=[True, True, False, True])
    with contextlib.closing(RewardMixture(terms)) as mixture:
        scored = mixture.score(rows)
    assert [one.total for one in scored] == [1.0, 20.0, None, None]
    assert scored[1].status == {"math": "masked", "other": "ok"}


def test_rows_that_a_reward_does_not_apply_to_never_reach_it(own):
    found = verdicts(own, "size_of_call", ["a", "b", "c"], {"task": ["x", "y", "x"]}, when={"task": "x"})
    assert [verdict.score for verdict in found] == [2.0, None, 2.0]


def test_a_group_reward_sees_exactly_one_group_a_call(own):
    found = verdicts(own, "rank_in_group", ["b", "a", "c", "d"], scope="group")
    assert [verdict.score for verdict in found] == [1.0, 0.0, 0.0, 1.0]
    with pytest.raises(RewardError, match=r"'r': its decorator says scope; .* must say it too: scope: group"):
        verdicts(own, "rank_in_group", ["a"])


def test_a_reward_can_build_on_what_other_terms_said(own):
    terms = [
        RewardTerm(fn=f"{own}:cheaper", kwargs={"of": "length"}, shaping=True),
        RewardTerm(fn=f"{own}:length"),
    ]
    with contextlib.closing(RewardMixture(terms)) as mixture:
        scored = mixture.score(samples("aa", "aaaa"))
    assert [(one.total, one.unshaped) for one in scored] == [(1.0, 2.0), (2.0, 4.0)]
    assert list(scored[0].verdicts) == ["cheaper", "length"]


@pytest.mark.parametrize(
    ("function", "bad", "status", "detail"),
    [
        ("picky", "bad", "infra_error", "could not convert string to float"),
        ("not_finite", "bad", "infra_error", "returned inf"),
        ("hangs", "hang", "timeout", "no reply within 0.5 s"),
        ("dies", "die", "infra_error", "exit code 3"),
    ],
)
def test_with_on_error_mask_only_the_completions_that_fail_are_masked(own, function, bad, status, detail):
    found = verdicts(own, function, ["1", bad, "1"], on_error="mask", timeout_s=0.5)
    assert [verdict.score for verdict in found] == [1.0, None, 1.0]
    assert found[1].status == status
    assert detail in found[1].detail


@pytest.mark.parametrize(("attacks", "score"), [((), None), (("empty",), 0.0)])
def test_one_late_completion_stops_no_run_and_is_masked_or_scored_0_by_a_verifier(own, attacks, score):
    found = verdicts(own, "hangs", ["a", "hang", "b"], timeout_s=0.4, attacks=attacks)
    assert [verdict.score for verdict in found] == [1.0, score, 1.0]
    assert [verdict.status for verdict in found] == ["ok", "timeout", "ok"]


def test_late_calls_in_a_row_are_the_rewards_own_fault(own):
    with contextlib.closing(RewardMixture([RewardTerm(fn=f"{own}:hangs", name="r", timeout_s=0.2)])) as mixture:
        assert mixture.score(samples("hang"))[0].status == {"r": "timeout"}
        assert mixture.score(samples("fine"))[0].total == 1.0  # which ends the row
        mixture.score(samples("hang"))
        mixture.score(samples("hang"))
        with pytest.raises(RewardError, match=r"'r' did not return within timeout_s=0\.2"):
            mixture.score(samples("hang"))


def test_a_data_column_does_not_fill_an_option(own):
    found = verdicts(own, "optional", ["a", "b"], {"factor": [3.0, 4.0], "extra": [1.0, None]})
    assert [verdict.score for verdict in found] == [3.0, 2.0]  # factor is the default 2, extra is the column


def test_masking_gives_up_on_a_batch_when_call_after_call_is_late(own):
    found = verdicts(own, "hangs", ["hang"] * 20, on_error="mask", timeout_s=0.2)
    assert {verdict.status for verdict in found[:3]} == {"timeout"}
    assert [verdict.score for verdict in found] == [None] * 20
    assert {verdict.detail for verdict in found[3:]} == {"not tried: 3 calls of this batch were late"}


def test_a_broken_data_row_stops_the_run_or_is_masked_and_counted(own):
    columns = {"gold": ["4", ""]}
    with pytest.raises(RewardError, match=r"'r' on row 1 \(prompt 'p0'\): gold is empty; mend the row, or leave"):
        verdicts(own, "broken_row", ["4", "4"], columns)
    found = verdicts(own, "broken_row", ["4", "4"], columns, on_error="mask")
    assert [(verdict.score, verdict.status) for verdict in found] == [(1.0, "ok"), (None, "gold_error")]


def test_a_missing_column_stops_the_run_even_where_errors_are_masked(own):
    with pytest.raises(RewardError, match="'r': needs 'gold'; the data has the columns: none"):
        verdicts(own, "broken_row", ["4"], on_error="mask")


def test_a_rich_result_carries_status_detail_and_metrics(own):
    (verdict,) = verdicts(own, "rich", ["two words"])
    assert (verdict.score, verdict.status, verdict.detail, verdict.metrics) == (1.0, "ok", "fine", {"words": 2.0})
    assert verdict.ms is not None
    assert 0 < verdict.ms < 60_000
    with pytest.raises(RewardError, match=r"on row 0 .*returned metrics None; metrics are numbers by name"):
        verdicts(own, "rich_without_metrics", ["a"])
    with pytest.raises(RewardError, match="a rich result has `score`, and may have score, status, detail, metrics"):
        verdicts(own, "rich_without_score", ["a"])


def test_a_completion_with_masks_left_reaches_no_reward(own):
    with contextlib.closing(RewardMixture([RewardTerm(fn=f"{own}:length", name="r")])) as mixture:
        unfinished, whole = mixture.score([Sample("p", "half", unfinished=True), Sample("p", "abc")])
    assert (unfinished.total, unfinished.status) == (None, {"r": "infra_error"})
    assert whole.total == 3.0


def test_gates_have_no_weight():
    with pytest.raises(ValueError, match="'r' is a gate: it multiplies, so weight and shaping have no effect"):
        RewardTerm(fn="m:f", name="r", gate=True, weight=0.5)
    with pytest.raises(RewardError, match="that is not a gate"):
        RewardMixture([RewardTerm(fn="boxed_format", gate=True)])


def test_an_installed_package_offers_rewards_by_entry_points(tmp_path, monkeypatch):
    (tmp_path / "polite.py").write_text(
        "from redraft.rewards import reward\n"
        "@reward('polite_inside', isolation='inline')\n"
        "def polite(completions):\n    return [float('please' in text) for text in completions]\n"
    )
    info = tmp_path / "polite-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: polite\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[redraft.rewards]\npolite = polite:polite\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "polite" in names()
    term = RewardTerm(fn="polite")
    assert (term.name, term.isolation) == ("polite", "inline")  # as its decorator says
    for isolation in ("inline", "process"):
        with contextlib.closing(RewardMixture([RewardTerm(fn="polite", isolation=isolation)])) as mixture:
            assert [one.total for one in mixture.score(samples("please", "now"))] == [1.0, 0.0]
    with pytest.raises(RewardError, match=r"did you mean 'polite'\?"):
        resolve("polit")
    sys.modules.pop("polite")
