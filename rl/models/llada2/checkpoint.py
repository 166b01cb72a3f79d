"""The published checkpoint folder: ``config.json`` and safetensors whose tensors bear the published names."""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from redraft.rl.models.llada2.companions import present_auto_map, read_companions
from redraft.rl.models.llada2.config import CONFIG_FILE, LLaDA2Config
from redraft.rl.models.llada2.model import LLaDA2Model
from redraft.rl.models.llada2.names import published_tensors
from redraft.rollout.chat import Tokenizer, tokenizer_config

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_SHARD_NAME = re.compile(r"model-\d+-of-\d+\.safetensors")
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class CheckpointError(ValueError):
    """The files of a checkpoint folder do not hold the network that its config describes."""


def save_pretrained(
    model: LLaDA2Model,
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write the folder ``path``; all files are complete before the first one appears under its name.

    Args:
        model: Network to save, in its own dtype.
        path: Folder, made when missing; weights of an earlier save in it are replaced.
        tokenizer: Saved next to the weights if given.
        max_shard_bytes: Weights larger than this are split into shards with an index (bytes).

    Raises:
        OSError: A file cannot be written, for example on a full disk; an earlier save in ``path`` stays whole.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
        staging = Path(temporary)
        _write_weights(model, staging, max_shard_bytes)
        _write_config(model, staging)
        for name, content in model.companions.items():
            (staging / name).write_bytes(content)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        written = sorted(file.relative_to(staging) for file in staging.rglob("*") if file.is_file())
        for file in written:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (staging / file).replace(folder / file)
    for file in folder.iterdir():
        ours = file.name in (WEIGHTS_FILE, INDEX_FILE) or _SHARD_NAME.fullmatch(file.name)
        # Weights of an earlier save with other shards.
        if ours and Path(file.name) not in written:
            file.unlink()


def load_pretrained(
    path: str | Path, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> LLaDA2Model:
    """Read a checkpoint folder into a new network, tensor by tensor into the weights' final place.

    Args:
        path: Folder with ``config.json`` and safetensors.
        dtype: Of the parameters; that of the stored word embeddings when None.
        device: Where the weights go; the default device when None.

    Raises:
        FileNotFoundError: The folder, the config, the weights or a shard is missing.
        CheckpointError: A file is damaged, or its tensors are not those of the config's network.
        ValueError: The config is invalid.
    """
    folder = Path(path)
    config = LLaDA2Config.from_pretrained(folder)
    weight_files = _weight_files(folder)
    stored = _check_headers(weight_files, config)
    model = LLaDA2Model(config, dtype=dtype or stored["model.word_embeddings.weight"], device=device)
    model.companions = read_companions(
        folder, config.unknown_keys.get("auto_map"), tokenizer_config(folder).get("auto_map")
    )
    tensors = dict(published_tensors(model))
    for file in weight_files:
        with _open(file) as content:
            for name in content.keys():  # noqa: SIM118 (a safetensors handle, not a dict)
                tensors[name].copy_(content.get_tensor(name))
    return model


def _split(tensors: dict[str, Tensor], max_shard_bytes: int) -> list[list[str]]:
    """Fill shards greedily in order; a tensor larger than a shard gets one to itself."""
    if max_shard_bytes <= 0:
        raise ValueError(f"max_shard_bytes must be positive, got {max_shard_bytes}")
    shards: list[list[str]] = []
    free = 0
    for name, tensor in tensors.items():
        if tensor.nbytes > free or not shards:
            shards.append([])
            free = max_shard_bytes
        shards[-1].append(name)
        free -= tensor.nbytes
    return shards


def _write_weights(model: LLaDA2Model, folder: Path, max_shard_bytes: int) -> None:
    tensors = dict(published_tensors(model))
    shards = _split(tensors, max_shard_bytes)
    files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    files = [WEIGHTS_FILE] if len(shards) == 1 else files
    for file, names in zip(files, shards, strict=True):
        # Copies, because safetensors refuses views of one storage, and any strides but the plain ones; one shard at a
        # time bounds their memory.
        plain = torch.contiguous_format
        content = {name: tensors[name].to("cpu", copy=True, memory_format=plain) for name in names}
        try:
            save_file(content, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # safetensors wraps the operating system's error
            raise OSError(f"cannot write {file} into {folder.parent}: {error}") from error
    if len(shards) > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        total = sum(tensor.nbytes for tensor in tensors.values())
        _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_config(model: LLaDA2Model, folder: Path) -> None:
    config = model.config.to_dict()
    dtype = str(model.lm_head.weight.dtype).removeprefix("torch.")
    config.update({key: dtype for key in ("dtype", "torch_dtype") if key in config})
    named = present_auto_map(config.pop("auto_map", None), model.companions)  # only code that is in the folder
    config.update({"auto_map": named} if named else {})
    _write_json(folder / CONFIG_FILE, config)


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a checkpoint: those of the index, or the single one."""
    index = folder / INDEX_FILE
    if not index.is_file():
        if not (folder / WEIGHTS_FILE).is_file():
            raise FileNotFoundError(f"{folder} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}")
        return [folder / WEIGHTS_FILE]
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = [folder / name for name in sorted(set(weight_map.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f'{index}: expected {{"weight_map": {{tensor: file}}}}, found {error!r}') from error
    for file in files:
        if not file.is_file():
            tensor = next(name for name, shard in weight_map.items() if shard == file.name)
            raise FileNotFoundError(f"{file} is missing; {INDEX_FILE} says that it holds {tensor!r}")
    return files


@contextlib.contextmanager
def _open(file: Path) -> Iterator[safe_open]:
    try:
        handle = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{file} is not a complete safetensors file (truncated copy?): {error}") from error
    with handle as content:
        yield content


def _check_headers(files: list[Path], config: LLaDA2Config) -> dict[str, torch.dtype]:
    """Compare names, shapes and types of all stored tensors with the config's network before reading any.

    Returns:
        Dtype of every stored tensor.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in published_tensors(LLaDA2Model(config, device="meta"))}
    dtypes: dict[str, torch.dtype] = {}
    for file in files:
        with _open(file) as content:
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
