"""Look at everything that a run may need, and say of each thing how it is and what to do about it.

Guarantees:
    * One thing that cannot be looked at is a diagnosis, and does not keep the others from being looked at.
    * Every wait has a deadline.
    * Without a recipe nothing is `missing`, because only a recipe needs something.

Assumes:
    * A check that a run makes before step 0 says everything in its error: doctor calls it and passes the text on.
"""

import os
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from redraft.rl.config.schema import RunConfig
from redraft.rl.models.shape import find_shape
from redraft.rl.plan.machine import GIB, choose_machine, gpus_here, size_text
from redraft.rl.plan.setup import Assumptions, settle_setup
from redraft.rl.plan.traffic import checkpoint_bytes
from redraft.rl.preflight.installed import Condition, Diagnosis, find_packages, one_line
from redraft.rl.preflight.needs import find_needs

_HUB = "https://huggingface.co"
_HUB_S = 3.0
_LEAST_BYTES = 1.0 * GIB
_SHARED_MEMORY = Path("/dev/shm")
_LAYERS = ("bubblewrap", "landlock")
_YES = {"1", "ON", "YES", "TRUE"}


def examine(config: RunConfig | None = None) -> Iterator[Diagnosis]:
    """Look at packages, machine and network, and at what a recipe needs of them.

    Args:
        config: The recipe; without it, everything is looked at and nothing is needed.
    """
    yield Diagnosis("python", "ok", sys.version.split()[0])
    yield from find_packages(_optional(config), "warning" if config is None else "missing")
    machine = {"gpu": _gpu, "vllm engine": _vllm, "ray cluster": _ray, "sandbox": _sandbox}
    for name, look in {**machine, "disk": _disk, "shared memory": _shared_memory, "hub": _hub}.items():
        yield _looked(name, look, config)
    if config is not None:
        yield from find_needs(config)


def _looked(name: str, look: Callable[[RunConfig | None], Diagnosis], config: RunConfig | None) -> Diagnosis:
    try:
        return look(config)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever is broken here is what doctor is asked about
        remedy = "repair what the error names; a run that uses it would end with the same error"
        return Diagnosis(name, "warning", f"could not be looked at: {one_line(error)}", remedy)


def _optional(config: RunConfig | None) -> frozenset[str]:
    """Name the optional packages that a recipe needs."""
    if config is None:
        return frozenset()
    return frozenset([*config.report_to, *(["vllm"] if config.rollout.engine == "vllm" else [])])


def _gpu(config: RunConfig | None) -> Diagnosis:
    import torch

    count, (driver, smallest) = torch.cuda.device_count(), gpus_here()
    if count:
        names = ", ".join(sorted({torch.cuda.get_device_name(index) for index in range(count)}))
        memory = f"{smallest / GIB:.0f} GiB, " if smallest else ""
        return Diagnosis("gpu", "ok", f"{count} x {names}, {memory}CUDA {torch.version.cuda}")
    if driver:
        remedy = "install a torch that is built for CUDA, and look at CUDA_VISIBLE_DEVICES"
        return Diagnosis("gpu", "warning", f"the driver has {driver} GPUs, torch {torch.__version__} sees none", remedy)
    remedy = "redraft plan RECIPE --gpus 1 says what a GPU must have"
    return Diagnosis("gpu", "absent", "none, so everything runs on the CPU", remedy)


def _vllm(config: RunConfig | None) -> Diagnosis:
    from redraft.rollout.vllm.engine import VLLMMissingError, require_vllm

    needed = config is not None and config.rollout.engine == "vllm"
    try:
        require_vllm()
    except VLLMMissingError as error:
        return Diagnosis("vllm engine", "missing" if needed else "absent", "vLLM is not installed", one_line(error))
    return Diagnosis("vllm engine", "ok", "rollout.engine: vllm can be used")


def _ray(config: RunConfig | None) -> Diagnosis:
    from redraft.rl.preflight.launcher import RayAddressError, check_ray_address

    address = os.environ.get("RAY_ADDRESS", "")
    if address in {"", "local"}:
        return Diagnosis("ray cluster", "ok", "RAY_ADDRESS is not set: every run starts a cluster on this machine")
    if config is not None:
        return Diagnosis("ray cluster", "ok", f"RAY_ADDRESS={address}; see recipe: machine")
    try:
        check_ray_address()
    except RayAddressError as error:
        return Diagnosis("ray cluster", "warning", one_line(error), "start the cluster, or unset RAY_ADDRESS")
    return Diagnosis("ray cluster", "ok", f"RAY_ADDRESS={address} answers")


def _sandbox(config: RunConfig | None) -> Diagnosis:
    """Open the layers that the recipe's rewards ask for; each is used only after it withstands its self-test."""
    asked = _sandboxes(config)
    found = []
    for kind in sorted(asked) or ["auto"]:
        layer, refused = _first_layer(_LAYERS if kind == "auto" else [kind])
        if not layer:
            state: Condition = "missing" if asked else "warning"
            return Diagnosis("sandbox", state, f"{kind}: code rewards cannot run programs here", "; ".join(refused))
        found.append("; ".join([f"{layer} withstands its self-test", *refused]))
    return Diagnosis("sandbox", "ok", "; ".join(found))


def _first_layer(layers: Sequence[str]) -> tuple[str, list[str]]:
    """Return the first layer that works, and what the ones before it say."""
    from redraft.rewards.sandbox.choose import open_sandbox
    from redraft.rewards.sandbox.program import SandboxError

    refused = []
    for layer in layers:
        try:
            open_sandbox(layer).close()  # pyright: ignore[reportArgumentType] - another word is refused by name
        except SandboxError as error:
            refused.append(f"{layer}: {one_line(error)}")
        else:
            return layer, refused
    return "", refused


def _sandboxes(config: RunConfig | None) -> set[str]:
    """Name the sandboxes that a recipe's rewards ask for."""
    terms = [] if config is None else [term for term in config.rewards if "code_tests" in term.fn]
    return {str(term.kwargs.get("sandbox", "auto")) for term in terms} - {"http", "unsafe"}


def _disk(config: RunConfig | None) -> Diagnosis:
    folder = Path.cwd() if config is None else Path(config.output_dir).absolute()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = float(shutil.disk_usage(place).free)
    needed = 0.0 if config is None else _checkpoints(config)
    text = f"{size_text(free)} free at {place}"
    if needed:
        text += f", checkpoints take up to {size_text(needed)}"
    if needed > free:
        return Diagnosis("disk", "missing", text, "choose another output_dir=FOLDER, or lower trainer.save_total_limit")
    if free < _LEAST_BYTES:
        return Diagnosis("disk", "warning", text, "free some, or choose another output_dir=FOLDER")
    return Diagnosis("disk", "ok", text)


def _checkpoints(config: RunConfig) -> float:
    """Bytes of all checkpoints that a run keeps, and of the one that it writes before it deletes the oldest.

    0 where the policy or the GPUs that the recipe names are not there, which other diagnoses say.
    """
    try:
        shape = find_shape(config.model.path, config.model.init, config.model.revision)
        setup = settle_setup(config, shape, choose_machine(None, None, None), Assumptions())
    except (OSError, ValueError):
        return 0.0
    return sum(checkpoint_bytes(setup)) * (config.trainer.save_total_limit + 1)


def _weights(config: RunConfig) -> float:
    """Bytes of the policy's weights in float32; 0 where there is no policy yet."""
    try:
        return 4.0 * find_shape(config.model.path, config.model.init, config.model.revision).parameters
    except (OSError, ValueError):
        return 0.0


def _shared_memory(config: RunConfig | None) -> Diagnosis:
    if not _SHARED_MEMORY.is_dir():
        return Diagnosis("shared memory", "absent", f"no {_SHARED_MEMORY}", "rollout.engine: torch needs none")
    free, needed = float(shutil.disk_usage(_SHARED_MEMORY).free), _LEAST_BYTES
    if config is not None:
        needed = max(needed, _weights(config))
    text = f"{size_text(free)} free at {_SHARED_MEMORY}"
    if free < needed:
        remedy = f"weights pass through it and want {size_text(needed)}: start a container with --shm-size"
        return Diagnosis("shared memory", "warning", text, remedy)
    return Diagnosis("shared memory", "ok", text)


def _hub(config: RunConfig | None) -> Diagnosis:
    endpoint = os.environ.get("HF_ENDPOINT", _HUB)
    remedy = "data.path and model.path may be local files and folders; behind a proxy set HTTPS_PROXY"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _YES:
        return Diagnosis("hub", "warning", "switched off by HF_HUB_OFFLINE", remedy)
    if problem := _unreachable(endpoint):
        return Diagnosis("hub", "warning", f"{endpoint}: {problem}", remedy)
    return Diagnosis("hub", "ok", f"{endpoint} answers")


def _unreachable(endpoint: str) -> str:
    """Say why a server does not answer; empty where it does. A thread asks, as looking up a name has no deadline."""
    answer = [f"no answer in {_HUB_S:g} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_HUB_S).close()
            answer[0] = ""
        except urllib.error.HTTPError:  # it answers, if only with a refusal
            answer[0] = ""
        except Exception as error:  # noqa: BLE001 - any network, any proxy; a thread would print its traceback
            answer[0] = str(getattr(error, "reason", error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_HUB_S)
    return answer[0]
