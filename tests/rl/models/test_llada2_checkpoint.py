"""The checkpoint folder: exact names, exact bits, and one clear error per kind of damage."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from redraft.rl.models.llada2 import (
    CheckpointError,
    LLaDA2Config,
    LLaDA2Model,
    init_weights,
    load_pretrained,
    published_tensors,
    save_pretrained,
)
from shapes import small_shape

CONFIG = LLaDA2Config.from_dict(
    small_shape(
        vocab_size=40,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.02,
        mask_token_id=39,
        something_new=[1, 2],
    )
)
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


def make_model(dtype=torch.float32) -> LLaDA2Model:
    model = LLaDA2Model(CONFIG, dtype=dtype)
    init_weights(model, torch.Generator().manual_seed(0))
    for name, buffer in model.named_buffers():
        buffer.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model


def expected_shapes() -> dict[str, list[int]]:
    """Names and shapes as LLADA2.md section 1 lists them."""
    shapes = {"model.word_embeddings.weight": [40, 16], "model.norm.weight": [16], "lm_head.weight": [40, 16]}
    for i in range(3):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": [16],
            f"{layer}.post_attention_layernorm.weight": [16],
            f"{layer}.attention.query_key_value.weight": [(4 + 2 * 2) * 8, 16],
            f"{layer}.attention.query_layernorm.weight": [8],
            f"{layer}.attention.key_layernorm.weight": [8],
            f"{layer}.attention.dense.weight": [16, 32],
        }
        mlps = {f"{layer}.mlp": 24}
        if i > 0:
            shapes |= {f"{layer}.mlp.gate.weight": [4, 16], f"{layer}.mlp.gate.expert_bias": [4]}
            mlps = {f"{layer}.mlp.experts.{e}": 8 for e in range(4)} | {f"{layer}.mlp.shared_experts": 8}
        for mlp, inner in mlps.items():
            shapes |= {f"{mlp}.{kind}_proj.weight": [inner, 16] for kind in ("gate", "up")}
            shapes[f"{mlp}.down_proj.weight"] = [16, inner]
    return shapes


def assert_same_model(found: LLaDA2Model, expected: LLaDA2Model) -> None:
    assert found.config == expected.config
    for (name, a), (other_name, b) in zip(found.state_dict().items(), expected.state_dict().items(), strict=True):
        assert name == other_name
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name


def rewrite(file: Path, change) -> None:
    """Let ``change`` edit the tensors of a safetensors file in place."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 5000])
def test_the_round_trip_keeps_every_bit(tmp_path, dtype, max_shard_bytes):
    model = make_model(dtype)
    save_pretrained(model, tmp_path, max_shard_bytes=max_shard_bytes)
    assert_same_model(load_pretrained(tmp_path), model)


def test_a_single_file_holds_exactly_the_published_names_and_shapes(tmp_path):
    save_pretrained(make_model(), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert {name: list(t.shape) for name, t in load_file(tmp_path / "model.safetensors").items()} == expected_shapes()
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG.to_dict()


def test_shards_and_index_agree_and_stay_under_the_limit(tmp_path):
    model = make_model()
    save_pretrained(model, tmp_path, max_shard_bytes=5000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert set(index["weight_map"].values()) == set(files)
    total = 0
    for file in files:
        tensors = load_file(tmp_path / file)
        assert set(tensors) == {name for name, where in index["weight_map"].items() if where == file}
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= 5000
        total += size
    assert index["metadata"]["total_size"] == total == sum(t.nbytes for _, t in published_tensors(model))


def test_a_stored_expert_is_the_expert_the_network_computes_with(tmp_path):
    model = make_model()
    save_pretrained(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    hidden = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    gate, up, down = (stored[EXPERT.replace("up_proj", f"{kind}_proj")] for kind in ("gate", "up", "down"))
    expected = (torch.nn.functional.silu(hidden @ gate.T) * (hidden @ up.T)) @ down.T
    found = model.layers[1].mlp.experts(hidden, torch.full((6, 1), 3), torch.ones(6, 1))
    torch.testing.assert_close(found, expected)


def test_published_tensors_are_views_of_the_weights():
    model = make_model()
    dict(published_tensors(model))[EXPERT].fill_(7.0)
    assert (model.layers[1].mlp.experts.gate_up_proj[3, 8:] == 7).all()
    assert (model.layers[1].mlp.experts.gate_up_proj == 7).sum() == 8 * 16


def test_a_bf16_expert_bias_loads_and_stays_fp32(tmp_path):
    model = make_model(torch.bfloat16)
    save_pretrained(model, tmp_path)
    name = "model.layers.2.mlp.gate.expert_bias"
    assert load_file(tmp_path / "model.safetensors")[name].dtype == torch.float32
    rewrite(tmp_path / "model.safetensors", lambda tensors: tensors.update({name: tensors[name].bfloat16()}))
    loaded = load_pretrained(tmp_path)
    assert loaded.layers[2].mlp.gate.expert_bias.dtype == torch.float32
    assert torch.equal(loaded.layers[2].mlp.gate.expert_bias, model.layers[2].mlp.gate.expert_bias.bfloat16().float())


def test_the_dtype_argument_casts_and_the_config_tells_what_was_written(tmp_path):
    model = make_model()
    config = LLaDA2Config.from_dict({**CONFIG.to_dict(), "torch_dtype": "float32"})
    model.config = config
    save_pretrained(model, tmp_path)
    rounded = load_pretrained(tmp_path, dtype=torch.bfloat16)
    assert rounded.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(rounded.lm_head.weight, model.lm_head.weight.bfloat16())
    save_pretrained(rounded, tmp_path / "rounded")
    assert json.loads((tmp_path / "rounded" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_second_save_leaves_no_weights_of_the_first(tmp_path):
    model = make_model()
    for max_shard_bytes in (5000, 9000, 10**9, 5000):
        save_pretrained(make_model(torch.float64), tmp_path, max_shard_bytes=max_shard_bytes)
        save_pretrained(model, tmp_path, max_shard_bytes=max_shard_bytes)
        assert_same_model(load_pretrained(tmp_path), model)
        index = tmp_path / "model.safetensors.index.json"
        assert index.exists() == (max_shard_bytes < 10**9)
        if index.exists():
            shards = set(json.loads(index.read_text())["weight_map"].values())
            assert {file.name for file in tmp_path.glob("*.safetensors")} == shards


def test_the_tokenizer_is_saved_beside_the_weights(tmp_path):
    class Tokenizer:
        def save_pretrained(self, save_directory: str) -> None:
            Path(save_directory, "templates").mkdir()
            for name in ("tokenizer.json", "templates/tool.jinja"):
                Path(save_directory, name).write_text(name)

    for _ in range(2):
        save_pretrained(make_model(), tmp_path / "deep" / "er", tokenizer=Tokenizer())
        files = {str(file.relative_to(tmp_path / "deep" / "er")) for file in (tmp_path / "deep" / "er").rglob("*.*")}
        assert files == {"config.json", "model.safetensors", "tokenizer.json", "templates/tool.jinja"}


CODE = {
    "modeling_llada2_moe.py": "from .configuration_llada2_moe import LLaDA2MoeConfig\nfrom .parts import x\n",
    "configuration_llada2_moe.py": "import json\n",
    "parts.py": "from .modeling_llada2_moe import y  # in a circle\n",
}
AUTO_MAP = {
    "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
    "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
    "AutoModel": "owner/repository--modeling.Model",
}


def published_folder(folder: Path, *missing: str, **entries: object) -> Path:
    """A policy as it is published: with code, and settings of generation."""
    save_pretrained(make_model(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {**AUTO_MAP, **entries}}))
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    for name in CODE.keys() - set(missing):
        (folder / name).write_text(CODE[name])
    (folder / "unrelated.py").write_text("")
    return folder


def test_code_that_the_config_names_travels_with_the_weights(tmp_path):
    model = load_pretrained(published_folder(tmp_path / "published"))
    shutil.rmtree(tmp_path / "published")  # a checkpoint is written hours later
    for name in ("first", "second"):
        save_pretrained(model, tmp_path / name)
        for file, content in CODE.items():
            assert (tmp_path / name / file).read_text() == content
        assert json.loads((tmp_path / name / "config.json").read_text())["auto_map"] == AUTO_MAP
        assert json.loads((tmp_path / name / "generation_config.json").read_text()) == {"eos_token_id": [1, 2]}
        assert not (tmp_path / name / "unrelated.py").exists()
        model = load_pretrained(tmp_path / name)


@pytest.mark.parametrize(
    ("missing", "kept"),
    [
        (["modeling_llada2_moe.py"], {"AutoConfig", "AutoModel"}),
        (["parts.py"], {"AutoConfig", "AutoModel"}),
        (["configuration_llada2_moe.py"], {"AutoModel"}),
        (list(CODE), {"AutoModel"}),
    ],
)
def test_a_config_does_not_name_code_that_is_not_there(tmp_path, missing, kept):
    save_pretrained(load_pretrained(published_folder(tmp_path / "published", *missing)), tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["auto_map"].keys() == kept


def test_without_any_code_there_is_no_auto_map(tmp_path):
    folder = published_folder(tmp_path / "published", *CODE, AutoModel="modeling_llada2_moe.LLaDA2MoeModel")
    save_pretrained(load_pretrained(folder), tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    assert {file.name for file in (tmp_path / "saved").glob("*.py")} == set()


@pytest.mark.parametrize("max_shard_bytes", [10**9, 9000])
def test_a_write_that_fails_raises_oserror_and_leaves_the_old_checkpoint_whole(tmp_path, max_shard_bytes):
    model = make_model()
    save_pretrained(model, tmp_path, max_shard_bytes=max_shard_bytes)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # as on a full disk: files stop growing
    try:
        with pytest.raises(OSError, match=r"cannot write model.*safetensors into .*test_a_write"):
            save_pretrained(make_model(), tmp_path, max_shard_bytes=max_shard_bytes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert_same_model(load_pretrained(tmp_path), model)


def test_a_shard_size_that_fits_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_shard_bytes must be positive, got 0"):
        save_pretrained(make_model(), tmp_path, max_shard_bytes=0)


def drop(tensors):
    del tensors[EXPERT]


def misname(tensors):
    tensors[EXPERT.replace("up_proj", "upp_proj")] = tensors.pop(EXPERT)


def reshape(tensors):
    tensors[EXPERT] = tensors[EXPERT].T.contiguous()


def quantise(tensors):
    tensors[EXPERT] = tensors[EXPERT].to(torch.int8)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, rf"tensor '{EXPERT}' of shape \(8, 16\) is missing"),
        (misname, "unexpected tensor 'model.layers.1.mlp.experts.3.upp_proj.weight'"),
        (reshape, rf"tensor '{EXPERT}' has shape \(16, 8\), expected \(8, 16\)"),
        (quantise, f"tensor '{EXPERT}' has dtype I8, expected one of .*BF16"),
    ],
)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 5000])
def test_a_wrong_tensor_is_named_with_its_file(tmp_path, damage, message, max_shard_bytes):
    save_pretrained(make_model(), tmp_path, max_shard_bytes=max_shard_bytes)
    file = next(file for file in tmp_path.glob("*.safetensors") if EXPERT in load_file(file))
    rewrite(file, damage)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_pretrained(tmp_path)
    assert file.name in str(raised.value)


@pytest.mark.parametrize("kept", [0, 4, 100, -1, -1000])
def test_a_truncated_file_is_named(tmp_path, kept):
    save_pretrained(make_model(), tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a complete safetensors file"):
        load_pretrained(tmp_path)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone is not a folder"):
        load_pretrained(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        load_pretrained(tmp_path)
    save_pretrained(make_model(), tmp_path, max_shard_bytes=5000)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{shard.name} is missing; .*index\.json says that it holds 'model\."):
        load_pretrained(tmp_path)
    shard.write_bytes(content)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        load_pretrained(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    save_pretrained(make_model(), tmp_path, max_shard_bytes=5000)
    files = sorted(tmp_path.glob("*.safetensors"))
    double = next(iter(load_file(files[0]).items()))
    rewrite(files[1], lambda tensors: tensors.update([double]))
    with pytest.raises(CheckpointError, match=f"tensor '{double[0]}' is stored in another shard too"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_named(tmp_path, text):
    save_pretrained(make_model(), tmp_path, max_shard_bytes=5000)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json: expected"):
        load_pretrained(tmp_path)
