"""AdamW with little memory: stochastic rounding is unbiased and resumable, moments on the host change nothing."""

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from redraft.rl.config.sections import TrainerConfig
from redraft.rl.learner.optim import make_optimizer, set_learning_rate
from redraft.rl.learner.optim_low import LeanAdamW, round_to_bf16


def trainer(kind="adamw", offload="none", **more):
    return TrainerConfig(**{"learning_rate": 1e-2, "optimizer": {"kind": kind, "offload": offload}, **more})


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).to(dtype)


def stepped(optimizer, model, steps, start=0):
    """Steps with gradients that depend on the step alone."""
    for step in range(start, start + steps):
        source = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=source).to(parameter.dtype)
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("value", [0.99, -0.99, 1e-3, -3.7e5, 1.0, 0.0, 2.0**-127])
def test_the_expectation_of_stochastic_rounding_is_the_number(value):
    """All 2^16 draws, each as likely: the mean of what they give is the fp32 number exactly."""
    number = torch.tensor(value, dtype=torch.float32)
    noise = torch.arange(1 << 16)
    rounded = round_to_bf16(number.expand(1 << 16).contiguous(), noise)
    assert len(rounded.unique()) <= 2
    assert (rounded.double() - number.double()).abs().max() <= abs(number.double()) * 2**-7
    assert rounded.double().mean() == number.double()


def test_small_steps_are_lost_by_rounding_to_nearest_and_kept_by_stochastic_rounding():
    """100 steps of 1e-4 from 1 lead to 0.99; half a bf16 step there is 2^-9 = 0.00195."""
    means = {}
    for rounding in (None, 7):
        weight = nn.Parameter(torch.ones(4000, dtype=torch.bfloat16))
        optimizer = LeanAdamW([{"params": [weight], "lr": 1e-4, "weight_decay": 0.0}], (0.9, 0.99), rounding=rounding)
        for _ in range(100):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        means[rounding] = weight.detach().double().mean().item()
    assert means[None] == 1.0
    assert means[7] == pytest.approx(0.99, abs=3e-4)


def test_the_noise_belongs_to_seed_step_and_place():
    first, again = (
        stepped(make_optimizer(model := network(torch.bfloat16), trainer("adamw_bf16_sr"), 3), model, 4) for _ in "ab"
    )
    other = stepped(make_optimizer(model := network(torch.bfloat16), trainer("adamw_bf16_sr"), 4), model, 4)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_pieces_change_no_bit(monkeypatch):
    whole = stepped(make_optimizer(model := network(torch.bfloat16), trainer("adamw_bf16_sr"), 3), model, 3)
    monkeypatch.setattr("redraft.rl.learner.optim_low._PIECE", 7)
    pieces = stepped(make_optimizer(model := network(torch.bfloat16), trainer("adamw_bf16_sr"), 3), model, 3)
    assert all(map(torch.equal, whole, pieces))


@pytest.mark.parametrize("offload", ["states", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_on_the_host_step_as_those_on_the_device_bit_for_bit(offload, dtype):
    plain = stepped(make_optimizer(model := network(dtype), trainer(weight_decay=0.1)), model, 5)
    optimizer = make_optimizer(model := network(dtype), trainer(offload=offload, weight_decay=0.1))
    assert isinstance(optimizer, LeanAdamW)
    assert all(map(torch.equal, plain, stepped(optimizer, model, 5)))


def test_master_weights_take_the_steps_that_bf16_weights_show_rounded():
    """The master copies are what fp32 weights would be under gradients rounded to bf16."""
    narrow = network(torch.bfloat16)
    optimizer = make_optimizer(narrow, trainer(offload="all"))
    wide = network(torch.bfloat16).float()
    plain = make_optimizer(wide, trainer())
    for step in range(5):
        source = torch.Generator().manual_seed(step)
        for one, other in zip(narrow.parameters(), wide.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=source).bfloat16()
            other.grad = one.grad.float()
        optimizer.step()
        plain.step()
    for one, other in zip(narrow.parameters(), wide.parameters(), strict=True):
        assert torch.equal(optimizer.state[one]["master"], other)
        assert torch.equal(one, other.bfloat16())
        assert optimizer.state[one]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "offload", "dtype"),
    [
        ("adamw_bf16_sr", "none", torch.bfloat16),
        ("adamw_bf16_sr", "states", torch.bfloat16),
        ("adamw", "all", torch.bfloat16),
    ],
)
def test_a_saved_optimizer_goes_on_bit_for_bit(kind, offload, dtype):
    whole = stepped(make_optimizer(model := network(dtype), trainer(kind, offload), 3), model, 6)
    first = make_optimizer(model := network(dtype), trainer(kind, offload), 3)
    stepped(first, model, 3)
    second = make_optimizer(model, trainer(kind, offload), 3)
    second.load_state_dict(first.state_dict())
    assert all(map(torch.equal, whole, stepped(second, model, 3, start=3)))
    parameter = next(model.parameters())
    assert second.state[parameter]["exp_avg"].dtype == first.state[parameter]["exp_avg"].dtype


def test_without_torchao_eight_bit_moments_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr("redraft.rl.learner.optim.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"needs torchao, which is not installed: pip install 'redraft\[lowbit\]', or use"
    ):
        make_optimizer(network(), trainer("adamw8bit"))


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")  # torchao's own imports
def test_eight_bit_moments_learn_and_go_on_exactly(tmp_path):
    """A matrix of 8192 numbers has moments in 8 bits, which DCP saves and loads; smaller ones stay in fp32."""
    pytest.importorskip("torchao")

    def fresh():
        torch.manual_seed(0)
        model = nn.Linear(64, 128)
        return model, make_optimizer(model, trainer("adamw8bit"))

    def state(model, optimizer):
        return dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))

    model, optimizer = fresh()
    assert type(optimizer.state[model.weight]["exp_avg"]).__name__ == "OptimState8bit"
    stepped(optimizer, model, 3)
    save(state(model, optimizer), checkpoint_id=tmp_path, no_dist=True)
    whole = stepped(optimizer, model, 3, start=3)
    model, optimizer = fresh()
    loaded = state(model, optimizer)
    load(loaded, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
    assert all(map(torch.equal, whole, stepped(optimizer, model, 3, start=3)))

    plain, wide = nn.Linear(64, 128), fresh()[0]
    plain.load_state_dict(wide.state_dict())
    exact = stepped(make_optimizer(plain, trainer()), plain, 6)
    assert (whole[0] - exact[0]).abs().max() < 0.02  # of six steps of 0.01
    assert set_learning_rate(optimizer, trainer(warmup_steps=4), 0) == pytest.approx(0.0025)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.0025, 0.0025])
