"""Settle which commit of the hub a run begins with, before anything else starts; a resumed run keeps its commit."""

from pathlib import Path

from redraft.rl.config.schema import RunConfig
from redraft.rl.models.hub import check_room, find_first, is_hub_name
from redraft.rl.run_folder.checkpoint import warm_start_policy
from redraft.rl.run_folder.files import ORIGIN, Origin, read_json


def settle_first_policy(config: RunConfig, resume: bool) -> tuple[RunConfig, Origin | None]:
    """Write into `model.revision` the commit that it means, and fetch config and tokenizer of that commit.

    A run that goes on, or that has made its warm start, keeps the commit of its folder as long as the recipe names
    the same path and revision: the main branch may have moved since.

    Args:
        config: The recipe.
        resume: Whether the run goes on.

    Returns:
        The recipe, and what to keep in the run folder; without a name on the hub, the recipe as it is, and None.

    Raises:
        FileNotFoundError: The hub has no such model or revision.
        HubError: The hub does not answer or refuses, or the disk has no room for the weights.
    """
    path, revision, run = config.model.path, config.model.revision, Path(config.output_dir)
    if path is None or not is_hub_name(path):
        return config, None
    goes_on = resume or warm_start_policy(run).is_dir()
    kept = _kept(run) if goes_on else None
    is_same = kept is not None and (kept["path"], kept["revision"]) == (path, revision)
    commit = find_first(path, kept["commit"] if kept and is_same else revision).commit
    assert commit is not None
    check_room(path, commit)
    settled = config.model.model_copy(update={"revision": commit})
    return config.model_copy(update={"model": settled}), Origin(path=path, revision=revision, commit=commit)


def _kept(run: Path) -> Origin | None:
    file = run / ORIGIN
    return read_json(file, "delete it to look the model up anew") if file.is_file() else None
