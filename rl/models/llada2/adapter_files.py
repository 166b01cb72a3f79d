"""The folder of a policy that was trained by adapters, in PEFT's format, without the frozen weights.

    adapter_config.json          rank, alpha, the adapted linears, and the folder or hub name of the frozen weights
    adapter_model.safetensors    base_model.model.<published name of the linear>.lora_A.weight, and lora_B.weight
    config.json                  of the network; tokenizer and other small files may lie beside it

PEFT loads it beside the published weights, whose experts are linears of their own: gate and up projection of an expert,
one matrix here, are two adapters there, with the same A.

Source: PEFT's `LoraConfig` and `save_pretrained`; the change of a linear is lora_alpha / r * B A.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from redraft.rl.models.adapter import Adapted, adapters_of, with_product
from redraft.rl.models.hub import find_model, is_hub_name
from redraft.rl.models.llada2.model import LLaDA2Model
from redraft.rl.models.weight_files import CheckpointError, open_weights
from redraft.rl.parallel.lockstep import Lockstep
from redraft.rl.parallel.pieces import own_rows, whole
from redraft.rl.parallel.verdict import fail_together

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_UNKNOWN = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "lora_bias")
_TARGETS = {
    "attention": r".*\.attention\.(query_key_value|dense)",
    "all": r".*\.(attention\.(query_key_value|dense)|mlp\.experts\.\d+\.(gate|up|down)_proj)",
}
"""PEFT's `target_modules`: a pattern that a linear's whole name fits."""


def write_adapters(model: LLaDA2Model, folder: Path, lockstep: Lockstep) -> None:
    """Write the adapters of a network that is whole, or spread over ranks; all ranks call, and the first one writes.

    Raises:
        OSError: A file cannot be written.
    """
    content = adapter_tensors(model, keep=lockstep.rank == 0)
    with fail_together(lockstep):
        if lockstep.rank == 0:
            _write(content, model.adapted, folder)


def _write(content: dict[str, Tensor], adapted: Adapted | None, folder: Path) -> None:
    assert adapted is not None
    try:
        save_file(content, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # safetensors wraps the operating system's error
        raise OSError(f"cannot write {ADAPTER_WEIGHTS} into {folder.parent}: {error}") from error
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapted.base,
        "revision": adapted.revision,
        "r": adapted.rank,
        "lora_alpha": adapted.alpha,
        "lora_dropout": 0.0,
        "target_modules": _TARGETS[adapted.targets],
        "bias": "none",
        "inference_mode": True,
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def adapter_tensors(model: LLaDA2Model, keep: bool = True) -> dict[str, Tensor]:
    """Copy all adapters to the host under PEFT's names.

    Args:
        model: In a sharded network every rank must call, because adapters are gathered one by one.
        keep: Whether this rank wants them; the result is empty otherwise.
    """
    found: dict[str, Tensor] = {}
    for name, adapter in adapters_of(model).items():
        gathered = [whole(part.detach()) for part in (adapter.A, adapter.B)]
        if not keep:
            continue
        a, b = (part.cpu() for part in gathered)
        if a.dim() == 2:
            found |= _pair(name.removesuffix(".weight"), a, b)
            continue
        prefix, _, stack = name.rpartition(".")
        for expert in range(len(a)):
            place = model.config.expert_place(expert)
            for kind, rows in _parts(stack, b[place]):
                found |= _pair(f"{prefix}.{expert}.{kind}_proj", a[place], rows)
    return found


def _parts(stack: str, b: Tensor) -> list[tuple[str, Tensor]]:
    """Cut the rows of B as the published linears cut those of the stacked parameter."""
    return [("down", b)] if stack == "down_proj" else list(zip(("gate", "up"), b.chunk(2), strict=True))


def _pair(name: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    prefix = f"{_PREFIX}model.{name}"
    # Copies, because safetensors refuses tensors that share their memory, as the A of gate and up projection does.
    return {f"{prefix}.lora_A.weight": a.clone(), f"{prefix}.lora_B.weight": b.clone()}


def find_frozen(folder: Path) -> tuple[Path, float]:
    """Return the folder of the frozen weights, downloaded if they are on the hub, and the scale of the adapters.

    Raises:
        FileNotFoundError: The frozen weights are gone.
        CheckpointError: The configuration is damaged, or asks for more than B A times a number.
    """
    file = folder / ADAPTER_CONFIG
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        base, scale = config["base_model_name_or_path"], config["lora_alpha"] / config["r"]
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{file}: expected base_model_name_or_path, r and lora_alpha, found {error!r}") from error
    asked = [key for key in _UNKNOWN if config.get(key)]
    if asked:
        raise CheckpointError(
            f"{file}: {asked[0]}={config[asked[0]]!r} is not computed here; merge the adapters with PEFT"
        )
    if not is_hub_name(base) and not Path(base).is_dir():
        raise FileNotFoundError(
            f"{file}: base_model_name_or_path {base} is not here; write the folder of the frozen weights there"
        )
    return find_model(base, config.get("revision")).folder, scale


@torch.no_grad()
def merge_adapters(folder: Path, weights: Mapping[str, Tensor], scale: float, lockstep: Lockstep) -> None:
    """Add the adapters of a folder to published tensors in place, computed in fp32 at least.

    Args:
        folder: With adapters.
        weights: What this rank holds of the frozen weights, by published name.
        scale: Of the products.
        lockstep: The ranks, all of which call.

    Raises:
        CheckpointError: An adapter fits no weights, on any rank, or the file is damaged.
    """
    file = folder / ADAPTER_WEIGHTS
    with fail_together(lockstep), open_weights(file) as content:
        stored = set(content.keys())
        left = set(stored)
        for name, weight in weights.items():
            module = f"{_PREFIX}{name.removesuffix('.weight')}"
            keys = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
            if not stored.issuperset(keys):
                continue
            a, b = (content.get_tensor(key).to(weight.device) for key in keys)
            first, rows = own_rows(weight)
            if (b.shape[0], a.shape[-1], b.shape[-1]) == (*weight.shape, a.shape[0]):
                rows.copy_(with_product(rows, a, b[first : first + len(rows)], scale))
                left -= set(keys)
    unused = sorted(set[str].intersection(*lockstep.gather(left)))
    if unused:
        raise CheckpointError(f"{file}: {unused[0]!r} fits no weights of the policy ({len(unused)} such)")
