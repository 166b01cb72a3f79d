"""The layout of a rollout policy's weights on a CPU: other strides, the same numbers."""

import torch
from torch import nn

from oracles.tiny_policy import tiny_model
from redraft.rl.models.registry import load_policy, save_policy
from redraft.rl.weight_sync.outbox import Outbox
from redraft.rollout.engine.torch_engine import store_by_input
from redraft.rollout.weights.checksum import fingerprint
from redraft.rollout.weights.incoming import transfer
from redraft.rollout.worker import load_rollout_policy
from tiny import make_policy


def test_matrices_are_stored_by_input_and_say_what_they_said():
    model, plain = store_by_input(tiny_model()), tiny_model()
    tokens = torch.arange(8)[None] % 7
    torch.testing.assert_close(model(tokens, 4), plain(tokens, 4), rtol=0, atol=1e-12)
    assert fingerprint(model.state_dict()) == fingerprint(plain.state_dict())
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            by_input = parameter.dim() >= 2 and not isinstance(module, nn.Embedding)
            assert (parameter.mT if by_input else parameter).is_contiguous()


def test_a_policy_in_this_layout_is_saved_as_any_other(tmp_path):
    laid_out, plain = tmp_path / "laid_out", tmp_path / "plain"
    save_policy(store_by_input(tiny_model()), laid_out, None)
    save_policy(tiny_model(), plain, None)
    assert (laid_out / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_new_weights_keep_the_layout_of_a_rollout_policy(tmp_path):
    policy = load_rollout_policy(load_policy, str(make_policy(tmp_path / "policy")), "float32", "cpu")
    strides = [parameter.stride() for parameter in policy.model.parameters()]
    newer = load_rollout_policy(load_policy, str(make_policy(tmp_path / "newer", seed=1)), "float32", "cpu")
    transfer(Outbox(newer.model, 4096).of_version(3), policy)
    assert [parameter.stride() for parameter in policy.model.parameters()] == strides
    assert policy.model.lm_head.weight.stride(0) == 1
    assert fingerprint(policy.model.state_dict()) == fingerprint(newer.model.state_dict())
