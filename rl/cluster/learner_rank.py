"""One rank of the learner as an actor holds it; `rl.cluster.gang` makes Ray actors of it.

The worker is made by `open` and not by the actor's start, because a rank learns its number only when it is known on
which node every rank lies.
"""

from pathlib import Path
from typing import Any

from redraft.rl.config.schema import RunConfig
from redraft.rl.learner.worker import LearnerWorker
from redraft.rl.parallel.process_group import GangPlace, collective_errors, listen
from redraft.rl.parallel.whereabouts import Whereabouts, stacks
from redraft.rollout.trajectory import SpecialTokens


class LearnerRank:
    """A learner worker that says where it stands while it works."""

    def __init__(self) -> None:
        self.whereabouts = Whereabouts()
        self.is_first = True

    def listen(self, host: str) -> int:
        """Open the store of the process group; return its port."""
        self.store = listen(host)
        return self.store.port

    def open(self, path: str, config: RunConfig, tokens: SpecialTokens, place: GangPlace | None) -> None:
        """Join the other ranks and load this rank's part of the policy."""
        self.whereabouts.enter("starting")
        self.is_first = place is None or place.rank == 0
        with collective_errors():
            self.worker = LearnerWorker(path, config, tokens, config.cluster.learner_threads, place, self.whereabouts)
        self.whereabouts.enter("")

    def leave_mark(self, folder: str, name: str) -> None:
        """Write an empty file, by which another process finds out whether it sees the same folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).touch()

    def call(self, method: str, *arguments: Any) -> tuple[Any, None]:
        """Call a method of the worker.

        Returns:
            Its result, of rank 0 only, and nothing: whoever waits for the second value need not fetch the first.
        """
        result, _ = self.ask(method, *arguments)
        return (result if self.is_first else None), None

    def ask(self, method: str, *arguments: Any) -> tuple[Any, None]:
        """Do as `call`, with the result of every rank: the weight sync needs them all."""
        self.whereabouts.enter(method)
        with collective_errors():
            result = getattr(self.worker, method)(*arguments)
        self.whereabouts.enter("")
        return result, None

    def where(self) -> tuple[str, str]:
        """Say where this rank stands, with the stacks of its threads."""
        return self.whereabouts.describe(), stacks()
