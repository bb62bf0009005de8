"""The objective of a config: a table of losses, and losses of others by import path."""

import ml_collections
import pytest

from configs import common, ffhq, toy
from e4e_jax.training import config_table, objective
from e4e_jax.training.registry import LOSSES


def with_term(name, **fields):
    config = toy.get_config()
    config.objective[name] = ml_collections.ConfigDict(fields)
    return config


def test_the_published_terms_are_added_up_in_the_order_of_the_table():
    options = objective.read_objective(ffhq.get_config().objective)
    assert options.weights == {
        "l2": 1.0, "perceptual": 0.8, "identity": 0.1, "adversarial": 0.1, "delta_norm": 2e-4,
    }  # fmt: skip
    assert [*options.weights] == [name for name in LOSSES if name in options.weights]
    assert options.networks == ("perceptual", "identity")
    assert options.is_adversarial


def test_a_weight_of_0_switches_a_term_and_its_network_off():
    section = dict(common.get_encoder_config().objective)
    options = objective.read_objective(section | {"perceptual": 0, "adversarial": 0})
    assert [*options.weights] == ["l2", "identity", "delta_norm"]
    assert options.networks == ("identity",)
    assert not options.is_adversarial


def test_a_loss_of_ones_own_is_a_section_with_its_options():
    config = with_term("dark", loss="mine.losses:darkness", weight=0.5, power=2.0)
    config_table.check_run(config)
    *_, term = objective.read_objective(config.objective).terms
    assert term == objective.Term("dark", 0.5, "mine.losses:darkness", {"power": 2.0})


def test_a_second_term_looks_through_a_network_of_its_own():
    config = with_term("vgg", loss="perceptual", weight=0.1, network="bundles/lpips_vgg")
    config_table.check_run(config)
    options = objective.read_objective(config.objective)
    assert options.networks == ("perceptual", "identity", "bundles/lpips_vgg")


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"weight": 1.0}, "config.objective.mine.loss is None; expected one of l2, perceptual"),
        ({"loss": 3, "weight": 1.0}, "config.objective.mine.loss is 3; expected one of l2"),
        (
            {"loss": "l3", "weight": 1.0},
            "config.objective.mine.loss: there is no loss 'l3'; expected",
        ),
        ({"loss": "l2"}, "config.objective.mine.weight is None; expected a number from 0"),
        ({"loss": "l2", "weight": -1.0}, "config.objective.mine.weight is -1.0; expected a num"),
        ({"loss": "l2", "weight": True}, "config.objective.mine.weight is True; expected a num"),
        ({"loss": "l2", "weight": 1.0, "network": ""}, "mine.network is ''; expected a bundle"),
    ],
)
def test_a_term_that_is_none_is_told_before_anything_is_loaded(term, message):
    with pytest.raises(ValueError) as error:
        config_table.check_config(with_term("mine", **term))
    assert message in str(error.value)


def test_names_that_are_no_terms_are_told():
    config = toy.get_config()
    config.objective.lpips = 0.5
    with pytest.raises(ValueError, match="config.objective.lpips is no field"):
        config_table.check_config(config)
    with pytest.raises(ValueError, match="config.objective.stage has a name that logs need"):
        config_table.check_config(with_term("stage", loss="l2", weight=1.0))
