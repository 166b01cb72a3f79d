"""`redraft reward`: list the rewards, score a file, and try whether a reward can be gamed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redraft.rl.cli.paths import home_path
from redraft.rl.cli.train import Overrides

if TYPE_CHECKING:
    from redraft.rewards.scoring.trial import Check
    from redraft.rewards.term import RewardTerm

app = typer.Typer(name="reward", help="List, run and test rewards.", no_args_is_help=True, rich_markup_mode=None)

Kwargs = Annotated[str, typer.Option(help="JSON object of the function's arguments.")]
Data = Annotated[
    Path,
    typer.Option(parser=home_path, metavar="FILE", help="JSONL file; a row has `prompt` and what the reward reads."),
]


@app.callback()
def reward() -> None:
    """List, run and test rewards."""


@app.command(name="list")
def list_rewards() -> None:
    """List the rewards that a recipe can name: ours, and those of installed packages."""
    import inspect

    from redraft.rewards.result import RewardError
    from redraft.rewards.reward import names, registered
    from redraft.rewards.scoring.call import BATCH_ARGUMENTS, parameters_of
    from redraft.rl.monitor.display import text_table

    body = []
    for name in names():
        try:
            found = registered(name)
        except RewardError as error:
            body.append((name, f"cannot be imported: {error}", "", ""))
            continue
        parameters = parameters_of(found.function)
        own = [p for p in parameters if p.name not in BATCH_ARGUMENTS and p.kind is not p.VAR_KEYWORD]
        arguments = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in own)
        about = (inspect.getdoc(found.function) or "").partition("\n")[0]
        marks = [found.declared.isolation, *(["verifier"] if found.declared.attacks else [])]
        marks += ["shaping"] if found.declared.shaping else []
        body.append((name, about, arguments, ", ".join(marks)))
    text_table("", ("name", "what it scores", "columns and kwargs", "kind"), body, left=4)
    typer.echo("a function of your own is pkg.module:function or path/file.py:function; see docs/rewards.md")


@app.command()
def score(
    fn: Annotated[str, typer.Option(help="Name, pkg.module:function or path/file.py:function.")],
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            parser=home_path,
            metavar="FILE",
            help="JSONL file to write: the rows with score, status, detail and ms.",
        ),
    ],
    kwargs: Kwargs = "{}",
    timeout_s: Annotated[float | None, typer.Option(help="Seconds of one call, for rewards in a process.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of one call.")] = 64,
) -> None:
    """Score the `completion` of every row of a file; a row that cannot be scored gets null and a reason."""
    import contextlib
    import json

    from redraft.rewards.scoring.configured import ConfiguredReward
    from redraft.rl.cli.scoring import failures, read_lines, score_lines
    from redraft.rl.files import check_output_file, is_stdout, output_file
    from redraft.rl.monitor.display import progress

    check_output_file(out)
    term = _term(fn, kwargs, timeout_s)
    lines = read_lines(data)
    with contextlib.closing(ConfiguredReward(term)) as configured, progress("scored") as advance:
        score_lines(configured, lines, batch_size, advance)
    with output_file(out) as file:
        file.writelines(json.dumps(line.as_row()) + "\n" for line in lines)
    if not is_stdout(out):  # the table must not stand among the rows
        _summary(term.name, [line.verdict for line in lines])
        typer.echo(f"{len(lines)} rows written to {out}")
    for reason in failures(lines):
        typer.echo(reason, err=True)


@app.command(name="test")
def try_rewards(
    what: Annotated[str, typer.Argument(metavar="RECIPE_OR_NAME", help="A recipe, or a reward as in --fn.")],
    overrides: Overrides = None,
    data: Annotated[
        Path | None,
        typer.Option(parser=home_path, metavar="FILE", help="JSONL file of rows; default: the recipe's training rows."),
    ] = None,
    kwargs: Kwargs = "{}",
    rows: Annotated[int, typer.Option(min=1, help="Rows to try: a sample.")] = 100,
) -> None:
    """Try a verifier: right answers must score 1; empty, list-everything, sys.exit and always-equal answers 0."""
    from redraft.rewards.reward import ATTACKS
    from redraft.rewards.scoring.trial import try_reward
    from redraft.rl.config.places import built_in_recipe
    from redraft.rl.config.recipe import load_words
    from redraft.rl.data.load import load_rows, sample_rows

    if what.endswith((".yaml", ".yml")) or built_in_recipe(what):
        config = load_words([what, *(overrides or [])])
        found = [row for _, row in _rows(data)] if data else load_rows(config.data, config.seed)
        terms = [term for term in config.rewards if term.attacks]
        if not terms:
            raise ValueError(
                f"{what}: no reward is a verifier; give the one that should be `attacks: [{', '.join(ATTACKS)}]`, or"
                " test a function by its name"
            )
    else:
        if data is None:
            raise ValueError("--data FILE.jsonl is needed to test a reward by its name")
        found, term = [row for _, row in _rows(data)], _term(what, kwargs, None)
        terms = [term if term.attacks else term.model_copy(update={"attacks": tuple(ATTACKS)})]
    sample = sample_rows(found, rows, 0)
    failed = sum([_show(term, try_reward(term, sample), sample) for term in terms])
    if failed:
        raise typer.Exit(1)


def _show(term: "RewardTerm", checks: "list[Check]", rows: list[dict[str, Any]]) -> int:
    """Print the outcome of one reward's trial as tables; return how many checks failed."""
    from redraft.rewards.scoring.trial import GOLD_COLUMNS
    from redraft.rl.monitor.display import text_table

    kinds = dict.fromkeys(check.kind for check in checks)
    by_kind = {kind: [check for check in checks if check.kind == kind] for kind in kinds}
    body = [
        (kind, "1" if kind == "gold" else "0", str(len(made)), str(sum(not check.passed for check in made)))
        for kind, made in by_kind.items()
    ]
    text_table(f"{term.name}: {len(rows)} rows", ("answer", "must score", "tried", "failed"), body)
    failed = [check for check in checks if not check.passed]
    shown = [
        (
            str(check.row),
            check.kind,
            "none" if check.verdict.score is None else f"{check.verdict.score:g}",
            str(check.verdict.status),
            check.verdict.detail[:60],
            str(rows[check.row].get("prompt"))[:40],
        )
        for check in failed[:20]
    ]
    if shown:
        text_table("failed", ("row", "answer", "score", "status", "detail", "prompt"), shown, left=6)
    if not by_kind.get("gold"):
        typer.echo(f"no row holds a known right answer: there is no {', '.join(GOLD_COLUMNS)}")
    return len(failed)


def _summary(name: str, verdicts: list[Any]) -> None:
    from collections import Counter
    from statistics import fmean, median

    from redraft.rl.monitor.display import text_table

    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    times = sorted(verdict.ms for verdict in verdicts if verdict.ms is not None)
    body = [("mean score", f"{fmean(scores):.4g}" if scores else "none"), ("scored", f"{len(scores)}/{len(verdicts)}")]
    body += [(status, str(count)) for status, count in Counter(str(v.status) for v in verdicts).most_common()]
    if times:
        late = times[min(len(times) - 1, round(0.95 * len(times)))]
        body.append(("ms p50 / p95 / max", f"{median(times):.1f} / {late:.1f} / {times[-1]:.1f}"))
    text_table("", (name, "value"), body)


def _term(fn: str, kwargs: str, timeout_s: float | None) -> "RewardTerm":
    import json

    from pydantic import ValidationError

    from redraft.rewards.term import RewardTerm
    from redraft.words import problem_lines

    try:
        parsed = json.loads(kwargs, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"--kwargs {kwargs!r} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"--kwargs must be a JSON object, got {kwargs!r}")
    settings = {} if timeout_s is None else {"timeout_s": timeout_s}
    try:
        return RewardTerm.model_validate({"fn": fn, "kwargs": parsed, "on_error": "mask", **settings})
    except ValidationError as error:
        raise ValueError("; ".join(problem_lines(error))) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"--kwargs: the key {twice!r} is written twice")
    return dict(pairs)


def _rows(data: Path) -> list[tuple[int, dict[str, Any]]]:
    from redraft.rl.data.files import read_jsonl

    rows = read_jsonl(data)
    if not rows:
        raise ValueError(f"{data}: no rows")
    return rows
