"""How a call to a worker process can fail."""

from redraft.rewards.result import RewardError


class WorkerError(Exception):
    """A call to a worker process did not return a value."""


class WorkerTimeoutError(WorkerError):
    """The call passed its deadline; the worker was killed."""


class WorkerDiedError(WorkerError):
    """The worker ended in the middle of the call, and so did its replacements."""


class WorkerStartError(WorkerError):
    """The worker did not become ready."""


class WorkerClosedError(RewardError):
    """The worker was closed before the call was done.

    This is no `WorkerError`: those may be masked, and the next call is then tried. After a close there is no next call.
    """


class RemoteError(WorkerError):
    """The called function raised inside the worker.

    Attributes:
        type_name: Class name of the exception, ``ValueError``.
        summary: Its last traceback line, ``ValueError: bad row``.
    """

    def __init__(self, type_name: str, summary: str, traceback_text: str) -> None:
        """Keep the pieces; the text shown is the worker's own traceback."""
        super().__init__(f"{summary}\n\n--- in the worker process ---\n{traceback_text}")
        self.type_name = type_name
        self.summary = summary
