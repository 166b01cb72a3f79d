"""The vLLM engine as one of the ways of `python -m benchmarks decode`. Runs where vLLM is installed: see `.ci/vllm`."""

from benchmarks.decode import workload as decode_workload
from benchmarks.decode.measure import Plan, measure
from benchmarks.decode.workload import DECODE
from vllm_setup import MARKS, import_vllm

import_vllm()
pytestmark = MARKS


def test_vllm_decodes_the_same_rows_in_as_many_passes_as_slots(monkeypatch, tmp_path):
    monkeypatch.setenv("REDRAFT_GOLDEN", str(tmp_path))  # random weights
    rules = {"threshold": 0.05, "editing_threshold": 0.1, "max_post_steps": 3}
    monkeypatch.setattr(decode_workload, "DECODE", DECODE.model_copy(update=rules))
    plan = Plan(sizes=("tiny",), new_tokens=40, prompts=3, naive_prompts=1, slots=(2,), dtype="float64")
    *_, slots, vllm = measure(plan, lambda done, total: None)["sizes"]["tiny"]["ways"]
    assert (slots["name"], vllm["name"]) == ("(c) slots, S = 2", "(d) vLLM engine")
    assert vllm["same_rows"] == 3
    assert vllm["passes"] == slots["passes"]
    assert vllm["edits_per_token"] > 0.0
    assert vllm["shares"].keys() == {"body", "head", "policy"}
