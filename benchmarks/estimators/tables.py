"""What `python -m benchmarks estimators` prints: its tables, and whether the targets of the design hold."""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.common.report import Section, Target, target_section
from benchmarks.estimators.angles import EDITING, mean_and_error
from benchmarks.estimators.variance import BERNOULLI, BEST, BUDGETS, IID, SMALLEST_LEVEL

Record = Mapping[str, Any]


def targets(record: Record) -> list[Target]:
    """The promises of design/ALGORITHMS.md, as measured."""
    variance, ratios = record["variance"], record["log_ratio"]
    best, iid, bernoulli = (_at(variance[scheme.name], 4)["gradient"] for scheme in (BEST, IID, BERNOULLI))
    editing = record["budgets"][EDITING.name]
    biased = max(
        abs(row["exact"]) for name, row in record["bias"].items() if row["exact"] is not None and _unbiased(name)
    )
    vrbpo, _ = mean_and_error(editing["vrbpo"]["cosine"])
    shared = max(one["shared"] / one["unshared"] for one in ratios.values())
    return [
        Target("largest exact bias of an unbiased masking scheme (nats)", biased, 1e-9, True),
        Target("gradient variance, best masking scheme / iid exact count, 4 forwards", best / iid, 0.60, True),
        Target("gradient variance, best masking scheme / Bernoulli 1/t, 4 forwards", best / bernoulli, 0.30, True),
        Target("log-ratio variance, shared / unshared draws", shared, 1 / 300, True),
        Target(f"cosine, vrbpo, {EDITING.name}, 1024 rollouts, 2 forwards", vrbpo, 0.90, False),
    ]


def sections(record: Record) -> list[Section]:
    """All tables."""
    return [
        target_section(targets(record), "From design/ALGORITHMS.md and issue 3."),
        _bias(record),
        _variance(record),
        _log_ratio(record),
        _decoding(record),
        _surrogates(record),
        *[_budgets(mode, rows) for mode, rows in record["budgets"].items()],
    ]


BIASED: Final = "Gauss"


def _unbiased(name: str) -> bool:
    return not name.startswith(BIASED)


def _bias(record: Record) -> Section:
    rows = [
        [
            name,
            "-" if row["exact"] is None else f"{row['exact']:+.1e}",
            f"{row['measured']:+.3f} ± {row['error']:.3f}",
            f"{row['gradient']:.3f} (noise {row['gradient_floor']:.3f})",
        ]
        for name, row in record["bias"].items()
    ]
    note = (
        "Mean of the estimate minus the exact ELBO of a block of 5 tokens, at 2 forwards: summed over all masks under"
        " the scheme's own weights (exact), and over draws. Gradient: norm of its bias relative to the ELBO's gradient."
    )
    return Section("Bias", note, ["estimator", "exact (nats)", "drawn (nats)", "gradient"], rows)


def _variance(record: Record) -> Section:
    base, rows = record["variance"][IID.name], []
    for name, by in record["variance"].items():
        cells = []
        for n in BUDGETS:
            one, unit = _find(by, n), _at(base, n)["gradient"]
            cells.append("-" if one is None else f"{one['gradient'] / unit:.2f} ± {one['gradient_error'] / unit:.2f}")
        spread = _at(by, 4)["value"] ** 0.5
        rows.append([name, *cells, f"{spread:.2f}"])
    note = (
        "Variance over draws of the gradient by all weights of one completion's ELBO (one block of 32 tokens), relative"
        " to iid exact counts at equal forwards, and the standard deviation of the ELBO estimate. Independent views are"
        " measured one by one: n of them have exactly 1 / n of the variance. Gauss nodes are biased. Bernoulli 1/t is"
        f" for t in [{SMALLEST_LEVEL}, 1), from the same draws as iid exact counts: on (0, 1) its variance is infinite."
    )
    return Section(
        "Gradient variance", note, ["masking scheme", *(f"n = {n}" for n in BUDGETS), "sd of value, n = 4 (nats)"], rows
    )


def _log_ratio(record: Record) -> Section:
    rows = [
        [
            name,
            f"{one['mean']:.3f}",
            f"{one['shared']:.2e}",
            f"{one['unshared']:.2e}",
            f"1/{one['unshared'] / one['shared']:.0f}",
        ]
        for name, one in record["log_ratio"].items()
    ]
    note = "Log-ratio of two policies one AdamW step apart, 4 forwards each, with the same draws or each its own."
    return Section(
        "Shared draws", note, ["masking scheme", "mean (nats)", "shared variance", "unshared", "ratio"], rows
    )


def _decoding(record: Record) -> Section:
    rows = [
        [mode, *(_pair(found[name]) for name in ("reward", "forwards", "edits"))]
        for mode, found in record["decoding"].items()
    ]
    note = (
        f"{record['effort']['policies']} policies that write running sums modulo 3 in one block of 5 tokens,"
        f" {record['effort']['prompts']} prompts each; means over policies ± standard error, exact for each policy."
    )
    columns = ["decoder mode", "reward", "forwards", "redrawn visible tokens"]
    return Section("What the angles were measured on", note, columns, rows)


def _surrogates(record: Record) -> Section:
    modes, names = list(record["surrogates"]), []
    for by in record["surrogates"].values():
        names += [name for name in by if name not in names]
    rows = []
    for name in sorted(names, key=lambda name: not name.startswith("trajectory")):
        found = [record["surrogates"][mode].get(name) for mode in modes]
        rows.append([name, *("-" if one is None else _pair(one) for one in found)])
    rollouts = record["effort"]["surrogate_rollouts"]
    note = (
        "Cosine with the true policy gradient, from the dynamic programme over all states, of each surrogate's gradient"
        f" in the limit: exact over all final blocks and masks; trajectories from {rollouts} rollouts of each"
        " policy (so a little below their limit); coupled masks over 20 draws per block."
        " Mean over policies ± standard error."
    )
    return Section("Angle of the surrogates", note, ["surrogate", *modes], rows)


def _budgets(mode: str, rows: Mapping[str, Any]) -> Section:
    ordered = sorted(rows.items(), key=lambda item: -mean_and_error(item[1]["cosine"])[0])
    cells = [[name, f"{mean_and_error(one['forwards'])[0]:.1f}", _pair(one["cosine"])] for name, one in ordered]
    note = (
        "Cosine with the true policy gradient of each estimator's gradient on the same 1024 rollouts (advantages r -"
        " mean in groups of 8, ratios 1), and the forwards that scored something, per completion."
        " Mean over lots of rollouts and policies ± standard error."
    )
    return Section(f"Angle after 1024 rollouts: {mode}", note, ["estimator", "forwards", "cosine"], cells)


def _pair(values: list[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.3f} ± {error:.3f}"


def _at(by: Mapping[Any, Any], forwards: int) -> Mapping[str, float]:
    found = _find(by, forwards)
    assert found is not None, f"no measurement at {forwards} forwards"
    return found


def _find(by: Mapping[Any, Any], forwards: int) -> Mapping[str, float] | None:
    """A record read back from JSON has text for keys."""
    return by.get(forwards, by.get(str(forwards)))
