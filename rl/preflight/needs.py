"""What a recipe needs, by the checks that a run makes before step 0: their errors become diagnoses."""

from collections.abc import Callable, Iterator

from redraft.rl.config.schema import RunConfig
from redraft.rl.preflight.installed import Diagnosis, one_line


def find_needs(config: RunConfig) -> Iterator[Diagnosis]:
    """Make the checks of a run that need no rows: machine, first policy, imports of rewards."""
    policy = "its folder can be read" if config.model.path else "the warm start makes it"
    yield _checked("recipe: machine", lambda: _machine(config), "packages, GPUs and cluster are there")
    yield _checked("recipe: policy", lambda: _policy(config), policy)
    yield _checked("recipe: rewards", lambda: _rewards(config), "all of them can be imported")


def _checked(name: str, check: Callable[[], object], fine: str) -> Diagnosis:
    """Make a check; its error says what is wrong, and behind a semicolon what to do."""
    try:
        check()
    except Exception as error:  # noqa: BLE001 - the boundary: a check may meet anything, and a run would end with it
        found, _, remedy = one_line(error).partition("; ")
        return Diagnosis(name, "missing", found, remedy or "change the recipe, or the machine")
    return Diagnosis(name, "ok", fine)


# Imported in the functions: a check whose own imports fail is a diagnosis too.
def _machine(config: RunConfig) -> None:
    from redraft.rl.preflight.checks import check_machine

    check_machine(config)


def _policy(config: RunConfig) -> None:
    from redraft.rl.data.reading import Reader
    from redraft.rl.stages.warm_start import policy_folder

    Reader.of_first(config, policy_folder(config))


def _rewards(config: RunConfig) -> None:
    from redraft.rl.preflight.verifiers import start_rewards

    start_rewards(config.rewards)
