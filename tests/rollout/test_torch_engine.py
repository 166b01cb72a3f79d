"""The torch engine: the block cache against full recomputation, and what a pass computes."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oracles.plain_forward import states_before
from rl.models.llada2.config import LLaDA2Config
from rl.models.llada2.model import LLaDA2Model, init_weights
from rollout.blocks import block_causal_mask
from rollout.config import DecodeConfig
from rollout.decoder import decode
from rollout.torch_engine import TorchEngine, TorchSession, lay_out
from rollout.trajectory import Completion, Prompt, SpecialTokens

TOKENS = SpecialTokens(mask=1, pad=0, stops=(2,))
SAMPLED = DecodeConfig(
    block_length=4,
    threshold=0.3,
    editing_threshold=0.15,
    max_post_steps=2,
    max_completion_length=14,
    temperature=1.0,
    edit_sampling="sample",
    unmask_confidence="top",
)
RECORDED = SAMPLED.model_copy(update={"record_routes": True})


def llada2(dtype: torch.dtype = torch.float64, seed: int = 0) -> LLaDA2Model:
    config = LLaDA2Config.from_dict(
        {
            "vocab_size": 24,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_shared_experts": 1,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 8,
            "first_k_dense_replace": 1,
            "max_position_embeddings": 64,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "routed_scaling_factor": 2.5,
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.5,
            "pad_token_id": 0,
            "mask_token_id": 1,
            "eos_token_id": 2,
        }
    )
    model = LLaDA2Model(config, dtype=dtype)
    init_weights(model, torch.Generator().manual_seed(seed))
    return model


def ragged_prompts() -> list[Prompt]:
    generator = torch.Generator().manual_seed(3)
    sizes = [0, 1, 4, 7, 13, 22]
    return [
        Prompt(f"p{size}", tuple(torch.randint(3, 24, (size,), generator=generator).tolist()), seed=size)
        for size in sizes
    ]


class AuditedEngine(TorchEngine):
    """Compares every forward of the cached engine with a recomputation of each canvas from nothing."""

    def __init__(self, model: LLaDA2Model) -> None:
        super().__init__(model)
        self.whole = model
        self.fused_commits = 0

    def open(self, num_rows: int, length: int, block_length: int) -> TorchSession:
        session = super().open(num_rows, length, block_length)
        cached_forward = session.forward

        def audited(canvas: Tensor, rows: Tensor, committed: Tensor, active: Tensor) -> Tensor:
            logits = cached_forward(canvas, rows, committed, active)
            for entry, (row, start) in enumerate(zip(rows.tolist(), active.tolist(), strict=True)):
                full = self.whole(canvas[row : row + 1, : start + block_length], block_length)
                torch.testing.assert_close(logits[entry], full[0, start:], rtol=0, atol=1e-10)
            self.fused_commits += int(((active - committed > 0) & (committed > 0)).sum())
            return logits

        session.forward = audited
        return session


def test_every_cached_forward_equals_a_recomputation_of_the_whole_canvas():
    engine = AuditedEngine(llada2())
    completions = decode(engine, ragged_prompts(), SAMPLED, TOKENS)
    assert engine.fused_commits > 5
    assert sum(completion.trace.num_edits for completion in completions) > 20


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_completion_does_not_depend_on_its_batch(temperature):
    engine, prompts = TorchEngine(llada2()), ragged_prompts()
    config = SAMPLED.model_copy(update={"temperature": temperature})
    together = decode(engine, prompts, config, TOKENS)
    apart = [decode(engine, [prompt], config, TOKENS)[0] for prompt in prompts]
    assert [completion.canvas_ids for completion in apart] == [completion.canvas_ids for completion in together]
    for one, other in zip(apart, together, strict=True):
        assert one.trace.forward == other.trace.forward
        assert one.trace.new == other.trace.new
        assert one.trace.log_prob == pytest.approx(other.trace.log_prob, abs=1e-10)
    chunked = decode(engine, prompts, config, TOKENS, max_rows=4)
    assert [completion.canvas_ids for completion in chunked] == [completion.canvas_ids for completion in together]


def test_a_pass_runs_the_active_blocks_and_the_uncommitted_ones_before_them():
    rows, committed, active = torch.tensor([0, 3, 5]), torch.tensor([8, 0, 4]), torch.tensor([8, 8, 8])
    batch_rows, starts = lay_out(rows, committed, active, 4)
    assert batch_rows.tolist() == [0, 3, 5, 3, 3, 5]
    assert starts.tolist() == [8, 8, 8, 0, 4, 4]


@dataclass
class TinyConfig:
    vocab_size: int = 24
    max_position_embeddings: int = 64


class TinyModel(nn.Module):
    """One attention layer: a block model that has nothing to do with LLaDA2."""

    def __init__(self) -> None:
        super().__init__()
        self.config = TinyConfig()
        self.embed = nn.Embedding(24, 8)
        self.project = nn.Linear(8, 24, bias=False)
        self.head = nn.Linear(8, 24)
        self.slots_run = 0
        self.slots_scored = 0

    def hidden_states(self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, cache) -> Tensor:
        self.slots_run += input_ids.numel()
        hidden = self.embed(input_ids) + torch.sin(position_ids[..., None].to(self.head.weight.dtype))
        query, key, value = self.project(hidden)[:, None].split(8, dim=-1)
        key, value = cache.update(0, key, value)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask[:, None])
        return hidden + mixed[:, 0]

    def logits(self, hidden: Tensor) -> Tensor:
        self.slots_scored += hidden.shape[0] * hidden.shape[1]
        return 4.0 * self.head(hidden)


def test_any_block_model_is_decoded_and_no_slot_is_run_for_padding():
    torch.manual_seed(0)
    model = TinyModel().double()
    config = DecodeConfig(block_length=4, threshold=0.0, editing_threshold=1.0, max_completion_length=8)
    prompts = [Prompt("long", (3,) * 16, seed=0), Prompt("short", (), seed=0)]
    completions = decode(TorchEngine(model), prompts, config, SpecialTokens(mask=1, pad=0, stops=()))
    assert [completion.num_forwards for completion in completions] == [2, 2]
    # Per row: each generated block once as active, each but the last once more to commit it; the prompt once.
    assert model.slots_run == (2 * 4 + 4 + 16) + (2 * 4 + 4)
    assert model.slots_scored == 4 * 4  # the head sees active blocks only


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_models_are_decoded(dtype):
    completions = decode(TorchEngine(llada2(dtype)), ragged_prompts(), SAMPLED, TOKENS)
    for completion in completions:
        assert TOKENS.mask not in completion.canvas_ids
        assert max(completion.trace.log_prob) <= 1e-6


def test_weights_may_change_between_decodes_of_one_engine():
    model, prompts = llada2(seed=0), ragged_prompts()
    engine = TorchEngine(model)
    before = decode(engine, prompts, SAMPLED, TOKENS)
    init_weights(model, torch.Generator().manual_seed(1))
    after = decode(engine, prompts, SAMPLED, TOKENS)
    assert after != before
    assert after == decode(TorchEngine(llada2(seed=1)), prompts, SAMPLED, TOKENS)


def test_a_model_can_be_trained_after_a_decode():
    model = llada2()
    decode(TorchEngine(model), ragged_prompts(), SAMPLED, TOKENS)
    model(torch.tensor([[3, 4, 5, 1]]), 4).sum().backward()
    assert all(parameter.grad is not None for parameter in model.lm_head.parameters())


def test_a_module_that_is_no_block_model_is_refused():
    with pytest.raises(TypeError, match="Linear must have hidden_states, logits and config"):
        TorchEngine(nn.Linear(2, 2))


# --- routes of a mixture of experts -------------------------------------------------------------------------------


def routes_by_recomputation(model: LLaDA2Model, prompt: Prompt, completion: Completion) -> list[list[list[set[int]]]]:
    """Experts by forward, layer and slot: every state runs as a whole canvas, without a cache and alone."""
    found, trace = [], completion.trace
    states = states_before(prompt.token_ids, trace, len(prompt.token_ids) + len(completion.canvas_ids))
    for forward, state in enumerate(states):
        acted = max(f for f in trace.forward if f <= forward)
        slot = next(p for f, p in zip(trace.forward, trace.position, strict=True) if f == acted)
        end = (len(prompt.token_ids) + slot) // 4 * 4 + 4
        positions = torch.arange(end)[None]
        tape = model.route_tape()
        mask = block_causal_mask(positions, positions, 4)
        model.hidden_states(torch.tensor([state[:end]]), positions, mask, tape=tape)
        found.append([[set(token) for token in layer[-4:]] for layer in tape.routes.tolist()])
    return found


@torch.no_grad()
def test_recorded_routes_are_those_of_a_recomputation_of_every_state():
    model, prompts = llada2(), ragged_prompts()
    completions = decode(TorchEngine(model), prompts, RECORDED, TOKENS)
    assert len({completion.num_forwards for completion in completions}) > 2  # rows leave the batch at different times
    for prompt, completion in zip(prompts, completions, strict=True):
        routes = completion.trace.routes
        assert routes.shape == (completion.num_forwards, 2, 4, 2)
        assert routes.dtype == np.int16
        found = [[[set(token) for token in layer] for layer in forward] for forward in routes.tolist()]
        assert found == routes_by_recomputation(model, prompt, completion)


def test_recorded_routes_do_not_depend_on_the_batch():
    engine, prompts = TorchEngine(llada2()), ragged_prompts()
    together = decode(engine, prompts, RECORDED, TOKENS)
    by_two = decode(engine, prompts, RECORDED, TOKENS, max_rows=2)
    alone = [decode(engine, [prompt], RECORDED, TOKENS)[0] for prompt in prompts]
    for one, two, three in zip(together, by_two, alone, strict=True):
        assert np.array_equal(one.trace.routes, two.trace.routes)
        assert np.array_equal(one.trace.routes, three.trace.routes)


def test_recording_changes_no_completion_and_is_off_by_default():
    engine, prompts = TorchEngine(llada2()), ragged_prompts()
    plain = decode(engine, prompts, SAMPLED, TOKENS)
    assert decode(engine, prompts, RECORDED, TOKENS) == plain
    assert all(completion.trace.routes is None for completion in plain)


def test_routes_travel_without_those_of_the_other_rows():
    completions = decode(TorchEngine(llada2()), ragged_prompts(), RECORDED, TOKENS)
    for completion in completions:
        routes = completion.trace.routes
        assert routes.base is None or routes.base.nbytes == routes.nbytes
        copy = pickle.loads(pickle.dumps(completion))
        assert copy == completion
        assert np.array_equal(copy.trace.routes, routes)
        assert len(pickle.dumps(routes)) < routes.nbytes + 300


def test_a_model_without_routers_is_decoded_but_records_no_routes():
    engine, tokens = TorchEngine(TinyModel().double()), SpecialTokens(mask=1, pad=0, stops=())
    config = DecodeConfig(block_length=4, threshold=0.0, max_completion_length=4)
    assert decode(engine, [Prompt("p", (3,), seed=0)], config, tokens)[0].trace.routes is None
    with pytest.raises(TypeError, match="TinyModel has no route_tape: its routes cannot be recorded"):
        decode(engine, [Prompt("p", (3,), seed=0)], config.model_copy(update={"record_routes": True}), tokens)
