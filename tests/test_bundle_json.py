"""What a bundle's JSON may say: one sentence for anything else, before a network is built."""

import dataclasses
import json

import pytest

from e4e_jax import bundle
from e4e_jax.bundle_json import decode_config
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.inception import Inception
from e4e_jax.models.lpips import LPIPS
from e4e_jax.models.moco import MoCo, MoCoConfig
from e4e_jax.models.resnet import ResNetConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

ENCODER = json.loads(json.dumps(dataclasses.asdict(EncoderConfig.tiny())))


def with_backbone(**fields):
    return ENCODER | {"backbone": ENCODER["backbone"] | fields}


ODD = [
    (Generator, {"resolution": 64, "w_dim": 10**29}, "w_dim is 1000.*from 1 to 65,536"),
    (Generator, {"resolution": 64, "w_dim": 0}, "w_dim is 0; expected a whole number from 1"),
    (Generator, {"resolution": 64, "w_dim": -1}, "w_dim is -1"),
    (Generator, {"resolution": 64, "w_dim": "512"}, "w_dim is '512'; expected a whole number"),
    (Generator, {"resolution": 64, "w_dim": 512.0}, "w_dim is 512.0; expected a whole number"),
    (Generator, {"resolution": 64, "w_dim": True}, "w_dim is True; expected a whole number"),
    (Generator, {"resolution": 64, "w_dim": None}, "w_dim is None; expected a whole number"),
    (Generator, {"resolution": 64, "w_dim": [512]}, r"w_dim is \[512\]; expected a whole number"),
    (Generator, {"resolution": 48}, "resolution is 48; expected a power of two"),
    (Generator, {"resolution": 64, "mapping_layers": 101}, "mapping_layers is 101; .* 1 to 100"),
    (Generator, {"resolution": 64, "mapping_lr_mul": float("nan")}, "mapping_lr_mul is nan"),
    (Generator, {"resolution": 64, "mapping_lr_mul": 1e999}, "mapping_lr_mul is inf; expected a n"),
    (Generator, {"resolution": 64, "mapping_lr_mul": "x" * 10**6}, "mapping_lr_mul is 'xxx"),
    (Generator, {"resolution": 64, "conv_clamp": 10**400}, "conv_clamp is 1000"),
    (Generator, {"w_dim": 512}, "resolution is missing"),
    (Generator, {"resolution": 64, "rngs": 1}, "'rngs' is unknown; expected some of resolution"),
    (Generator, {}, "resolution is missing"),
    (Generator, [], r"it is \[\]; expected names and values"),
    (Generator, {"config": {"resolution": 64}}, "'config' is unknown"),
    (Generator, {"resolution": 64, "dtype": "x"}, "'dtype' is unknown"),
    (LPIPS, {"net": "resnet"}, "LPIPS network is 'resnet'; expected one of"),
    (Encoder, with_backbone(depths=[10**29] * 4), "backbone.depths is 1000.* from 1 to 100"),
    (Encoder, with_backbone(depths=[10**29]), "backbone.depths is .*; expected a list of 4"),
    (Encoder, with_backbone(depths=[30] * 4), "backbone.depths is .*; expected 100 units at most"),
    (Encoder, with_backbone(depths=3), "backbone.depths is 3; expected a list of 4"),
    (Encoder, with_backbone(depths=[]), r"backbone.depths is \[\]; expected a list of 4"),
    (Encoder, with_backbone(widths=[1, 1, 1, 10**9]), "backbone.widths is 1000000000"),
    (Encoder, with_backbone(in_channels=0), "backbone.in_channels is 0"),
    (Encoder, with_backbone(squeeze_reduction=0), "backbone.squeeze_reduction is 0"),
    (Encoder, with_backbone(stem=1), "backbone.'stem' is unknown; expected some of widths"),
    (Encoder, ENCODER | {"backbone": []}, r"backbone is \[\]; expected names and values"),
    (Encoder, ENCODER | {"image_size": 64}, "image_size is 64; expected a list of 2"),
    (Encoder, ENCODER | {"image_size": [[[64]], 64]}, r"image_size is \[\[64\]\]; expected"),
    (Encoder, ENCODER | {"kind": 3}, "kind is 3; expected a text"),
    (Encoder, ENCODER | {"kind": "e5e"}, "kind of encoder is 'e5e'"),
    (Encoder, ENCODER | {"iterative": 1}, "iterative is 1; expected true or false"),
    (MoCo, {"depths": [10**29]}, "depths is .*; expected a list of 4"),
    (MoCo, {"depths": [10**29] * 4}, "depths is 1000.* from 1 to 100"),
    (MoCo, {"width": "64"}, "width is '64'; expected a whole number"),
    (Inception, {"image_size": 1e9}, "image_size is 1000000000.0; expected a whole number"),
]  # fmt: skip


@pytest.mark.parametrize("network, described, words", ODD)
def test_an_odd_network_is_told_in_one_sentence(network, described, words):
    with pytest.raises(ValueError, match=words) as caught:
        decode_config(network, described)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_what_was_written_comes_back():
    for network, config in (
        (Encoder, EncoderConfig.tiny()),
        (Encoder, EncoderConfig(backbone=ResNetConfig(stem_size=3), coarse=18, middle=18)),
        (Generator, GeneratorConfig(64, mapping_lr_mul=1, conv_clamp=256.0)),
    ):
        described = json.loads(json.dumps(dataclasses.asdict(config)))
        assert decode_config(network, described) == config
    assert decode_config(MoCo, {}) == MoCoConfig()
    assert decode_config(MoCo, {"depths": [1, 1, 1, 1]}) == MoCoConfig(depths=(1, 1, 1, 1))


DESCRIPTION = {
    "format": 1, "kind": "generator", "networks": {"generator": {"resolution": 8}}, "metadata": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no readable .json file of a bundle"),
        ("[" * 100_000, "its brackets are nested too deeply"),
        ('{"a":' * 100_000, "its brackets are nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
        ("\udcff", "it is no text in UTF-8"),
        ("[]", "is not of format 1"),
        ("null", "is not of format 1"),
        ({"format": "1"}, "is not of format 1"),
        ({"kind": []}, r"names kind \[\]; expected one of"),
        ({"kind": {"a": 1}}, "names kind {'a': 1}"),
        ({"kind": None}, "names kind None"),
        ({"networks": []}, r"describes the networks \[\]; a bundle of kind 'generator' holds gen"),
        ({"networks": None}, "describes the networks None"),
        ({"networks": {}}, "describes the networks ; a bundle"),
        ({"networks": {"encoder": {}}}, "describes the networks 'encoder'; a bundle"),
        ({"networks": {"generator": 3}}, r"the generator cannot be built \(it is 3; exp"),
        ({"networks": {"generator": {"resolution": 8, "w_dim": 10**29}}}, "cannot be built .w_dim"),
        ({"networks": {"generator": {"resolution": 8, "z_dim": 65_536}}}, "arrays are incomplete"),
        ({"metadata": 3}, "has metadata that is no set of names and values"),
        ({"stored_as": "float8"}, "has numbers stored as 'float8'; expected float16 or float32"),
        ({"stored_as": {}}, "has numbers stored as {}"),
    ],
)  # fmt: skip
def test_an_odd_bundle_is_told_in_one_sentence(tmp_path, text, words):
    if isinstance(text, dict):
        text = json.dumps(DESCRIPTION | text)
    (tmp_path / "bundle.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(bundle.BundleError, match=words) as caught:
        bundle.load_bundle(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message and "\n" not in message and len(message) < 600


def test_a_pipe_or_a_folder_is_no_description(tmp_path):
    (tmp_path / "bundle.json").mkdir()
    with pytest.raises(bundle.BundleError, match="is a folder; expected a .json file of a bundle"):
        bundle.load_bundle(tmp_path)
