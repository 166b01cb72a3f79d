"""How ``code_tests`` runs candidates: the ``kwargs`` that a recipe may give it, and the workers that they ask for."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from redraft.rewards.processes.pool import WorkerPool, usable_cores
from redraft.rewards.result import RewardError

SANDBOXES = ("auto", "bubblewrap", "landlock", "unsafe", "http")


@dataclass(frozen=True, kw_only=True)
class CodeOptions:
    """The options of ``code_tests``.

    Attributes:
        sandbox: ``auto``, ``bubblewrap``, ``landlock``, ``unsafe`` (none at all) or ``http`` (a SandboxFusion server).
        allow_unsafe: Consent to ``unsafe``.
        timeout_s: CPU seconds of the candidate, for every program where the tests are stdio; rounded up.
        memory_mb: Address space of the candidate.
        num_workers: Checkers of this process; None for one per available core, at most 4.
        partial: Score the fraction of tests that pass; False: all must pass.
        tolerance: Of floats in call and stdio tests, relative and absolute; None for none.
        sandbox_fusion_url: The server of ``http``, which runs call and stdio tests.
        packages: Installed packages that candidates and tests may import, ``[numpy]``.

    Raises:
        RewardError: Two options contradict each other, or one has a value that makes no sense.
    """

    sandbox: str = "auto"
    allow_unsafe: bool = False
    timeout_s: float = 5.0
    memory_mb: int = 512
    num_workers: int | None = None
    partial: bool = False
    tolerance: float | None = None
    sandbox_fusion_url: str | None = None
    packages: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.sandbox not in SANDBOXES:
            raise RewardError(f"sandbox={self.sandbox!r}; valid: {', '.join(SANDBOXES)}")
        if (self.sandbox == "http") != (self.sandbox_fusion_url is not None):
            raise RewardError("sandbox: http and sandbox_fusion_url belong together; give both or neither")
        if isinstance(self.packages, str) or not all(isinstance(name, str) for name in self.packages):
            raise RewardError(f"packages={self.packages!r} must be a list of names, [numpy]")
        if self.packages and self.sandbox == "http":
            raise RewardError("packages and sandbox: http exclude each other; install packages on the server")
        if self.tolerance is not None and not (0 <= self.tolerance < math.inf):
            raise RewardError(f"tolerance must be a number of at least 0, got {self.tolerance}")
        for name in ("timeout_s", "memory_mb", "num_workers"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise RewardError(f"{name} must be positive, got {value}")

    @property
    def cpu_s(self) -> int:
        """`timeout_s` in whole seconds, which is what the kernel counts."""
        return math.ceil(self.timeout_s)

    def pool(self) -> WorkerPool:
        """Return the workers with these sandboxes. All callers of this process share them; they end with it."""
        packages = tuple(sorted(self.packages))
        workers = self.num_workers or usable_cores()
        return _pool(self.sandbox, self.allow_unsafe, self.sandbox_fusion_url, packages, workers)


@functools.cache
def _pool(sandbox: str, allow_unsafe: bool, url: str | None, packages: tuple[str, ...], num_workers: int) -> WorkerPool:
    return WorkerPool(
        num_workers, "redraft.rewards.library.code.checker:prepare_checker", (sandbox, allow_unsafe, url, packages)
    )
