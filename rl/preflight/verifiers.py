"""Check that rewards can be called on the rows, and that verifiers tell right answers from cheap ones."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from redraft.rewards.result import RewardError
from redraft.rewards.reward import registered
from redraft.rewards.scoring.call import BATCH_ARGUMENTS, PARTS, Signature
from redraft.rewards.scoring.configured import ConfiguredReward
from redraft.rewards.scoring.mixture import RewardMixture, Sample, as_batch
from redraft.rewards.scoring.runner import InlineRunner, ProcessRunner, RaisedError
from redraft.rewards.scoring.trial import Check, try_reward
from redraft.rewards.term import RewardTerm
from redraft.rl.config.sections import RewardTestConfig
from redraft.rl.data.codec import TEXT_COLUMNS
from redraft.rl.data.load import sample_rows
from redraft.rl.data.rows import Row, place_of

_SHOWN = 3
_OURS = "redraft.rewards."
_PATIENCE_S = 60.0


def check_calls(terms: Sequence[RewardTerm], rows_of: Mapping[str, Sequence[Row]]) -> None:
    """Import every reward, and refuse settings that it does not take and rows that lack a column that it needs.

    Args:
        terms: The recipe's rewards.
        rows_of: Rows that will be scored, by what errors call them.

    Raises:
        RewardError: A reward does not import, does not take what the recipe gives it, or needs a column that a row
            lacks; or no row has what its `when` asks for; or the terms do not make a mixture.
    """
    signatures = start_rewards(terms)
    for term, signature in zip(terms, signatures, strict=True):
        for source, rows in rows_of.items():
            _check_columns(term, signature, source, rows)
        columns = {name for rows in rows_of.values() for row in rows if term.applies(row) for name in row}
        _try_settings(term, signature, columns - TEXT_COLUMNS)


def start_rewards(terms: Sequence[RewardTerm]) -> list[Signature]:
    """Import every reward, and return what each of them takes.

    Raises:
        RewardError: A reward does not import, or the terms do not make a mixture.
    """
    signatures = [_signature(term) for term in terms]
    RewardMixture(terms).close()
    return signatures


def _signature(term: RewardTerm) -> Signature:
    try:
        reward = ConfiguredReward(term)
    except RewardError as error:
        raise RewardError(f"reward {term.name!r}: {error}") from error
    with contextlib.closing(reward):
        return reward.start()


def _check_columns(term: RewardTerm, signature: Signature, source: str, rows: Sequence[Row]) -> None:
    checked: set[frozenset[str]] = set()
    for number, row in enumerate(rows, start=1):
        columns = frozenset(row) - TEXT_COLUMNS
        if columns in checked or not term.applies(row):
            continue
        checked.add(columns)
        place = place_of(row, source, number)
        try:
            batch = as_batch([Sample("", "", (), dict.fromkeys(columns))])
            signature.select({**batch, PARTS: []} if signature.needs_parts else batch, term.kwargs)
        except RewardError as error:
            hint = "; a reward for some of the rows only says which with `when`" if len(rows) > 1 else ""
            raise RewardError(f"{place}: reward {term.name!r}: {error}{hint}") from error


def _try_settings(term: RewardTerm, signature: Signature, columns: Iterable[str]) -> None:
    """Call one of our rewards with an empty batch: what it objects to is wrong in the recipe.

    Our adapters import the user's function in that call. The user's own functions are not called, as they may fail on
    an empty batch.
    """
    if ":" in term.fn or not registered(term.fn).address.startswith(_OURS):
        return
    adapter = "function" in term.kwargs
    # An adapter imports the user's code, so it is tried where the run will call it. Our own rewards are called here.
    in_process = adapter and term.isolation == "process"
    batch = {name: [] for name in (*BATCH_ARGUMENTS, *columns)}
    with contextlib.closing(
        ProcessRunner(term.fn, term.timeout_s or _PATIENCE_S) if in_process else InlineRunner(term.fn)
    ) as runner:
        runner.start()
        try:
            runner.call(signature.select(batch, term.kwargs), 0)
        except RaisedError as error:
            if not adapter:
                raise RewardError(f"reward {term.name!r}: its kwargs cannot be used: {error}") from error
        except RewardError as error:
            raise RewardError(f"reward {term.name!r}: {error}") from error


def check_rewards(
    terms: Sequence[RewardTerm], rows: Sequence[Row], config: RewardTestConfig, seed: int, say: Callable[[str], None]
) -> None:
    """Try every verifier of a recipe on a sample of rows.

    Args:
        terms: The recipe's rewards; a reward is a verifier, and is tried, if it names attacks.
        rows: Training rows.
        config: Size of the sample, and the share of it that must pass.
        seed: Of the sample.
        say: Called with one line per verifier.

    Raises:
        RewardError: A reward applies to no row, or a verifier passes too small a share of right or of cheap answers.
    """
    for term in terms:
        applicable = [row for row in rows if term.applies(row)]
        if not applicable:
            raise RewardError(_nowhere(term, rows, "training rows"))
        if not (term.attacks and config.rows):
            continue
        sample = sample_rows(applicable, config.rows, seed)
        checks = try_reward(term, sample)
        shares = shares_by_kind(checks)
        told = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items()) or "no row to try"
        say(f"reward {term.name!r} on {len({check.row for check in checks})} rows, scored as it should: {told}")
        low = {kind: share for kind, share in shares.items() if share < config.threshold}
        if low:
            raise RewardError(_refusal(term, checks, low, config, sample))


def check_measure(terms: Sequence[RewardTerm], rows: Sequence[Row]) -> None:
    """Refuse an evaluation whose measure, the first reward, applies to no row.

    Raises:
        RewardError: No row has what the reward's `when` asks for.
    """
    if not any(terms[0].applies(row) for row in rows):
        raise RewardError(
            _nowhere(terms[0], rows, "evaluation rows") + "; the first reward is what evaluation measures"
        )


def _nowhere(term: RewardTerm, rows: Sequence[Row], what: str) -> str:
    absent = [name for name in term.when if not any(name in row for row in rows)]
    seen = {name: sorted({str(row[name])[:20] for row in rows if name in row})[:5] for name in term.when}
    found = [f"no row has the column {name!r}" for name in absent]
    found += [f"{name} is {', '.join(values)}" for name, values in seen.items() if values]
    return f"reward {term.name!r} applies to none of {len(rows)} {what}: when: {term.when}, but {'; '.join(found)}"


def shares_by_kind(checks: Sequence[Check]) -> dict[str, float]:
    """Share of passed checks, 0 to 1, for right answers and for each attack."""
    kinds = dict.fromkeys(check.kind for check in checks)
    return {
        kind: sum(check.passed for check in checks if check.kind == kind) / sum(check.kind == kind for check in checks)
        for kind in kinds
    }


def _refusal(
    term: RewardTerm, checks: Sequence[Check], low: dict[str, float], config: RewardTestConfig, sample: Sequence[Row]
) -> str:
    told = "; ".join(f"{kind} {share:.0%}" for kind, share in low.items())
    failed = [check for check in checks if check.kind in low and not check.passed][:_SHOWN]
    lines = [
        f"  {check.kind}: score {check.verdict.score}, {check.verdict.status} {check.verdict.detail[:100]!r}, on the"
        f" row {str(sample[check.row].get('prompt'))[:60]!r}"
        for check in failed
    ]
    return "\n".join(
        [
            f"reward {term.name!r} does not tell right answers (score 1) from cheap ones (score 0): {told} scored as"
            f" they should, at least {config.threshold:.0%} asked; nothing was trained",
            *lines,
            "look closer with: redraft reward test RECIPE; or change reward_test.threshold, or go on without by"
            " reward_test.rows=0",
        ]
    )
