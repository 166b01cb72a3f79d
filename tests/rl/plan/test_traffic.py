"""Bytes and seconds by hand on round numbers."""

from dataclasses import replace

import pytest

from plans import FLASH, MINI, TINY, plan_setup
from redraft.rl.plan.batch import plan_batch
from redraft.rl.plan.traffic import checkpoint_bytes, plan_traffic, step_seconds, sync_bytes

T100 = "trainer.tokens_per_microbatch=100"
LAST, EVERY = (f"trainer.parallel.gradient_sync={when}" for when in ("last", "every"))


def on_two_nodes(*words: str):
    """Four ranks in nodes of two: experts over 2, each share in 2 pieces."""
    setup = plan_setup(TINY, 4, T100, "trainer.parallel.expert_parallel=2", *words)
    return replace(setup, machine=replace(setup.machine, gpus_per_node=2, node_rate=100.0, network_rate=10.0))


def test_bytes_of_a_micro_batch_by_hand():
    traffic = plan_traffic(on_two_nodes())
    assert traffic.expert_rows == 6 * 2 * 1.5 * 16 * 2 * 1 * 100  # 6 k imb H 2 R T
    assert traffic.expert_gathers == 8 * 1536 / 2 * (1 - 1 / 2)
    assert traffic.dense_gathers == 8 * 4916 * (1 - 1 / 4)
    assert traffic.flops == 2 * (4916 + 1536 / 2) * 100 * 4
    assert traffic.rows_s == pytest.approx(traffic.expert_rows / 100)
    assert traffic.gathers_s == pytest.approx((traffic.expert_gathers + traffic.dense_gathers) / 10)
    assert traffic.ratio == pytest.approx((traffic.rows_s + traffic.gathers_s) / traffic.compute_s)


def test_without_checkpointing_a_forward_is_saved():
    with_it, without = (plan_traffic(on_two_nodes(*words)) for words in ([], ["trainer.activation_checkpointing=none"]))
    assert without.flops == with_it.flops * 3 / 4


def test_gradients_that_are_not_reduced_are_not_sent():
    assert plan_traffic(on_two_nodes(LAST)).dense_gathers == 4 * 4916 * 3 / 4
    assert plan_traffic(on_two_nodes(LAST)).expert_gathers == plan_traffic(on_two_nodes(EVERY)).expert_gathers
    lora = plan_traffic(on_two_nodes("model.lora={}"))
    assert (lora.expert_gathers, lora.dense_gathers) == (4 * 1536 / 2 / 2, 4 * 4916 * 3 / 4)


def test_one_gpu_sends_nothing():
    traffic = plan_traffic(plan_setup(TINY, 1, T100))
    assert (traffic.expert_rows, traffic.expert_gathers, traffic.dense_gathers, traffic.ratio) == (0, 0, 0, 0)


@pytest.mark.parametrize(("shape", "tokens"), [(MINI, 32768), (FLASH, 65536)])
def test_tokens_up_to_which_rows_are_fewer_bytes_than_all_experts(shape, tokens):
    assert plan_traffic(plan_setup(shape, 8)).gathering_pays_above == tokens


def test_bytes_of_a_sync_and_of_a_checkpoint():
    setup = plan_setup(MINI, 8)
    assert sync_bytes(setup) == 2 * MINI.parameters
    assert checkpoint_bytes(setup) == (12 * MINI.parameters, 4 * MINI.parameters)
    masters = plan_setup(MINI, 8, "trainer.optimizer.offload=all")
    assert checkpoint_bytes(masters) == (14 * MINI.parameters, 2 * MINI.parameters)
    lora = plan_setup(MINI, 1, "model.lora={rank: 16, targets: all}", "cluster.backend=inprocess")
    assert sync_bytes(lora) == 2 * MINI.parameters
    assert checkpoint_bytes(lora) == (12 * 441_253_888, 4 * (441_253_888 + 19 * 256 * 16 * 2048))
    assert (
        checkpoint_bytes(plan_setup(MINI, 8, "trainer.optimizer=adamw_bf16_sr", "model.dtype=bfloat16"))[0]
        == 6 * MINI.parameters
    )


def seconds(shape, gpus, *words, cache=1e12):
    setup = plan_setup(shape, gpus, "rollout.prompts_per_step=64", *words)
    return step_seconds(setup, plan_batch(setup), plan_traffic(setup), cache)


def test_a_step_on_one_gpu_by_hand():
    words = ["rollout.slots=512", "rollout.decode.max_completion_length=120"]
    found = seconds(MINI, 1, *words)
    read, row = 2 * MINI.parameters / 3.35e12, 2 * MINI.active_parameters * 8 / 400e12
    assert found.rollout == pytest.approx(40 * read + 512 * 40 * row)  # one wave of 120 / 3 forwards
    per_token = 2 * MINI.active_parameters / 400e12
    # 512 completions, 2 views, composite input of 2 * 128 - 8 tokens; half a pass each of old and current, 4 backward
    assert found.update == pytest.approx(512 * 2 * 248 * (1 + 4) * per_token)
    assert found.sync == pytest.approx(2 * MINI.parameters / 450e9)
    assert found.step == found.rollout + found.update + found.sync


def test_fewer_slots_make_more_waves():
    words = ["rollout.slots=512", "rollout.decode.max_completion_length=120"]
    whole = 512 * 128 * 40960
    assert seconds(MINI, 1, *words, cache=whole).rollout < seconds(MINI, 1, *words, cache=whole / 4).rollout


def test_more_gpus_take_less_time_and_offload_takes_more():
    assert seconds(MINI, 8).step < seconds(MINI, 4).step
    assert seconds(MINI, 8, "trainer.optimizer.offload=all").update > seconds(MINI, 8).update
