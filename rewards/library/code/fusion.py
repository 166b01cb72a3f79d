"""Programs on a server that speaks SandboxFusion's HTTP interface: ``POST {url}/run_code``.

Only what a program prints is taken from the server. The verdict is made here, because a program can choose its exit
code and can print a line that says "passed".
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from redraft.rewards.library.code.programs import MAX_OUTPUT_BYTES, Output, ProgramRunner
from redraft.rewards.library.code.session import (
    RUNNER_SOURCE,
    BreachError,
    StopTestsError,
    UncheckableError,
    read_reply,
)
from redraft.rewards.library.code.wire import WireError, dumps
from redraft.rewards.result import RewardError
from redraft.rewards.sandbox.program import ProgramLimits

_GRACE_S = 10.0  # for the server's own queue and start-up
_MAX_REPLY_BYTES = 4 * MAX_OUTPUT_BYTES
_FLOOD = object()  # stands for a reply that is too long, by which a program must not escape its score of 0


class FusionError(RewardError):
    """The server is down, or does not speak the interface."""


class FusionPrograms:
    """Runs programs on a SandboxFusion server. Its limit is of wall time, because the server counts no other.

    Args:
        url: Address of the server, ``http://host:8080``.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise RewardError(f"sandbox: http needs sandbox_fusion_url, 'http://host:port', got {url!r}")
        self._url = f"{url.rstrip('/')}/run_code"

    def run(self, sources: list[str], stdin: str, limits: ProgramLimits, wall_s: float) -> Output:
        """See `ProgramRunner`.

        Raises:
            FusionError: There is no reply, or one that does not say what the program did.
        """
        request = {
            "code": sources[0] if len(sources) == 1 else _joined(sources),
            "language": "python",
            "stdin": stdin,
            "run_timeout": wall_s,
            "memory_limit_MB": limits.memory_mb,
        }
        return _output(self._post(request, wall_s + _GRACE_S))

    def _post(self, body: dict[str, Any], timeout_s: float) -> Any:
        request = urllib.request.Request(
            self._url, json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                text = response.read(_MAX_REPLY_BYTES)
                return _FLOOD if len(text) == _MAX_REPLY_BYTES else json.loads(text)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise FusionError(f"{self._url}: {type(error).__name__}: {error}") from error


def _joined(sources: list[str]) -> str:
    return (
        f"for source in {sources!r}:\n    exec(compile(source, '<candidate>', 'exec', dont_inherit=True), globals())\n"
    )


def _output(reply: Any) -> Output:
    if reply is _FLOOD:
        return Output("", f"printed more than {MAX_OUTPUT_BYTES} bytes")
    result = reply.get("run_result") if isinstance(reply, dict) else None
    status = result.get("status") if isinstance(result, dict) else None
    if reply is None or result is None or reply.get("status") == "SandboxError":
        said = reply.get("message") if isinstance(reply, dict) else reply
        raise FusionError(f"the server ran nothing: {said!r:.200}")
    stdout = result.get("stdout") or ""
    if status == "TimeLimitExceeded":
        return Output(str(stdout), "no end within the server's time limit", timed_out=True)
    if status != "Finished" or not isinstance(stdout, str) or not isinstance(result.get("return_code"), int):
        raise FusionError(f"the server's reply is malformed: {result!r:.200}")
    if len(stdout) > MAX_OUTPUT_BYTES:
        return Output("", f"printed more than {MAX_OUTPUT_BYTES} bytes")
    code = result["return_code"]
    return Output(stdout, f"exit code {code}" if code else "")


class RecordedCalls:
    """Answers calls, in the order they were foreseen, with what one program printed for them (see `Caller`).

    Args:
        programs: Where to run it.
        sources: The candidate.
        name: The function to call.
        arguments: Positional and named arguments of the calls to come.
    """

    def __init__(
        self,
        programs: ProgramRunner,
        sources: list[str],
        name: str,
        arguments: Sequence[tuple[Sequence[Any], Mapping[str, Any]]],
    ) -> None:
        self.calls = 0
        self.stopped: StopTestsError | None = None
        self._programs, self._sources = programs, sources
        try:
            self._requests = [dumps(("call", name, list(args), dict(kwargs))) for args, kwargs in arguments]
        except WireError as error:
            raise UncheckableError(f"the tests hand over a value that cannot cross: {error}") from None
        self._lines: list[str] = []
        self._failure = ""

    def record(self, limits: ProgramLimits, wall_s: float) -> None:
        """Run the program that makes all calls.

        Raises:
            FusionError: See `FusionPrograms.run`.
            BreachError: It ran out of time.
        """
        driver = f"{RUNNER_SOURCE}\nrun_calls({self._sources!r}, {self._requests!r})\n"
        output = self._programs.run([driver], "", limits, wall_s)
        if output.timed_out:
            raise BreachError(output.failure, timed_out=True)
        self._lines, self._failure = output.stdout.splitlines(), output.failure

    def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """See `Caller`; the arguments are those foreseen, in their order."""
        loaded, *answers = self._lines or [""]
        for line in (loaded, answers[self.calls] if self.calls < len(answers) else ""):
            if not line:
                self.stopped = BreachError(f"the program printed no answer ({self._failure or 'exit code 0'})")
                raise self.stopped
            value, _ = read_reply(line.encode("utf-8", "replace"))
        self.calls += 1
        return value
