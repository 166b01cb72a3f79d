"""Find the folder of a model: a local folder, or a repository of the Hugging Face hub. Loads no torch.

Guarantees:
    * A local folder goes first, and nothing that is written like a path is looked up on the hub.
    * A commit that is in the cache is found without the network.
    * Every failure is an OSError that says what the hub answered and what to do.

Assumes:
    * All nodes of a run see the same cache: HF_HOME lies on a folder that they share.

Rejected alternatives:
    * Copies in the run folder: 30 GiB per run, of files that never change under their commit.
"""

import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from redraft.rl.files import expand

logger = logging.getLogger(__name__)

Part = Literal["config", "text", "all"]

_TEXT = ("*.json", "*.jinja", "*.txt", "*.model", "*.py", "README.md", "LICENSE*")
_PATTERNS: Final[Mapping[Part, tuple[str, ...]]] = MappingProxyType(
    {"config": ("config.json",), "text": _TEXT, "all": (*_TEXT, "*.safetensors")}
)
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
_LOG_IN = "log in with: hf auth login (or set HF_TOKEN)"


class HubError(OSError):
    """The hub does not give a model."""


class Snapshot(NamedTuple):
    """A folder of a model, and which commit of the hub it holds; None for a local folder.

    `inclusionAI/LLaDA2.1-mini` becomes `~/.cache/huggingface/hub/models--inclusionAI--LLaDA2.1-mini/snapshots/<commit>`
    and that commit.
    """

    folder: Path
    commit: str | None


def is_hub_name(path: str) -> bool:
    """Decide whether a path that is no local folder is looked up on the hub: it is written `owner/name`.

    A path whose first folder is here, such as `runs/mine`, is a local one that is missing.
    """
    return bool(_NAME.fullmatch(path)) and not expand(path).exists() and not Path(path).parent.is_dir()


def find_first(path: str, revision: str | None, part: Part = "text") -> Snapshot:
    """Do as `find_model` for `model.path` and `model.revision` of a recipe; errors name the key."""
    try:
        return find_model(path, revision, part)
    except (FileNotFoundError, HubError) as error:
        raise type(error)(f"model.path: {error}") from error


def find_model(path: str, revision: str | None = None, part: Part = "all") -> Snapshot:
    """Find a model's folder. What the cache lacks is downloaded.

    Args:
        path: A local folder, or `owner/name` on the hub.
        revision: Branch, tag or commit of the repository; None is its main branch.
        part: What is needed: `config` (config.json alone), `text` (all but the weights), or `all`.

    Raises:
        FileNotFoundError: There is no such folder, repository or revision.
        HubError: The hub does not answer, refuses, or holds more than the disk has room for.
        ValueError: A revision is given for a local folder.
    """
    if not is_hub_name(path):
        return _local(path, revision)
    from huggingface_hub import snapshot_download

    if part == "all" and (needed := check_room(path, revision)):
        logger.warning("%s: downloading %.1f GiB from the hub", path, needed / 2**30)
    try:
        # Subfolders hold other formats of the same weights.
        folder = snapshot_download(path, revision=revision, allow_patterns=list(_PATTERNS[part]), ignore_patterns="*/*")
    except Exception as error:
        raise _explained(error, path, revision) from error
    found = Path(folder)
    if not (found / "config.json").is_file():
        raise FileNotFoundError(f"{path}: the repository holds no config.json; is it a model for transformers?")
    return Snapshot(found, found.name)


def check_room(path: str, revision: str | None) -> float:
    """Refuse a download that the disk has no room for.

    Args:
        path: As in `find_model`, which has found its text side already.
        revision: As there.

    Returns:
        Bytes that are still to be downloaded; 0 for a local folder, and where the hub cannot be asked.

    Raises:
        HubError: There is no room.
    """
    if not is_hub_name(path):
        return 0.0
    from huggingface_hub import constants, snapshot_download

    try:
        files = snapshot_download(
            path, revision=revision, allow_patterns=list(_PATTERNS["all"]), ignore_patterns="*/*", dry_run=True
        )
    except OSError:  # offline: what is not here is named when it is loaded
        return 0.0
    needed = float(sum(file.file_size for file in files if file.will_download))
    cache = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    place = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise HubError(
            f"{path}: {needed / 2**30:.1f} GiB are to be downloaded, and {place} has {free / 2**30:.1f} GiB free; make"
            " room, or set HF_HOME to a folder on a larger disk"
        )
    return needed


def _local(path: str, revision: str | None) -> Snapshot:
    folder = expand(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {path}; give a folder with config.json and safetensors, or owner/name of a model on the hub"
        )
    if revision is not None:
        raise ValueError(f"model.revision {revision}: {path} is a local folder, without revisions; leave it out")
    return Snapshot(folder, None)


def _explained(error: Exception, name: str, revision: str | None) -> Exception:
    """Say what the hub answered and what to do about it; return errors that are none of the hub's as they are."""
    from huggingface_hub import constants, errors

    place, cache = f"{constants.ENDPOINT}/{name}", constants.HF_HUB_CACHE
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{name}: the hub asks who you are; accept the model's terms at {place}, and {_LOG_IN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(
            f"{name}: the hub has no revision {revision}; {place}/commits/main shows what there is"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f"no folder {name} here, and {constants.ENDPOINT} shows no model of this name; look for a slip of the pen;"
            f" if it is private, {_LOG_IN}"
        )
    answer = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if isinstance(answer, errors.HfHubHTTPError):
        status = answer.response.status_code
        remedy = f"your token may have expired: {_LOG_IN}" if status in {401, 403} else "try again later"
        return HubError(f"{name}: {constants.ENDPOINT} answers with status {status}; {remedy}")
    elsewhere = f"download it where there is a network (hf download {name}) and copy {cache}, or give a local folder"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if constants.HF_HUB_OFFLINE:
            return HubError(f"{name}: HF_HUB_OFFLINE is set, and not all of it is in {cache}; unset it, or {elsewhere}")
        reason = _reason(error)
        return HubError(f"no folder {name} here, and {constants.ENDPOINT} does not answer ({reason}); {elsewhere}")
    if "httpx" in type(error).__module__:
        return HubError(f"{name}: the download broke off ({_reason(error)}); run it again: it goes on where it was")
    return error


def _reason(error: BaseException) -> str:
    """Return the first line of the error behind others."""
    deepest: Any = error.__cause__ or error.__context__ or error
    return (str(deepest).splitlines() or [type(deepest).__name__])[0][:200]
