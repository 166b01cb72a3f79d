"""The published checkpoint folder: ``config.json`` and safetensors whose tensors bear the published names."""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from redraft.rl.models.llada2.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    find_frozen,
    merge_adapters,
    write_adapters,
)
from redraft.rl.models.llada2.companions import present_auto_map, read_companions
from redraft.rl.models.llada2.config import CONFIG_FILE, LLaDA2Config
from redraft.rl.models.llada2.model import LLaDA2Model
from redraft.rl.models.llada2.names import published_tensors
from redraft.rl.models.weight_files import (
    INDEX_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    open_weights,
    read_weights,
    weight_files,
    write_weights,
)
from redraft.rl.parallel.lockstep import Alone, Lockstep
from redraft.rl.parallel.verdict import fail_together
from redraft.rollout.chat import Tokenizer, tokenizer_config

_WEIGHTS = {WEIGHTS_FILE, INDEX_FILE, ADAPTER_CONFIG, ADAPTER_WEIGHTS}
_SHARD_NAME = re.compile(r"model-\d+-of-\d+\.safetensors")
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def save_pretrained(
    model: LLaDA2Model,
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    max_shard_bytes: int = 5_000_000_000,
    lockstep: Lockstep | None = None,
) -> None:
    """Write the folder ``path``; all files are complete before the first one appears under its name.

    Of a network with adapters these are written in PEFT's format, without the frozen weights.

    Args:
        model: Network to save, in its own dtype.
        path: Folder, made when missing; weights of an earlier save in it are replaced.
        tokenizer: Saved next to the weights if given.
        max_shard_bytes: Weights larger than this are split into shards with an index (bytes).
        lockstep: The ranks that the network is spread over; all of them call, and see the same folder.

    Raises:
        OSError: A file cannot be written, for example on a full disk; an earlier save in ``path`` stays whole.
    """
    folder, lockstep = Path(path), lockstep or Alone()
    with _staging_folder(folder, lockstep) as staging:
        if model.adapted is None:
            write_weights(dict(published_tensors(model)), staging, max_shard_bytes, lockstep)
        else:
            write_adapters(model, staging, lockstep)
        with fail_together(lockstep):
            if lockstep.rank == 0:
                _write_small_files(model, staging, tokenizer)
                _put_in_place(staging, folder)


def copy_pretrained(source: Path, path: str | Path) -> None:
    """Copy the folder of a policy as it is, as `save_pretrained` writes one."""
    with _staging_folder(Path(path), Alone()) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)
        _put_in_place(staging, Path(path))


@contextlib.contextmanager
def _staging_folder(folder: Path, lockstep: Lockstep) -> Iterator[Path]:
    """Make an empty folder inside `folder` for all ranks, and remove it at the end."""
    with contextlib.ExitStack() as stack:
        made = None
        with fail_together(lockstep):
            if lockstep.rank == 0:
                folder.mkdir(parents=True, exist_ok=True)
                made = stack.enter_context(tempfile.TemporaryDirectory(prefix=".saving-", dir=folder))
        yield Path(lockstep.gather(made)[0] or folder)


def _write_small_files(model: LLaDA2Model, folder: Path, tokenizer: Tokenizer | None) -> None:
    _write_config(model, folder)
    for name, content in model.companions.items():
        (folder / name).write_bytes(content)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


def _put_in_place(staging: Path, folder: Path) -> None:
    """Move what is complete into the folder, and remove weights of an earlier save.

    Those may have other shards, or be adapters, which would be read in place of weights.
    """
    written = sorted(file.relative_to(staging) for file in staging.rglob("*") if file.is_file())
    for file in written:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (staging / file).replace(folder / file)
    for file in folder.iterdir():
        ours = file.name in _WEIGHTS or _SHARD_NAME.fullmatch(file.name)
        if ours and Path(file.name) not in written:
            file.unlink()


def load_pretrained(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    spread: Callable[[LLaDA2Model], None] | None = None,
    lockstep: Lockstep | None = None,
) -> LLaDA2Model:
    """Read a checkpoint folder into a new network, tensor by tensor into the weights' final place.

    Args:
        path: Folder with ``config.json`` and safetensors; or one with adapters, which are merged into the weights that
            their configuration names.
        dtype: Of the parameters; that of the stored word embeddings when None.
        device: Where the weights go; the default device when None.
        spread: Called with the network before it has memory, to spread it over ranks, each of which then reads its
            own part only.
        lockstep: The ranks, all of which call; an error of one is raised on all.

    Raises:
        FileNotFoundError: The folder, the config, the weights or a shard is missing.
        CheckpointError: A file is damaged, or its tensors are not those of the config's network.
        ValueError: The config is invalid.
    """
    folder, lockstep = Path(path), lockstep or Alone()
    if (folder / ADAPTER_CONFIG).is_file():
        with fail_together(lockstep):
            base, scale = find_frozen(folder)
        model = load_pretrained(base, dtype, device, spread, lockstep)
        merge_adapters(folder, dict(published_tensors(model)), scale, lockstep)
        return model
    with fail_together(lockstep):
        config = LLaDA2Config.from_pretrained(folder)
        files = weight_files(folder)
        stored = _check_headers(files, config)["model.word_embeddings.weight"] if lockstep.rank == 0 else None
        companions = read_companions(
            folder, config.unknown_keys.get("auto_map"), tokenizer_config(folder).get("auto_map")
        )
    dtype = dtype or lockstep.gather(stored)[0]
    assert dtype is not None  # rank 0 has read it
    model = LLaDA2Model(config, dtype=dtype, device=device if spread is None else "meta")
    model.companions = companions
    if spread is not None:
        spread(model)
        model.to_empty(device=device if device is not None else torch.get_default_device())
    with fail_together(lockstep):
        read_weights(files, dict(published_tensors(model)))
    return model


def _write_config(model: LLaDA2Model, folder: Path) -> None:
    config = model.config.to_dict()
    dtype = str(model.lm_head.weight.dtype).removeprefix("torch.")
    config.update({key: dtype for key in ("dtype", "torch_dtype") if key in config})
    named = present_auto_map(config.pop("auto_map", None), model.companions)  # only code that is in the folder
    config.update({"auto_map": named} if named else {})
    _write_json(folder / CONFIG_FILE, config)


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _check_headers(files: list[Path], config: LLaDA2Config) -> dict[str, torch.dtype]:
    """Compare names, shapes and types of all stored tensors with the config's network before reading any.

    Returns:
        Dtype of every stored tensor.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in published_tensors(LLaDA2Model(config, device="meta"))}
    dtypes: dict[str, torch.dtype] = {}
    for file in files:
        with open_weights(file) as content:
            for name in content.keys():  # noqa: SIM118 (a safetensors handle, not a dict)
                part = content.get_slice(name)
                shape, dtype = tuple(part.get_shape()), part.get_dtype()
                if name not in expected:
                    raise CheckpointError(f"{file}: unexpected tensor {name!r}; the config's network has none so named")
                if name in dtypes:
                    raise CheckpointError(f"{file}: tensor {name!r} is stored in another shard too")
                if shape != expected[name]:
                    raise CheckpointError(
                        f"{file}: tensor {name!r} has shape {shape}, expected {expected[name]} from {CONFIG_FILE}"
                    )
                if dtype not in _DTYPES:
                    raise CheckpointError(f"{file}: tensor {name!r} has dtype {dtype}, expected one of {[*_DTYPES]}")
                dtypes[name] = _DTYPES[dtype]
    missing = [name for name in expected if name not in dtypes]
    if missing:
        where = ", ".join(file.name for file in files)
        raise CheckpointError(
            f"{files[0].parent}: tensor {missing[0]!r} of shape {expected[missing[0]]} is missing from {where}"
            f" ({len(missing)} of {len(expected)} tensors are)"
        )
    return dtypes
