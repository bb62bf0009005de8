"""The program that kills training at random moments, in small; by itself it does so 50 times."""

import numpy as np
import pytest
from kill_runs import BUNDLE, Different, compare_bits, kill_many_times


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits(tmp_path):
    met, runs = kill_many_times(tmp_path, kills=8, seed=1)
    assert met.total() == 8 and runs >= 1 and all(phase <= BUNDLE + 2 for phase in met)


def test_other_bits_are_noticed():
    one, other = ({"w": (np.dtype("f4"), (2,), bytes([0] * 7 + [last]))} for last in (0, 1))
    compare_bits(one, dict(one))
    for found in (other, {}, one | {"v": other["w"]}):
        with pytest.raises(Different, match="[vw] is not that of the run"):
            compare_bits(one, found)
