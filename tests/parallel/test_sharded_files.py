"""Ranks read a published folder into their own parts, and write it from them; an error of one is an error of all."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from oracles.tiny_policy import TOKENS, run_config, tiny_model
from parallel.together import together
from redraft.rl.config.sections import ModelConfig
from redraft.rl.learner.build import load_network
from redraft.rl.learner.learner import Learner
from redraft.rl.learner.state import load_state, save_state
from redraft.rl.models.llada2 import LLaDA2Config, LLaDA2Model, init_weights, load_pretrained, save_pretrained
from redraft.rl.models.registry import save_policy
from redraft.rl.parallel.pieces import whole
from redraft.rl.parallel.shard import make_meshes
from redraft.rl.parallel.together import Together
from redraft.rl.parallel.verdict import fail_together
from shapes import small_shape

EXPERT = "model.layers.1.mlp.experts.2.down_proj.weight"
DENSE = "model.layers.1.attention.dense.weight"
MB = 2**20


def config_of(dtype):
    return run_config().model_copy(update={"model": ModelConfig(path="unused", dtype=dtype, device="cpu")})


def weights(model):
    return {name: whole(tensor.detach()).clone() for name, tensor in model.state_dict().items()}


def error_of(function, *arguments):
    try:
        function(*arguments)
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def fail_on(failing):
    lockstep = Together()
    with fail_together(lockstep):
        if lockstep.rank == failing:
            raise FileNotFoundError(f"rank {failing} has no file")


def write_where_one_cannot(model, folder):
    """Rank 1's disk is full."""
    import resource

    lockstep, limits = Together(), resource.getrlimit(resource.RLIMIT_FSIZE)
    if lockstep.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        save_policy(model, folder, None, lockstep)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def every_case(folder, expert_parallel):
    meshes, lockstep, found = make_meshes("cpu", expert_parallel), Together(), {}
    model = load_network(str(folder / "good"), config_of("float64"), meshes)
    assert isinstance(model, LLaDA2Model)
    found["loaded"] = weights(model)
    found["bf16"] = weights(load_network(str(folder / "bf16"), config_of("float32"), meshes, trainable=False))
    save_pretrained(model, folder / "exported", max_shard_bytes=9000, lockstep=lockstep)
    found["full disk"] = error_of(write_where_one_cannot, model, folder / "exported")
    for damage in ("dropped", "misshapen", "missing file"):
        found[damage] = error_of(load_network, str(folder / damage), config_of("float64"), meshes)
    found["one fails"] = error_of(fail_on, 1)
    return found


@pytest.fixture
def folders(tmp_path):
    model = tiny_model()
    model.get_buffer("layers.1.mlp.gate.expert_bias").normal_(generator=torch.Generator().manual_seed(1))
    save_pretrained(model, tmp_path / "good", max_shard_bytes=9000)
    save_pretrained(model.to(torch.bfloat16), tmp_path / "bf16")
    for damage in ("dropped", "misshapen", "missing file"):
        shutil.copytree(tmp_path / "good", tmp_path / damage)
    file_of = json.loads((tmp_path / "good" / "model.safetensors.index.json").read_text())["weight_map"]
    change(tmp_path / "dropped" / file_of[EXPERT], lambda tensors: tensors.pop(EXPERT))
    change(tmp_path / "misshapen" / file_of[DENSE], lambda t: t.update({DENSE: t[DENSE].flatten()}))
    (tmp_path / "missing file" / file_of[DENSE]).unlink()
    return tmp_path


def change(file, how):
    tensors = load_file(file)
    how(tensors)
    save_file(tensors, file)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name]), name


@pytest.mark.heavy
@pytest.mark.parametrize(("world", "expert_parallel"), [(2, 2), (4, 2)])
def test_ranks_read_and_write_what_one_process_does(folders, world, expert_parallel):
    good, bf16 = load_pretrained(folders / "good"), load_pretrained(folders / "bf16", dtype=torch.float32)
    for found in together(world, every_case, folders, expert_parallel):
        assert_equal(found["loaded"], weights(good))
        assert_equal(found["bf16"], weights(bf16))
        assert found["dropped"].startswith("CheckpointError:")
        assert f"tensor '{EXPERT}' of shape (16, 8) is missing from" in found["dropped"]
        assert f"tensor '{DENSE}' has shape (256,), expected (16, 16)" in found["misshapen"]
        assert re.fullmatch("FileNotFoundError: .*safetensors is missing; .*", found["missing file"])
        assert re.fullmatch("OSError: cannot write model-.*safetensors into .*exported: .*", found["full disk"])
        assert found["one fails"] == "FileNotFoundError: rank 1 has no file"
    assert_equal(weights(load_pretrained(folders / "exported")), weights(good))
    assert not [file for file in (folders / "exported").iterdir() if file.name.startswith(".")]


class Peak:
    """By how many bytes this process's memory was larger than before, at the worst moment of the block."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        self.before = memory("VmRSS")
        return self

    def __exit__(self, *error):
        self.grown = memory("VmHWM") - self.before


def memory(name):
    (found,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) * 1024


def peaks(folder, expert_parallel):
    """Bytes of weights that this rank holds, and the peaks of its loads and saves."""
    meshes, config, lockstep = make_meshes("cpu", expert_parallel), config_of("float32"), Together()
    for name in ("small", "large"):  # whatever is imported on the way, is after the small one
        with Peak() as load:
            model = load_network(str(folder / name), config, meshes)
        assert isinstance(model, LLaDA2Model)
        with Peak() as export:
            save_pretrained(model, folder / f"exported {name}", max_shard_bytes=20 * MB, lockstep=lockstep)
        learner = Learner(model, config, TOKENS, lockstep=lockstep)
        with Peak() as state:
            save_state(learner, folder / f"saved {name}")
            load_state(learner, folder / f"saved {name}")
    tensors = model.state_dict().values()
    own = sum((tensor.to_local() if isinstance(tensor, DTensor) else tensor).nbytes for tensor in tensors)
    return own, load.grown, export.grown, state.grown


@pytest.mark.heavy
def test_a_rank_needs_memory_for_its_own_part_and_one_file(tmp_path):
    large = small_shape(hidden_size=512, moe_intermediate_size=384, num_experts=32, num_hidden_layers=3, n_group=8)
    for name, shape in {"small": small_shape(vocab_size=8), "large": {**large, "vocab_size": 8000}}.items():
        model = LLaDA2Model(LLaDA2Config.from_dict(shape))
        init_weights(model, torch.Generator().manual_seed(0))
        save_pretrained(model, tmp_path / name, max_shard_bytes=60 * MB)
    total = sum(file.stat().st_size for file in (tmp_path / "large").glob("*.safetensors"))
    assert total > 150 * MB
    for own, load, export, state in together(2, peaks, tmp_path, 2):
        assert own <= total * 0.51
        assert load <= own * 1.05 + 1.5 * 60 * MB
        assert export <= 20 * MB + 4 * 8000 * 512 * 4  # one file, and some copies of the largest tensor
        assert state <= 3 * 16 * 768 * 512 * 4  # some copies of the largest part, of a state of three times `own`
