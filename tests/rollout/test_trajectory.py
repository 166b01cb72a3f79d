"""Derived views of a trace, and groups."""

import subprocess
import sys

import pytest

from redraft.rollout.trajectory import Completion, DecodeTrace, Edit, Prompt, RolloutGroup, group_rollouts

MASK = 9
# Forward 0 fills slots 0 and 2; 1 fills slot 1 and edits slot 0; 2 redraws slots 0 (kept) and 2 (changed).
TRACE = DecodeTrace(
    mask=MASK,
    num_forwards=4,
    forward=(0, 0, 1, 1, 2, 2),
    position=(0, 2, 0, 1, 0, 2),
    old=(MASK, MASK, 5, MASK, 6, 7),
    new=(5, 7, 6, 8, 6, 3),
    log_prob=(0.0,) * 6,
    log_prob_raw=(0.0,) * 6,
)


def completion_of(prompt: Prompt) -> Completion:
    return Completion(prompt.id, (6, 8), (6, 8, 3), "length", TRACE)


def test_a_trace_tells_when_each_slot_was_unmasked_and_last_changed():
    assert TRACE.unmask_forward == (0, 1, 0)
    assert TRACE.last_edit_forward == (1, -1, 2)


def test_edits_are_the_real_changes_of_visible_tokens():
    assert TRACE.edits == (Edit(1, 0, 5, 6), Edit(2, 2, 7, 3))
    assert TRACE.num_edits == 2


def test_a_completion_counts_its_forwards():
    completion = completion_of(Prompt("p", (1,), seed=0))
    assert completion.num_forwards == 4
    assert completion.tokens_per_forward == 0.5


def test_rollouts_are_grouped_in_the_order_in_which_groups_appear():
    prompts = [Prompt(f"p{i}", (1,), seed=i, group=group) for i, group in enumerate([7, 2, 7])]
    completions = [completion_of(prompt) for prompt in prompts]
    assert group_rollouts(prompts, completions) == [
        RolloutGroup((prompts[0], prompts[2]), (completions[0], completions[2])),
        RolloutGroup((prompts[1],), (completions[1],)),
    ]


def test_a_completion_at_the_wrong_place_is_an_error():
    first, second = Prompt("a", (), seed=0), Prompt("b", (), seed=0)
    with pytest.raises(ValueError, match="completion of prompt 'b' stands where 'a' is expected"):
        group_rollouts([first, second], [completion_of(second), completion_of(first)])


def test_trajectories_chat_and_config_load_no_torch():
    code = "import sys; from redraft.rollout import trajectory, config, chat; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
