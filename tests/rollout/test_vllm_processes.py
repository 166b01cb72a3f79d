"""vLLM in processes of its own: the same completions, weights through a file, our names through an entry point."""

import os
import pickle
import subprocess
import sys

import pytest

from alike import assert_alike
from conftest import ROOT
from vllm_setup import MARKS, SAMPLED, by_torch, import_vllm, make_policy, ragged_prompts, unversioned

import_vllm()
pytestmark = MARKS


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def newer_path(tmp_path_factory) -> str:
    return make_policy(tmp_path_factory.mktemp("newer"), seed=5)


@pytest.mark.timeout(600)  # three processes import vLLM, one after the other
def test_a_core_in_a_process_of_its_own_decodes_alike_and_takes_weights_from_a_file(path, newer_path):
    """In a fresh interpreter: vLLM reads once, at its start, whether it may start processes."""
    script = f"""
import pickle, sys
from vllm_setup import *
from redraft.rl.weight_sync.outbox import Outbox
if __name__ == "__main__":
    import_vllm()
    engine = VLLMEngine(options_for({path!r}), LIMITS, multiprocess=True)
    first = by_vllm(engine, ragged_prompts(), SAMPLED)
    from redraft.rl.models.registry import load_policy
    version = engine.sync(Outbox(load_policy({newer_path!r}, "float64", "cpu"), 2**14).of_version(6))
    second = by_vllm(engine, ragged_prompts(), SAMPLED)
    engine.close()
    sys.stdout.buffer.write(b"RESULT" + pickle.dumps((first, version, second)))
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=560)
    assert b"RESULT" in done.stdout, done.stderr.decode()[-3000:]
    first, version, second = pickle.loads(done.stdout.partition(b"RESULT")[2])
    assert_alike(unversioned(first), by_torch(path, ragged_prompts(), SAMPLED))
    assert_alike(unversioned(second), by_torch(newer_path, ragged_prompts(), SAMPLED))
    assert version == 6
    assert {completion.policy_version for completion in second} == {6}


def test_the_plugin_is_found_through_an_entry_point_and_may_register_twice(path, tmp_path):
    """A process that has only the installed package's metadata, as those that vLLM starts itself."""
    metadata = tmp_path / "redraft_plugin-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: redraft-plugin\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nredraft = redraft.rollout.vllm.plugin:register\n"
    )
    script = f"""
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm.transformers_utils.config import get_config
from vllm import ModelRegistry
config = get_config({path!r}, trust_remote_code=False)
assert config.mask_token_id == 1 and config.hidden_size == 16, config
assert set(config.architectures) <= set(ModelRegistry.get_supported_archs())
from redraft.rollout.vllm.plugin import register
register()
print("REGISTERED")
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=120)
    assert b"REGISTERED" in done.stdout, done.stderr.decode()[-3000:]
