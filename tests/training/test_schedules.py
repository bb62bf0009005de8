import math

import pytest

from e4e_jax.training.schedules import make_schedule


@pytest.mark.parametrize(
    "name, options, expected",
    [
        ("constant", {}, {0: 0.2, 50: 0.2, 500: 0.2}),
        ("linear", {}, {0: 0.2, 25: 0.15, 100: 0.0, 120: 0.0}),
        ("linear", {"begin": 60, "final_fraction": 0.5}, {60: 0.2, 80: 0.15, 100: 0.1}),
        ("linear", {"begin": 100}, {0: 0.2, 99: 0.2}),
        ("warmup_constant", {"warmup_steps": 0}, {0: 0.2, 99: 0.2}),
        ("cosine", {"final_fraction": 0.1}, {0: 0.2, 50: 0.11, 100: 0.02}),
        ("warmup_constant", {"warmup_steps": 10}, {0: 0.0, 5: 0.1, 10: 0.2, 90: 0.2}),
        ("warmup_cosine", {"warmup_steps": 20}, {0: 0.0, 10: 0.1, 20: 0.2, 60: 0.1, 100: 0.0}),
        ("step", {"boundaries": [30, 60], "factor": 0.5}, {29: 0.2, 31: 0.1, 61: 0.05}),
        (
            "exponential",
            {"decay_rate": 0.25, "decay_steps": 40},
            {0: 0.2, 20: 0.1, 40: 0.05, 100: 0.2 * math.pow(0.25, 2.5)},
        ),
    ],
)
def test_values(name, options, expected):
    schedule = make_schedule(name, 0.2, 100, **options)
    for step, value in expected.items():
        assert float(schedule(step)) == pytest.approx(value, abs=1e-7)


def test_mistakes_are_named():
    with pytest.raises(
        ValueError, match=r"schedule 'cosin' \(is it cosine\?\); expected one of constant, linear"
    ):
        make_schedule("cosin", 0.1, 100)
    with pytest.raises(
        ValueError, match="schedule cosine takes no 'warmup'; it takes final_fraction"
    ):
        make_schedule("cosine", 0.1, 100, warmup=5)
    with pytest.raises(ValueError, match="warmup_cosine needs 'warmup_steps'"):
        make_schedule("warmup_cosine", 0.1, 100)


def test_a_warmup_longer_than_the_training_is_refused():
    with pytest.raises(ValueError, match="warmup_steps is 100 of 40 steps"):
        make_schedule("warmup_cosine", 1.0, 40, warmup_steps=100)
