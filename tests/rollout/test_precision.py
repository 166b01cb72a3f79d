"""Settings of products are ours, whatever a library left behind."""

import pytest
import torch

from oracles.tiny_policy import TOKENS, run_config, tiny_model
from redraft.rl.cluster.rollout_worker import rollout_worker
from redraft.rl.learner.worker import LearnerWorker
from redraft.rl.models.registry import save_policy
from redraft.rollout.vllm.policy import ResidentPolicy
from vllm_setup import options_for


@pytest.fixture
def loosened():
    """What a library might have set; the settings are those of before afterwards."""
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("medium")
    matmul.allow_bf16_reduced_precision_reduction = True
    yield
    torch.set_float32_matmul_precision(before[0])
    matmul.allow_bf16_reduced_precision_reduction = before[1]


@pytest.mark.parametrize(
    "start",
    [
        lambda path: LearnerWorker(path, run_config(), TOKENS),
        lambda path: rollout_worker(path, run_config(), TOKENS, None)(),
        lambda path: ResidentPolicy(options_for(path)),
    ],
    ids=["learner", "torch engine", "vLLM"],
)
def test_a_worker_computes_products_of_float32_in_float32(tmp_path, loosened, start):
    save_policy(tiny_model(), tmp_path, None)
    start(str(tmp_path))
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction is False
