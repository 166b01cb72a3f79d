"""What a rank says about itself while it works."""

import threading

from redraft.rl.cluster.gang import by_node
from redraft.rl.parallel.whereabouts import Whereabouts, stacks


def test_each_call_of_a_phase_is_noted_when_it_begins():
    where, seen = Whereabouts(), []
    for call in where.noted("backward", [lambda: seen.append(where.describe())] * 2):
        call()
    assert [text.rsplit(", for ", 1)[0] for text in seen] == ["backward, call 1 of 2", "backward, call 2 of 2"]
    where.enter("after backward")
    assert where.describe().startswith("after backward, for 0.")
    where.enter("")
    assert where.describe().startswith("waiting for its next call, for ")


def test_the_stacks_are_those_of_all_threads():
    done = threading.Event()

    def waits_here():
        done.wait()

    thread = threading.Thread(target=waits_here)
    thread.start()
    try:
        text = stacks()
    finally:
        done.set()
        thread.join()
    assert "in waits_here" in text
    assert "in test_the_stacks_are_those_of_all_threads" in text


def test_ranks_are_numbered_node_by_node():
    assert by_node(["b", "a", "b", "a"]) == [0, 2, 1, 3]
    assert by_node(["one"] * 3) == [0, 1, 2]
