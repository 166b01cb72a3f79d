"""The fixtures' supervised training."""

import dataclasses

import pytest
import torch

from benchmarks.common.policies import decode
from benchmarks.common.pretrain import PretrainConfig, pretrain
from oracles.tiny_policy import TOKENS, tiny_model
from redraft.rollout.config import DecodeConfig
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Prompt, SpecialTokens

CONFIG = PretrainConfig(steps=60, batch_size=16, learning_rate=1e-2, seed=0, block_length=4)
ROWS = [((2, 3), (3, 3, 3)), ((4, 5), (5, 5, 5)), ((6, 2), (6,))]


def test_training_lowers_the_loss_and_the_policy_answers_as_it_was_shown():
    model = tiny_model()
    before = pretrain(tiny_model(), ROWS, TOKENS, dataclasses.replace(CONFIG, steps=1, learning_rate=1e-12))
    after = pretrain(model, ROWS, TOKENS, dataclasses.replace(CONFIG, steps=200))
    assert after < 0.2 * before
    prompts = [Prompt(str(prompt), prompt, seed=0) for prompt, _ in ROWS]
    made = decode(TorchEngine(model), prompts, DecodeConfig(block_length=4, max_completion_length=4), TOKENS)
    assert [one.token_ids for one in made] == [(*completion, 1) for _, completion in ROWS]


def test_the_same_seed_gives_the_same_weights_bit_by_bit_and_another_seed_does_not():
    def weights(seed: int) -> list[torch.Tensor]:
        model = tiny_model()
        pretrain(model, ROWS, TOKENS, dataclasses.replace(CONFIG, steps=3, seed=seed))
        return list(model.state_dict().values())

    first, second, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_rows_that_cannot_be_laid_out_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        pretrain(tiny_model(), [], TOKENS, CONFIG)
    endless = SpecialTokens(mask=7, pad=0, stops=())
    with pytest.raises(ValueError, match="5 tokens must be filled up to whole blocks of 4"):
        pretrain(tiny_model(), [((2, 3), (3, 3, 3))], endless, CONFIG)
