"""Published generators of grey images and of several classes."""

import numpy as np
import published
import published_nvidia as nvidia
import published_stylegan2 as rosinality
import torch
from flax import nnx
from helpers import relative_error

import e4e_jax
from convert_weights.__main__ import main
from e4e_jax import bundle
from e4e_jax.data.images import to_uint8

WIDTH, LAYERS = 12, 2


def channels(resolution):
    return min(64 // resolution, 8)


def random_batch(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def assert_draws_grey(model, generator):
    codes = random_batch(2, model.num_styles, WIDTH)
    with torch.no_grad():
        expected = generator(torch.from_numpy(codes)).permute(0, 2, 3, 1)
    images = np.asarray(model.synthesize(codes))
    assert expected.shape == (2, 8, 8, 1) and images.shape == (2, 8, 8, 3)
    assert relative_error(images[..., :1], expected) < 1e-5
    assert (images == images[..., :1]).all()
    assert to_uint8(images).shape == (2, 8, 8, 3)  # what a file takes


def assert_judges_grey(path, discriminator):
    grey = random_batch(4, 8, 8, 1)
    with torch.no_grad():
        expected = discriminator(torch.from_numpy(grey.transpose(0, 3, 1, 2).copy()))
    network = bundle.load_network(path, "discriminator")
    logits = nnx.jit(type(network).__call__)(network, np.repeat(grey, 3, axis=-1))
    assert relative_error(logits, expected) < 1e-5


def test_a_grey_generator_of_rosinality_s_layout_goes_there_and_back(tmp_path, capsys):
    generator = published.randomize(rosinality.Generator(8, WIDTH, LAYERS, channels, colours=1))
    discriminator = published.randomize(rosinality.Discriminator(8, channels, colours=1), 1)
    parts = {"g_ema": generator.state_dict(), "d": discriminator.state_dict()}
    torch.save(parts | {"latent_avg": torch.randn(WIDTH)}, tmp_path / "g.pt")
    assert main([str(tmp_path / "g.pt"), str(tmp_path / "b")]) == 0
    assert "StyleGAN2 generator of 8x8 grey images" in capsys.readouterr().out
    assert_draws_grey(e4e_jax.load(tmp_path / "b"), generator)
    assert_judges_grey(tmp_path / "b", discriminator)

    assert main([str(tmp_path / "b"), str(tmp_path / "back.pt"), "--to", "pytorch"]) == 0
    assert "one colour channel" in capsys.readouterr().out
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    for part, tensors in parts.items():
        assert set(back[part]) == set(tensors)
        assert all(torch.equal(back[part][name], tensor) for name, tensor in tensors.items())


def test_a_grey_generator_of_nvidia_s(tmp_path, capsys):
    generator = nvidia.Generator(8, WIDTH, LAYERS, channels, 0.8, colours=1)
    discriminator = nvidia.Discriminator(8, channels, 0.8, colours=1)
    networks = {"G_ema": published.randomize(generator), "D": published.randomize(discriminator, 1)}
    nvidia.write_pickle(tmp_path / "g.pkl", networks)
    assert main([str(tmp_path / "g.pkl"), str(tmp_path / "b")]) == 0
    assert "StyleGAN2 generator of 8x8 grey images" in capsys.readouterr().out
    assert_draws_grey(e4e_jax.load(tmp_path / "b"), generator)
    assert_judges_grey(tmp_path / "b", discriminator)


def test_a_class_conditional_generator(tmp_path, capsys):
    generator = nvidia.Generator(8, WIDTH, LAYERS, channels, classes=3)
    generator = published.randomize(generator)
    discriminator = nvidia.Discriminator(8, channels, classes=3)
    networks = {"G": generator, "D": discriminator, "G_ema": generator}
    nvidia.write_pickle(tmp_path / "c.pkl", networks)
    assert main([str(tmp_path / "c.pkl"), str(tmp_path / "b"), "--class=1"]) == 1
    assert "--class goes with --to pytorch" in capsys.readouterr().err
    assert main([str(tmp_path / "c.pkl"), str(tmp_path / "b")]) == 0
    output = capsys.readouterr().out
    assert "of one of 3 classes" in output and "discriminator of classes" in output
    model = e4e_jax.load(tmp_path / "b")
    z, codes, label = random_batch(3, WIDTH), random_batch(2, 4, WIDTH), np.array([2, 0, 2])
    one_hot = torch.eye(3)[label]
    with torch.no_grad():
        w = generator.map(torch.from_numpy(z), one_hot)
        images = generator(torch.from_numpy(codes)).permute(0, 2, 3, 1)
        average = generator.mapping.w_avg
    assert relative_error(model.map(z, label), w) < 1e-5
    truncated = average + 0.5 * (w - average)
    assert relative_error(model.map(z, label, truncation_psi=0.5), truncated) < 1e-5
    assert relative_error(model.synthesize(codes), images) < 1e-5

    # rosinality's layout holds one class of it.
    assert main([str(tmp_path / "b"), str(tmp_path / "r.pt"), "--to", "pytorch"]) == 1
    assert "expected --class=N, one of 0 to 2" in capsys.readouterr().err
    for label, code in (("3", 1), ("2", 0)):
        back = [str(tmp_path / "b"), str(tmp_path / "r.pt"), "--to", "pytorch", "--class", label]
        assert main(back) == code
    assert "class 3 is asked for and the generator has 3 classes" in capsys.readouterr().err
    form = rosinality.Generator(8, WIDTH, LAYERS, channels)
    form.load_state_dict(torch.load(tmp_path / "r.pt", weights_only=True)["g_ema"])
    with torch.no_grad():
        assert relative_error(form.map(torch.from_numpy(z[::2])), w[::2]) < 1e-5
