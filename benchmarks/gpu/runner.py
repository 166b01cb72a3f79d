"""Runs parts, each in a process of its own with a limit of its own, and writes down what they find after each."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu.findings import Setting, write_whole
from benchmarks.gpu.parts import Part
from benchmarks.gpu.places import CARRIED, HERE, ROOT, carried_fits, commit
from benchmarks.gpu.report import as_markdown, name_of, summary

VERSIONS: Final = ("torch", "triton", "transformers", "numpy", "pydantic", "pydantic_core", "jaxtyping")
TOLD_LINES: Final = 40  # of a part's own output, in the record
QUERY: Final = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]


def gpu_of_machine() -> dict[str, str] | None:
    """Name, driver and memory of the first GPU; None where there is none. Does without torch, which takes seconds."""
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.strip().splitlines()
    if not lines:
        return None
    name, driver, memory = (word.strip() for word in lines[0].split(","))
    return {"name": name, "driver": driver, "memory": memory}


class Run:
    """One run of `check`.

    Args:
        setting: Device and size.
        gpu: See `gpu_of_machine`.
        out: Folder of the record, which is written after every part, and of the parts' own output.
        seconds: For all parts together.
    """

    def __init__(self, setting: Setting, gpu: dict[str, str] | None, out: Path, seconds: float) -> None:
        self.setting, self.out, self._began = setting, out, time.monotonic()
        self._deadline = self._began + seconds
        self._commit = commit()
        self.record: dict[str, Any] = {
            "command": " ".join(["benchmarks/gpu/check", *sys.argv[1:]]),
            "commit": self._commit,
            "device": gpu or {"name": "CPU", "cores": os.cpu_count()},
            "size": setting.size,
            "versions": {"python": sys.version.split()[0], **_versions()},
            "seconds_allowed": seconds,
            "parts": {},
        }

    def all(self, parts: Sequence[Part]) -> int:
        """Run them in order; 0 if every check holds and none was left out."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part never outlives us
        for part in parts:
            self.record["parts"][part.name] = {"title": part.title, "state": "not run yet"}
        write_whole(self.out / f"{self._name}.log", "")
        self._write()
        for part in parts:
            left = self._deadline - time.monotonic()
            if left < min(part.least_s, part.limit_s):
                told = {
                    "state": "skipped",
                    "reason": f"{left:.0f} s were left, and it takes {part.least_s:.0f} or more",
                }
            else:
                told = self._run(part, min(left, part.limit_s))
            self.record["parts"][part.name] |= told
            self.record["seconds"] = round(time.monotonic() - self._began, 1)
            self._write()
        print(summary(self.record), flush=True)
        return int(any(one["state"] != "passed" for one in self.record["parts"].values()))

    def _run(self, part: Part, limit_s: float) -> dict[str, Any]:
        """One process; what it found before it failed or was ended counts."""
        print(f"== {part.name}: {part.title} (at most {limit_s:.0f} s)", flush=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found, log = Path(folder) / "found.json", Path(folder) / "log.txt"
            code = self._process(part, limit_s, found, log)
            output = log.read_text(errors="replace")
            findings = json.loads(found.read_text()) if found.is_file() else {"checks": []}
        with (self.out / f"{self._name}.log").open("a") as file:
            file.write(f"== {part.name}\n{output}\n")
        failed = [check for check in findings["checks"] if not check["holds"]]
        told = {"seconds": round(time.monotonic() - began, 1), **findings}
        if code is None:
            return {**told, "state": "timed out", "reason": f"ended after {limit_s:.0f} s", "output": _tail(output)}
        if code:
            return {**told, "state": "error", "reason": f"exit code {code}", "output": _tail(output)}
        if failed or not findings["checks"]:
            reason = f"{len(failed)} of {len(findings['checks'])} checks do not hold"
            return {**told, "state": "failed", "reason": reason, "output": _tail(output)}
        return {**told, "state": "passed"}

    def _process(self, part: Part, limit_s: float, found: Path, log: Path) -> int | None:
        """The exit code; None: its time was up, and it and all that it started were killed."""
        options = ["--device", self.setting.device, "--size", self.setting.size, "--child", part.name, str(found)]
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "check"), *options],
                stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=self._environment(), start_new_session=True,
            )  # fmt: skip
            try:
                return process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end(process)

    def _environment(self) -> dict[str, str]:
        """Whatever a part starts finds the same code and the same packages."""
        paths = [*([str(CARRIED)] if carried_fits() else []), str(ROOT), os.environ.get("PYTHONPATH", "")]
        changes = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
        if not self.setting.on_gpu:
            changes["CUDA_VISIBLE_DEVICES"] = ""
        return {**os.environ, **changes, "REDRAFT_COMMIT": self._commit}

    @property
    def _name(self) -> str:
        return name_of(self.record)

    def _write(self) -> None:
        write_whole(self.out / f"{self._name}.json", json.dumps(self.record, indent=1) + "\n")
        write_whole(self.out / f"{self._name}.md", as_markdown(self.record))


def _end(process: subprocess.Popen) -> None:
    """Kill the part's whole group: it leads one of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _versions() -> dict[str, str | None]:
    def of(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: of(name) for name in VERSIONS}


def _tail(output: str) -> list[str]:
    return output.splitlines()[-TOLD_LINES:]
