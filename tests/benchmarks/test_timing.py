import pytest

from benchmarks.timing import Timing, alternate, timed


def test_sides_take_turns_and_the_warmup_does_not_count():
    calls = []
    names = ("ours", "theirs", "peer")
    functions = {name: timed(lambda name=name: calls.append(name)) for name in names}
    timings = alternate(functions, repeats=3, warmup=2)
    assert calls == ["ours", "theirs", "peer"] * 5
    assert {name: len(timing.seconds) for name, timing in timings.items()} == dict.fromkeys(
        functions, 3
    )


def test_timing_summary():
    timing = Timing([3.0, 1.0, 10.0])
    assert timing.median == 3.0
    assert timing.spread == (1.0, 10.0)


def test_at_least_one_round():
    with pytest.raises(ValueError, match="repeats is 0"):
        alternate({"ours": lambda: None}, repeats=0)
