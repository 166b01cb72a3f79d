"""Choose the layer of isolation. A weaker one is logged with the reason; none is used only where a recipe names it."""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Literal

from redraft.rewards.sandbox.bubblewrap import BubblewrapSandbox
from redraft.rewards.sandbox.landlock import LandlockSandbox
from redraft.rewards.sandbox.packages import Packages, check_packages
from redraft.rewards.sandbox.program import Sandbox, SandboxError
from redraft.rewards.sandbox.selftest import self_test
from redraft.rewards.sandbox.unsafe import UnsafeSandbox

logger = logging.getLogger(__name__)

Kind = Literal["auto", "bubblewrap", "landlock", "unsafe"]

# In this order: the first that passes its self-test is taken.
_LAYERS: dict[str, Callable[[str | None], Sandbox]] = {"bubblewrap": BubblewrapSandbox, "landlock": LandlockSandbox}


def open_sandbox(
    kind: Kind = "auto", allow_unsafe: bool = False, python: str | None = None, packages: Sequence[str] = ()
) -> Sandbox:
    """Open a sandbox that has just withstood its self-test.

    Args:
        kind: ``bubblewrap`` (layer 1), ``landlock`` (layer 2), ``auto`` for the first of them that works here, or
            ``unsafe`` for none.
        allow_unsafe: Must be true for ``unsafe``, and changes nothing else.
        python: Interpreter for the programs; None finds one that their user may read.
        packages: Packages of ours that the programs may import.

    Raises:
        SandboxError: The layer does not work here, or a package cannot be imported in it; the message says what is
            missing and what to run.
    """
    sandbox = _unsafe(allow_unsafe) if kind == "unsafe" else _first(kind, python)
    if packages:
        try:
            sandbox.packages = Packages(packages)
            check_packages(sandbox, sandbox.packages)
        except BaseException:
            sandbox.close()
            raise
    return sandbox


def _first(kind: str, python: str | None) -> Sandbox:
    layers = _layers(kind)
    if sys.platform != "linux":
        raise SandboxError(
            f"sandboxes need Linux, this is {sys.platform}; use a Linux machine or container, or, for programs that "
            "you trust, `sandbox: unsafe` with `allow_unsafe: true`"
        )
    refused: list[str] = []
    for layer in layers:
        try:
            sandbox = _tested(layer, python)
        except SandboxError as error:
            refused.append(f"{layer}: {error}")
            continue
        because = f", because {refused[0]}" if refused else ""
        logger.log(logging.WARNING if refused else logging.INFO, "sandbox: the %s layer%s", layer, because)
        return sandbox
    raise SandboxError("no sandbox works here.\n" + "\n".join(refused))


def _layers(kind: str) -> list[str]:
    if kind != "auto" and kind not in _LAYERS:
        raise SandboxError(f"there is no sandbox {kind!r}; valid are auto, {', '.join(_LAYERS)} and unsafe")
    return list(_LAYERS) if kind == "auto" else [kind]


def _tested(layer: str, python: str | None) -> Sandbox:
    sandbox = _LAYERS[layer](python)
    try:
        self_test(sandbox)
    except BaseException:
        sandbox.close()
        raise
    return sandbox


def _unsafe(allowed: bool) -> Sandbox:
    if not allowed:
        raise SandboxError(
            "`sandbox: unsafe` runs programs with this user's rights, files and network; it needs `allow_unsafe: true` "
            "beside it, or choose `sandbox: auto`"
        )
    logger.warning("sandbox: none, as allowed by name: programs run with this user's rights, files and network")
    return UnsafeSandbox()
