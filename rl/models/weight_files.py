"""The safetensors files of a policy folder: `model.safetensors`, or several files and their index.

**Guarantees**
    * A rank holds its share of the weights and, when it writes, one file's tensors and one whole tensor beside them;
      when it reads, the pages of one file. No process holds all weights, except one that is alone.
    * Files that several ranks wrote are read by one process, and the other way round.

**Assumes**
    * Every rank iterates over the spread tensors in the same order; tensors that only one rank has may lie between.

**Rejected alternatives**
    * torch's `HuggingFaceStorageReader`: it reads the same slices from the same mapped files, but ignores the index and
      takes every file of the folder, and its plan must have equal names on all ranks.
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from redraft.rl.parallel.lockstep import Lockstep
from redraft.rl.parallel.pieces import own_rows, whole
from redraft.rl.parallel.verdict import fail_together

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class CheckpointError(ValueError):
    """The files of a checkpoint folder do not hold the network that its config describes."""


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a checkpoint: those of the index, or the single one.

    Raises:
        FileNotFoundError: One is missing.
        CheckpointError: The index is damaged.
    """
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
def open_weights(file: Path) -> Iterator[safe_open]:
    """Map a file into memory for the block.

    Raises:
        CheckpointError: It is damaged.
    """
    try:
        handle = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{file} is not a complete safetensors file (truncated copy?): {error}") from error
    with handle as content:
        yield content


def read_weights(files: list[Path], tensors: Mapping[str, Tensor]) -> None:
    """Fill what this rank holds of the tensors from the files; stored tensors that it has no part of are not read."""
    for file in files:
        with open_weights(file) as content:
            for name in content.keys():  # noqa: SIM118 (a safetensors handle, not a dict)
                if name in tensors:
                    first, rows = own_rows(tensors[name])
                    rows.copy_(content.get_slice(name)[first : first + len(rows)])


def write_weights(tensors: Mapping[str, Tensor], folder: Path, max_shard_bytes: int, lockstep: Lockstep) -> None:
    """Write the tensors of all ranks: spread ones whole, each by one of the ranks in turn, others by who has them.

    Args:
        tensors: By published name. Every rank has the spread ones.
        folder: An empty one inside the policy's folder, which all ranks see; afterwards it holds weights and index.
        max_shard_bytes: A file with more is split (bytes).
        lockstep: The ranks.

    Raises:
        OSError: A file cannot be written, by this rank or another.
    """
    if max_shard_bytes <= 0:
        raise ValueError(f"max_shard_bytes must be positive, got {max_shard_bytes}")
    mine = _writers(tensors, lockstep)[lockstep.rank]
    written: dict[str, dict[str, int]] = {}
    with fail_together(lockstep):
        stream = ((name, whole(tensor)) for name, tensor in tensors.items())
        try:
            for some in _split(((name, tensor) for name, tensor in stream if name in mine), max_shard_bytes):
                file = f"model-rank-{lockstep.rank}-{len(written)}.safetensors"
                _write(some, folder / file)
                written[file] = {name: tensor.nbytes for name, tensor in some.items()}
                some.clear()  # before the next file's tensors are copied
        finally:
            for _ in stream:  # the other ranks still need this one's pieces of the tensors that they write
                pass
    files = {file: sizes for one in lockstep.gather(written) for file, sizes in one.items()}
    with fail_together(lockstep):
        if lockstep.rank == 0:
            _name_files(folder, files)


def _writers(tensors: Mapping[str, Tensor], lockstep: Lockstep) -> Mapping[int, set[str]]:
    """Choose who writes what: a tensor is written by one of the ranks that have it, and these take turns."""
    holders: dict[str, list[int]] = defaultdict(list)
    for rank, names in enumerate(lockstep.gather(list(tensors))):
        for name in names:
            holders[name].append(rank)
    chosen: dict[int, set[str]] = defaultdict(set)
    for turn, (name, ranks) in enumerate(holders.items()):
        chosen[ranks[turn % len(ranks)]].add(name)
    return chosen


def _split(tensors: Iterator[tuple[str, Tensor]], max_shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Yield what goes into one file, greedily in order; a tensor larger than a file may be gets one to itself."""
    shard: dict[str, Tensor] = {}
    free = max_shard_bytes
    for name, tensor in tensors:
        if tensor.nbytes > free and shard:
            yield shard
            shard, free = {}, max_shard_bytes
        # A copy, because safetensors refuses views of one storage, and any strides but the plain ones.
        shard[name] = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
        free -= tensor.nbytes
    if shard:
        yield shard


def _write(tensors: dict[str, Tensor], file: Path) -> None:
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:  # safetensors wraps the operating system's error
        raise OSError(f"cannot write {file.name} into {file.parent.parent}: {error}") from error


def _name_files(folder: Path, files: Mapping[str, Mapping[str, int]]) -> None:
    """Give the files of all ranks their published names, and write the index if they are several."""
    if len(files) == 1:
        (folder / next(iter(files))).rename(folder / WEIGHTS_FILE)
        return
    weight_map: dict[str, str] = {}
    for number, (file, sizes) in enumerate(files.items(), start=1):
        final = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        (folder / file).rename(folder / final)
        weight_map |= dict.fromkeys(sizes, final)
    total = sum(size for sizes in files.values() for size in sizes.values())
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
