"""The supervised stage: its noise, its demonstrations, its loss and its training loop."""

import dataclasses

import pytest
import torch
from transformers import TrainingArguments

from oracles.noise_draws import batch_of, plain_row
from oracles.plain_forward import view_log_probs
from oracles.tiny_policy import TOKENS, tiny_model
from redraft.rl.config.sections import DataConfig, SFTConfig
from redraft.rl.data.load import DataError
from redraft.rl.data.reading import Reader
from redraft.rl.models.registry import plan_policy
from redraft.rl.stages.demonstrations import Demonstration, encode_rows
from redraft.rl.views import supervised_view
from redraft.rollout.trajectory import Completion, DecodeTrace
from tiny import SHAPE

MASK = TOKENS.mask
BLOCK = 4
NO_TRACE = DecodeTrace(2, 1, (), (), (), (), (), ())


def settings(**changes) -> SFTConfig:
    base = {"max_steps": 4, "batch_size": 4, "warmup_steps": 0, "learning_rate": 1e-2, "eval_steps": 2}
    return SFTConfig(data=DataConfig(path="arithmetic"), **{**base, **changes})


# --- noise --------------------------------------------------------------------------------------------------------


def ragged_batch():
    """Prompts and canvases that end inside blocks, and padding."""
    return batch_of(*(plain_row(1 + seed % 7, 3 + seed % 9, seed) for seed in range(60)), block_length=BLOCK)


def test_every_editable_position_is_scored_once_as_a_mask_or_as_visible_and_prompts_stay():
    batch = ragged_batch()
    view = supervised_view(batch, (0.0, 1.0), 0.5, t2t_weight=1.0, mask_id=MASK)
    masked = view.noisy == MASK
    assert torch.equal(view.scored, batch.editable)
    assert torch.equal(masked ^ view.edit, batch.editable)
    assert torch.equal(view.noisy[~batch.editable], batch.tokens[~batch.editable])
    assert (view.weight[~batch.editable] == 0).all()
    assert torch.equal(view.target, batch.tokens)
    wrong = (view.noisy != batch.tokens) & ~masked
    assert wrong.any()
    assert not (wrong & ~view.edit).any()


def test_the_weight_of_every_mask_is_the_blocks_size_over_its_masks():
    batch = ragged_batch()
    view = supervised_view(batch, (0.0, 1.0), 0.1, t2t_weight=0.5, mask_id=MASK)
    for row in range(len(batch.tokens)):
        for start in range(0, batch.tokens.shape[1], BLOCK):
            block = slice(start, start + BLOCK)
            masked, size = (view.noisy[row, block] == MASK), batch.editable[row, block].sum().item()
            count = masked.sum().item()
            assert (count >= 1) == (size >= 1)
            assert view.weight[row, block][masked].tolist() == pytest.approx([size / max(count, 1)] * count)
            seen = view.edit[row, block]
            expected = [0.5 * size / max(size - count, 1)] * (size - count)
            assert view.weight[row, block][seen].tolist() == pytest.approx(expected)


def test_without_edit_noise_visible_tokens_are_as_they_are():
    batch = ragged_batch()
    view = supervised_view(batch, (0.0, 1.0), 0.0, t2t_weight=1.0, mask_id=MASK)
    assert torch.equal(view.noisy, torch.where(view.noisy == MASK, MASK, batch.tokens))


def test_the_mask_ratio_bounds_the_number_of_masks():
    batch = batch_of(*(plain_row(4, 8, seed) for seed in range(100)), block_length=8)
    for low, high, counts in [(0.5, 0.5, {3}), (0.25, 0.75, {2, 3}), (1.0, 1.0, {4}), (0.0, 0.0, {1})]:
        view = supervised_view(batch, (low, high), 0.1, t2t_weight=1.0, mask_id=MASK)
        assert set((view.noisy == MASK)[:, :8].sum(-1).tolist()) == counts  # 4 prompt tokens, 4 editable


def test_what_is_masked_depends_on_the_noise_seed_and_not_on_the_rest_of_the_batch():
    rows = [plain_row(3, 9, seed) for seed in range(20)]
    view = supervised_view(batch_of(*rows), (0.0, 1.0), 0.0, t2t_weight=1.0, mask_id=MASK)
    alone = [supervised_view(batch_of(row), (0.0, 1.0), 0.0, t2t_weight=1.0, mask_id=MASK) for row in rows]
    assert all(torch.equal(one.noisy[0], together) for one, together in zip(alone, view.noisy, strict=True))
    long = batch_of(rows[0], plain_row(20, 20, 0))
    padded = supervised_view(long, (0.0, 1.0), 0.0, t2t_weight=1.0, mask_id=MASK)
    assert torch.equal(padded.noisy[0, :12], view.noisy[0])
    other = batch_of(dataclasses.replace(rows[0], noise_seed=99))
    assert not torch.equal(supervised_view(other, (0.0, 1.0), 0.0, 1.0, MASK).noisy[0], view.noisy[0])


# --- demonstrations -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader():
    return Reader(*plan_policy(SHAPE, 8))


@pytest.mark.parametrize(("completion", "canvas"), [("34", 6), ("3456", 6), ("34567", 6), ("345678", 14), ("", 6)])
def test_demonstrations_end_with_end_tokens_up_to_the_end_of_the_block(reader, completion, canvas):
    [made] = encode_rows([{"prompt": "1=", "completion": completion}], reader, 8)
    tokenizer = reader.tokenizer
    assert tokenizer.decode(made.prompt) == "1="
    assert len(made.canvas) == canvas
    ends = canvas - len(completion)
    assert ends >= 1
    assert made.canvas[len(completion) :] == (tokenizer.eos_token_id,) * ends
    assert tokenizer.decode(made.canvas[: len(completion)]) == completion


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "answer": "b"}, "needs `completion`, as text; got the columns prompt, answer"),
        ({"prompt": "a", "completion": 5}, "needs `completion`, as text; got '5'"),
        ({"prompt": "a", "completion": None}, "needs `completion`, as text; got 'None'"),
        ({"prompt": "a", "completion": "<|mask|>b"}, "`completion` contains the mask token '<|mask|>', id 2"),
        ({"prompt": "a<|mask|>", "completion": "b"}, "the prompt contains the mask token '<|mask|>', id 2"),
        ({"prompt": [{"role": "user", "content": "a"}], "completion": "b"}, "the tokenizer has no chat template"),
        (
            {"prompt": "a" * 5, "completion": "b" * 60},
            "the prompt has 5 tokens; with its completion in whole blocks of 8 it needs 72 positions, but the policy"
            " has 64",
        ),
    ],
)
def test_a_row_that_is_no_demonstration_is_named(reader, row, message):
    fine = {"prompt": "a" * 5, "completion": "b" * 58}
    with pytest.raises(DataError) as error:
        encode_rows([fine, row], reader, 8, "mine (train)")
    assert str(error.value).startswith(f"mine (train): row 2 ({str(row['prompt'])[:40]!r}): ")
    assert message in str(error.value)


def test_what_is_taught_is_what_stops_whatever_the_files_say(reader):
    for tokens in (dataclasses.replace(reader.tokens, stops=(1, 0)), reader.tokens):
        [made] = encode_rows([{"prompt": "1=", "completion": "3"}], dataclasses.replace(reader, tokens=tokens), 8)
        assert made.canvas[1:] == (tokens.end,) * 5
        cut = Completion.cut("1", made.canvas, 8, tokens.stops, NO_TRACE)
        assert (len(cut.token_ids), cut.finish_reason) == (2, "stop")


# --- loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_over_plain_forwards_per_editable_token():
    model, batch = tiny_model(), batch_of(*(plain_row(1 + n, 3 + 2 * n, n) for n in range(5)), block_length=BLOCK)
    config = settings(mask_ratio_min=0.2, mask_ratio_max=0.9, edit_ratio=0.4, t2t_weight=0.7)
    view = supervised_view(batch, (0.2, 0.9), 0.4, 0.7, MASK)
    assert 0 < view.edit.sum() < view.scored.sum()
    log_probs = torch.stack(view_log_probs(model, batch, view, MASK, temperature=1.0))
    expected = -(log_probs * view.weight[view.scored]).sum() / sum(3 + 2 * n for n in range(5))
    from redraft.rl.stages.sft import MixtureLoss

    loss = MixtureLoss(model, config, MASK, BLOCK)(
        batch.tokens, batch.editable, batch.noise_seeds, torch.tensor(batch.prompt_lengths)
    )["loss"]
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


# --- training -----------------------------------------------------------------------------------------------------


def train(folder, config, accuracy=dict, seed=0):
    """Teach the tiny policy to answer 2 with 3 3 3 1; gives its weights and what was reported."""
    model, reports = tiny_model(), []
    rows = [Demonstration((2, 2, 2, 2), (3, 3, 3, 1)), Demonstration((4, 4, 4, 4), (5, 5, 5, 1))] * 4
    from redraft.rl.stages.sft import train_supervised

    train_supervised(
        model,
        rows,
        config,
        accuracy,
        lambda *report: reports.append(report),
        folder=folder,
        seed=seed,
        block_length=BLOCK,
        tokens=TOKENS,
    )
    return model.state_dict(), reports


def test_a_few_steps_reduce_the_loss(tmp_path):
    _, reports = train(tmp_path, settings(max_steps=20, eval_steps=5))
    losses = [metrics["sft/loss"] for _, metrics in reports if "sft/loss" in metrics]
    assert [step for step, _ in reports] == [5, 10, 15, 20]
    assert losses[-1] < 0.5 * losses[0]


def test_training_stops_at_the_target_accuracy(tmp_path):
    accuracies = iter([0.2, 0.6, 0.9])
    config = settings(max_steps=10, target_accuracy=0.5)
    _, reports = train(tmp_path, config, accuracy=lambda: {"eval/accuracy": next(accuracies)})
    assert [(step, metrics) for step, metrics in reports if "eval/accuracy" in metrics] == [
        (2, {"eval/accuracy": 0.2}),
        (4, {"eval/accuracy": 0.6}),
    ]


def test_the_same_seed_gives_the_same_weights_bit_by_bit(tmp_path):
    (first, _), (second, _), (other, _) = (train(tmp_path, settings(), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_trainer_stays_on_the_policys_device_where_there_are_more(tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    from redraft.rl.stages.sft import _arguments

    arguments = _arguments(settings(), tmp_path, 0, torch.device("cuda:1"))
    assert isinstance(arguments, TrainingArguments)
    assert (arguments.device, arguments.n_gpu, chosen[-1]) == (torch.device("cuda:1"), 1, torch.device("cuda:1"))
    assert arguments.train_batch_size == 4
