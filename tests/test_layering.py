"""Imports point one way, and each heavy package has one owner."""

import ast
from pathlib import Path

import pytest

from conftest import ROOT

LAYERS = {"rl": {"rollout", "rewards"}, "rollout": set(), "rewards": set()}
OWNERS = {
    "ray": {"rl/actors.py", "rl/cluster.py"},
    "vllm": {f"rollout/vllm_{part}.py" for part in ("engine", "plugin", "request", "rows", "scheduler", "worker")},
    "accelerate": {"rl/tracking.py", "rl/sft.py"},
    "trl": {"rewards/trl.py", "rl/sft.py", "rl/dpo.py"},
    "wandb": {"rl/tracking.py"},
    "tensorboard": {"rl/tracking.py"},
    "trackio": {"rl/tracking.py"},
    "math_verify": {"rewards/answers/algebra.py"},
    "langdetect": {"rewards/instructions/language.py"},
    "nltk": {"rewards/instructions/language.py"},
    "openai": {"rewards/endpoint.py"},
}
MODEL_NAME_HOLDERS = {"rl/policy.py"}


def sources() -> list[Path]:
    return [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def key(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", sources(), ids=key)
def test_imports_point_one_way(path):
    layer = key(path).split("/")[0]
    used = {name.split(".")[0] for name in imported(path)} & LAYERS.keys() - {layer}
    assert used <= LAYERS[layer], f"{key(path)} imports {used - LAYERS[layer]}"


@pytest.mark.parametrize("path", sources(), ids=key)
def test_heavy_packages_are_imported_by_their_owners_only(path):
    used = {name.split(".")[0] for name in imported(path)} & OWNERS.keys()
    strangers = {package for package in used if key(path) not in OWNERS[package]}
    assert not strangers, f"{key(path)} imports {strangers}"


def test_rewards_import_no_torch():
    for path in (ROOT / "rewards").rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & {"torch", "transformers", "numpy"}, key(path)


def test_rollouts_do_not_know_any_model():
    for path in (ROOT / "rollout").rglob("*.py"):
        assert not any(name.startswith("rl") for name in imported(path)), key(path)


def test_only_the_policy_module_knows_the_model_family():
    for path in (ROOT / "rl").rglob("*.py"):
        if "models" not in path.parts and key(path) not in MODEL_NAME_HOLDERS:
            assert not any(name.startswith("rl.models") for name in imported(path)), key(path)


def test_the_loop_is_short_and_knows_no_ray():
    loop = ROOT / "rl" / "loop.py"
    assert len(loop.read_text().splitlines()) < 200
    assert not imported(loop) & {"ray", "torch", "rl.cluster", "rl.worker"}


def test_no_file_is_longer_than_400_lines():
    for path in sources():
        assert len(path.read_text().splitlines()) <= 400, key(path)
