"""Codes of images as others save them, and the commands that take them."""

import numpy as np
import pytest
import torch

import e4e_jax
from convert_weights.__main__ import main
from e4e_jax.inversion.folder import load_latents


def random_codes(count=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, 8, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_latents_of_several_images(tmp_path, capsys, monkeypatch, dtype):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")  # where they lay
    codes = random_codes(dtype=dtype)
    torch.save(codes, tmp_path / "latents.pt")
    assert main([str(tmp_path / "latents.pt"), str(tmp_path / "l.npz")]) == 0
    assert "the codes of 3 images, [6, 8] each" in capsys.readouterr().out
    names, found = load_latents(tmp_path / "l.npz")
    assert names == ["latents_0000", "latents_0001", "latents_0002"]
    np.testing.assert_array_equal(found, codes.float().numpy())


def test_pivots_of_several_files(tmp_path, capsys):
    """PTI saves the codes of an image as 0.pt in a folder of its name."""
    sources = []
    for i, name in enumerate(("anna", "ben")):
        (tmp_path / name).mkdir()
        sources.append(str(tmp_path / name / "0.pt"))
        torch.save(random_codes()[i : i + 1].requires_grad_(), sources[-1])
    out = str(tmp_path / "l.npz")
    assert main([*sources, out, "--format", "latents"]) == 0
    names, found = load_latents(out)
    assert names == ["anna_0", "ben_0"]
    np.testing.assert_array_equal(found, random_codes()[:2])

    torch.save({"latents": random_codes()}, tmp_path / "x.pt")
    assert main([str(tmp_path / "x.pt"), out, "--overwrite"]) == 0
    assert load_latents(out)[0] == ["x_0000", "x_0001", "x_0002"]
    torch.save(list(random_codes()), tmp_path / "inverted.pt")
    assert main([str(tmp_path / "inverted.pt"), out, "--overwrite"]) == 0
    np.testing.assert_array_equal(load_latents(out)[1], random_codes())
    torch.save({"a/x.jpg": random_codes()[0], "y.jpg": random_codes()[1:2]}, tmp_path / "named.pt")
    assert main([str(tmp_path / "named.pt"), out, "--format", "latents", "--overwrite"]) == 0
    assert load_latents(out)[0] == ["x.jpg", "y.jpg"]


def test_codes_by_the_names_of_images(tmp_path, capsys):
    """HyperStyle's latents.npy is a pickled dict, ReStyle's has the codes of every iteration."""
    codes, path, out = random_codes().numpy(), tmp_path / "latents.npy", tmp_path / "l.npz"
    np.save(path, {"b.jpg": codes[0], "a.png": codes[1]})
    assert main([str(path), str(out)]) == 0
    names, found = load_latents(out)
    assert names == ["b.jpg", "a.png"]
    np.testing.assert_array_equal(found, codes[:2])
    np.save(path, {"b.jpg": [codes[0], codes[1]], "a.png": [codes[1], codes[2]]})
    assert main([str(path), str(out), "--overwrite"]) == 0
    assert "the last" in capsys.readouterr().out
    np.testing.assert_array_equal(load_latents(out)[1], codes[1:])
    path.write_bytes(path.read_bytes()[:-100])
    assert main([str(path), str(out), "--overwrite"]) == 1
    assert "rest is missing" in capsys.readouterr().err


def test_nvidia_s_projected_w_is_taken_as_it_is_and_converted(tmp_path, capsys):
    (tmp_path / "anna").mkdir()
    path = tmp_path / "anna" / "projected_w.npz"
    codes = random_codes(1).numpy()
    np.savez(path, w=codes)
    names, found = load_latents(path)
    assert names == ["anna_projected_w"]
    np.testing.assert_array_equal(found, codes)
    assert main([str(path), str(tmp_path / "l.npz")]) == 0
    np.testing.assert_array_equal(load_latents(tmp_path / "l.npz")[1], codes)
    np.savez(path, w=codes[0])
    np.testing.assert_array_equal(load_latents(path)[1], codes)


def test_what_is_no_latents_is_named(tmp_path, capsys):
    torch.save(torch.full((2, 6, 8), torch.nan), tmp_path / "latents.pt")
    torch.save(torch.zeros(8), tmp_path / "age.pt")
    torch.save(torch.tensor(1.0), tmp_path / "one.pt")
    torch.save(random_codes()[:, :4], tmp_path / "other.pt")
    torch.save(random_codes(), tmp_path / "l.pt")
    np.savez(tmp_path / "l.npz", names=np.array(["a"]), codes=random_codes(1).numpy())
    out = str(tmp_path / "out.npz")
    for sources, flags, sentence in [
        (["latents.pt"], [], "its codes hold NaN or infinity"),
        (["age.pt"], ["--format", "latents"], "it holds float32 [8]; expected codes of images"),
        (["one.pt"], ["--format", "latents"], "it holds float32 []; expected codes of images"),
        (["l.pt", "other.pt"], [], "its codes are [4, 8] and those before [6, 8]"),
        (["l.pt", "age.pt"], [], "of different kinds, l.pt (latents), age.pt (directions)"),
        (["l.npz"], [], "it is a latents.npz already"),
    ]:
        assert main([*(str(tmp_path / name) for name in sources), out, *flags]) == 1
        assert sentence in capsys.readouterr().err
    with pytest.raises(ValueError, match="convert_weights .*latents.pt latents.npz` makes one"):
        load_latents(tmp_path / "latents.pt")


def test_the_library_converts_as_the_command_does(tmp_path):
    out = tmp_path / "l.npz"
    for i in range(2):
        torch.save(random_codes()[i : i + 1], tmp_path / f"{i}.pt")
    paths = [tmp_path / "0.pt", tmp_path / "1.pt"]
    found = e4e_jax.convert(paths, out, format="latents")
    assert found.kind == "latents" and found.left_out == {}
    assert "the codes of 2 images" in found.found[0]
    assert main([*map(str, paths), str(tmp_path / "m.npz"), "--format", "latents"]) == 0
    assert (tmp_path / "m.npz").read_bytes() == out.read_bytes()
    with pytest.raises(FileExistsError, match="l.npz exists already; choose another name"):
        e4e_jax.convert(paths[0], out, format="latents")
    e4e_jax.convert(str(paths[0]), out, format="latents", overwrite=True)
    assert load_latents(out)[1].shape == (1, 6, 8)
    with pytest.raises(ValueError, match="no.pt cannot be opened: No such file"):
        e4e_jax.convert(tmp_path / "no.pt", tmp_path / "bundle")
