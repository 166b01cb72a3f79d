"""What our vLLM worker makes of vLLM's decisions: which pages it trusts, who comes back, who leaves."""

from typing import Any

import pytest
import torch

from redraft.rollout.decoding.slots import Ended, Slots
from redraft.rollout.vllm.policy import Asleep
from vllm_setup import MARKS, TOKENS, import_vllm, options_for

import_vllm()
pytestmark = MARKS

PROMPT = list(range(3, 17))  # 14 tokens: three whole blocks of four, and two tokens of the next


class NotedSlots(Slots):
    """Slots that run nothing: every fact they are told is noted, and blocks end when the test says so."""

    def __init__(self) -> None:
        super().__init__(Asleep(), torch.device("cpu"), TOKENS, block_length=4, num_slots=4, length=64)
        self.committed: dict[str, list[int]] = {}
        self.pages: dict[str, list[int]] = {}
        self.stepped: list[list[str]] = []
        self.ending: list[str] = []

    def name(self, slot: int) -> str:
        return self.running[slot].request.prompt.id

    def admit(self, request, pages, committed) -> int:
        slot = super().admit(request, pages, committed)
        self.committed[request.prompt.id] = [committed]
        return slot

    def set_pages(self, slot, pages) -> None:
        self.pages[self.name(slot)] = list(pages)

    def set_committed(self, slot, committed) -> None:
        self.committed[self.name(slot)].append(committed)

    def step(self, slots=None) -> list[Ended]:
        self.stepped.append([self.name(slot) for slot in slots])
        ended = [Ended(slot, (5, 6), done=False) for slot in slots if self.name(slot) in self.ending]
        self.ending = []
        return ended


@pytest.fixture
def rows():
    from redraft.rollout.vllm.running import RunningRequests

    return RunningRequests(NotedSlots(), options_for("unused"), num_pages=40, max_length=64)


def new(name: str, pages: list[int], computed: int = 0) -> Any:
    from vllm import SamplingParams
    from vllm.v1.core.sched.output import NewRequestData

    return NewRequestData(name, PROMPT, [], SamplingParams(max_tokens=20, seed=1), None, (pages,), computed, None)


def decision(
    admitted: tuple[Any, ...] = (), again: tuple[str, ...] = (), finished: tuple[str, ...] = (), **cached: Any
) -> Any:
    """A step of vLLM's scheduler; `cached`: name -> (new pages, computed tokens) of rows that have been admitted."""
    from vllm.v1.core.sched.output import CachedRequestData, SchedulerOutput

    output = SchedulerOutput.make_empty()
    output.scheduled_new_reqs = list(admitted)
    output.finished_req_ids = set(finished)
    output.scheduled_cached_reqs = CachedRequestData(
        req_ids=list(cached),
        resumed_req_ids=set(again),
        new_token_ids=[],
        all_token_ids={},
        new_block_ids=[(pages,) if pages else None for pages, _ in cached.values()],
        num_computed_tokens=[computed for _, computed in cached.values()],
        num_output_tokens=[0] * len(cached),
    )
    names = [one.req_id for one in admitted] + list(cached)
    output.num_scheduled_tokens = dict.fromkeys(names, 1)
    return output


def test_younger_requests_trust_pages_that_older_ones_fill_in_the_same_step(rows):
    rows.step(decision((new("a", [1, 2, 3, 4]), new("b", [1, 2, 3, 5], computed=12))))
    assert rows.slots.committed == {"a": [0], "b": [12]}
    assert rows.slots.stepped == [["a", "b"]]


def test_a_page_that_nobody_filled_is_not_trusted_whatever_vllm_says(rows):
    rows.step(decision((new("a", [1, 2, 3, 4]),)))
    rows.step(decision((new("b", [1, 9, 3, 5], computed=12),), a=([], 13)))
    assert rows.slots.committed["b"] == [4]  # page 1, and no further


def test_pages_of_older_weights_are_filled_again_once(rows):
    rows.step(decision((new("a", [1, 2, 3, 4]),)))
    rows.forget_keys()
    assert rows.slots.committed["a"] == [0, 0]
    rows.step(decision((new("b", [1, 2, 3, 5], computed=12), new("c", [1, 2, 3, 6], computed=12))))
    assert rows.slots.committed["b"] == [0]
    assert rows.slots.committed["c"] == [12]


def test_a_request_gets_its_pages_as_it_grows(rows):
    rows.step(decision((new("a", [1, 2, 3, 4]),)))
    rows.step(decision(a=([7], 13)))
    rows.step(decision(a=([], 15)))
    assert rows.slots.pages["a"] == [1, 2, 3, 4, 7]


@pytest.mark.parametrize("as_new", [False, True])
def test_a_request_that_comes_back_trusts_only_pages_that_were_filled_before(rows, as_new):
    """An older request may read a page that a younger one fills in the step in which the older comes back."""
    rows.step(decision((new("z", [7, 8, 5, 9]),)))  # page 5 has held something
    rows.slots.ending = ["b"]
    rows.step(decision((new("a", [1, 2, 3, 4]), new("b", [1, 2, 3, 5], computed=12)), finished=("z",)))
    # The block of b in page 5 is final; this step gives it its keys. The older request comes back with that page,
    # because it wrote the same tokens.
    back = [1, 2, 3, 5, 8]
    if as_new:  # as schedulers for vLLM's newer model runner put it
        step = decision((new("a", back, computed=16),), b=([6], 13))
    else:
        step = decision(again=("a",), b=([6], 13), a=(back, 16))
    rows.step(step)
    assert rows.slots.pages["a"] == back
    assert rows.slots.committed["a"] == [0, 12]
    # A younger one may: it reads in the same pass, after the write, or later.
    rows.step(decision((new("c", [1, 2, 3, 5, 9], computed=16),), a=([], 13), b=([], 17)))
    assert rows.slots.committed["c"] == [16]


def test_a_page_that_a_request_grows_into_counts_as_empty_whatever_it_held(rows):
    rows.step(decision((new("z", [7, 8, 5, 9]),)))
    rows.slots.ending = ["b"]
    rows.step(decision((new("a", [1, 2, 3, 4]), new("b", [1, 2, 3, 6], computed=12)), finished=("z",)))
    rows.slots.ending = ["b"]
    rows.step(decision(a=([], 13), b=([5], 17)))  # b goes on in page 5, and ends that block in the same step
    rows.step(decision(again=("a",), b=([9], 21), a=([1, 2, 3, 6, 5, 8], 20)))  # which is run now
    assert rows.slots.committed["a"] == [0, 16]


def test_a_request_that_is_not_scheduled_waits(rows):
    rows.step(decision((new("a", [1, 2, 3, 4]), new("b", [1, 2, 3, 5], computed=12))))
    rows.step(decision(b=([], 13)))
    assert rows.slots.stepped == [["a", "b"], ["b"]]
    assert rows.step(decision()) == {}


def test_an_aborted_request_gives_its_slot_to_one_of_the_same_step(rows):
    rows.step(decision(tuple(new(name, [1, 2, 3, page]) for page, name in enumerate("abcd", start=4))))
    assert rows.slots.num_free == 0
    rows.step(decision((new("e", [1, 2, 3, 9], computed=12),), finished=("b",), a=([], 13)))
    assert sorted(rows.slots.name(slot) for slot in rows.slots.running) == ["a", "c", "d", "e"]
    rows.step(decision(finished=("b", "unheard-of")))  # finished requests may have left already


def test_a_request_without_a_page_for_its_block_is_an_error_and_not_a_wrong_completion(rows):
    with pytest.raises(RuntimeError, match="request 'a' has no page for its block 3"):
        rows.step(decision((new("a", [1, 2, 3]),)))
