"""The page pool: sharing, counting, waiting and forgetting."""

import random

import pytest

from redraft.rollout.engine.pages import SPARE_PAGE, Pages


def test_pages_of_whole_prompt_blocks_are_shared_and_the_rest_is_not():
    pages = Pages(12, block_length=4)
    prompt = tuple(range(10))  # two whole blocks and two tokens
    first = pages.acquire(prompt, 16)
    second = pages.acquire(prompt, 16)
    assert (len(first.pages), first.cached) == (4, 0)
    assert (len(second.pages), second.cached) == (4, 2)
    assert first.pages[:2] == second.pages[:2]
    assert not set(first.pages[2:]) & set(second.pages[2:])


def test_a_block_is_shared_only_with_what_stands_before_it():
    pages = Pages(12, block_length=2)
    first = pages.acquire((1, 2, 3, 4), 4)
    assert pages.acquire((9, 9, 3, 4), 4).cached == 0
    other_end = pages.acquire((1, 2, 7, 7), 4)
    assert other_end.cached == 1
    assert other_end.pages[0] == first.pages[0]


def test_a_prompt_that_ends_inside_its_first_block_shares_nothing():
    pages = Pages(4, block_length=4)
    assert pages.acquire((1, 2, 3), 8).cached == 0
    assert pages.acquire((1, 2, 3), 8).cached == 0


def test_the_spare_page_is_never_handed_out():
    pages = Pages(5, block_length=1)
    assert sorted(pages.acquire((), 5).pages) == [1, 2, 3, 4, 5]
    assert SPARE_PAGE == 0


def test_a_request_waits_until_there_are_pages():
    pages = Pages(4, block_length=1)
    first = pages.acquire((), 3)
    assert pages.acquire((), 2) is None
    pages.release(first)
    assert len(pages.acquire((), 4).pages) == 4


def test_shared_pages_outlive_their_requests_until_their_place_is_needed():
    pages = Pages(4, block_length=1)
    lease = pages.acquire((7, 8), 2)
    pages.release(lease)
    again = pages.acquire((7, 8), 2)
    assert again == type(again)(lease.pages, cached=2)
    pages.release(again)
    full = pages.acquire((5,), 4)  # needs all four
    assert full.cached == 0
    pages.release(full)
    assert pages.acquire((7, 8), 2).cached == 0


def test_the_longest_unused_goes_first_and_a_block_before_those_it_follows():
    pages = Pages(4, block_length=1)
    for prompt in [(1, 2), (3, 4)]:
        pages.release(pages.acquire(prompt, 2))
    pages.release(pages.acquire((), 1))  # takes the place of (1, 2)'s second block
    assert pages.acquire((3, 4), 2).cached == 2
    assert pages.acquire((1,), 1).cached == 1


def test_pages_in_use_are_never_taken_from_their_request():
    pages = Pages(3, block_length=1)
    held = pages.acquire((1, 2), 2)
    pages.release(pages.acquire((1, 2), 3))  # a sibling comes and goes
    assert pages.acquire((9, 9), 2) is None
    assert pages.acquire((1, 2), 2) == type(held)(held.pages, cached=2)


@pytest.mark.parametrize("seed", range(5))
def test_in_any_order_of_requests_no_page_is_lost_or_given_twice(seed):
    source = random.Random(seed)
    pages, held = Pages(20, block_length=2), []
    for _ in range(2000):
        if held and source.random() < 0.5:
            prompt, lease = held.pop(source.randrange(len(held)))
            pages.release(lease)
        prompt = tuple(source.choice([1, 2]) for _ in range(source.randrange(9)))
        lease = pages.acquire(prompt, len(prompt) + source.randrange(1, 7))
        if lease is not None:
            held.append((prompt, lease))
        own = [page for prompt, lease in held for page in lease.pages[len(prompt) // 2 :]]
        assert len(own) == len(set(own))
        shared = {}  # page -> the tokens up to its end, which all its users must agree on
        for prompt, lease in held:
            for index, page in enumerate(lease.pages[: len(prompt) // 2]):
                assert shared.setdefault(page, prompt[: 2 * index + 2]) == prompt[: 2 * index + 2]
        assert not shared.keys() & set(own)
        assert not {SPARE_PAGE} & (shared.keys() | set(own))
    for _, lease in held:
        pages.release(lease)
    assert len(pages.acquire((), 40).pages) == 20
