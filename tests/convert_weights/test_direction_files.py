import numpy as np
import pytest
import torch

from convert_weights.__main__ import main
from e4e_jax.editing.files import load_directions


def test_interfacegan_directions_of_several_files(tmp_path):
    rng = np.random.default_rng(0)
    age, pose, smile = (rng.normal(size=s).astype(np.float32) for s in ((1, 8), (1, 6, 8), (8,)))
    torch.save(torch.from_numpy(age), tmp_path / "age.pt")
    torch.save(torch.from_numpy(pose), tmp_path / "pose.pt")
    np.save(tmp_path / "smile.npy", smile)
    sources = [str(tmp_path / name) for name in ("age.pt", "pose.pt", "smile.npy")]
    assert main([*sources, str(tmp_path / "faces.npz")]) == 0
    directions = load_directions(str(tmp_path / "faces.npz"))
    assert list(directions) == ["age", "pose", "smile"]
    np.testing.assert_array_equal(directions["age"], age[0])
    np.testing.assert_array_equal(directions["pose"], pose[0])
    np.testing.assert_array_equal(directions["smile"], smile)


def test_ganspace_components_give_the_published_edit(tmp_path):
    rng = np.random.default_rng(0)
    comp, _ = np.linalg.qr(rng.normal(size=(8, 5)))
    pca = {
        "mean": torch.from_numpy(rng.normal(size=(1, 8)).astype(np.float32)),
        "comp": torch.from_numpy(comp.T[:, None].astype(np.float32).copy()),
        "std": torch.from_numpy(rng.uniform(0.5, 2, size=5).astype(np.float32)),
    }
    torch.save(pca, tmp_path / "cars.pt")
    assert main([str(tmp_path / "cars.pt"), str(tmp_path / "cars.npz")]) == 0
    directions = load_directions(str(tmp_path / "cars.npz"))
    assert len(directions) == 6

    w, strength = rng.normal(size=8), 3.0
    step, mean = directions["cars_4"], directions["cars_mean"]
    edited = w + (strength - (w - mean) @ step / (step @ step)) * step
    component, std = pca["comp"][4, 0].numpy(), pca["std"][4].numpy()
    coordinate = (w - pca["mean"][0].numpy()) @ component / std
    expected = w + (strength - coordinate) * component * std
    np.testing.assert_allclose(edited, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ganspace_s_own_file(tmp_path, capsys, dtype):
    rng = np.random.default_rng(0)
    arrays = {
        f"{space}_{name}": rng.uniform(0.5, 2, size=shape).astype(dtype)
        for space in ("act", "lat")
        for name, shape in {"comp": (5, 1, 8), "mean": (1, 8), "stdev": (5,)}.items()
    }
    path = tmp_path / "stylegan2-ffhq_style_ipca_c5_n1000_w.npz"
    np.savez_compressed(path, var_ratio=np.ones(5), **arrays)
    assert main([str(path), str(tmp_path / "o.npz")]) == 0
    found = load_directions(str(tmp_path / "o.npz"))
    assert len(found) == 6
    expected = arrays["lat_comp"][3, 0].astype(np.float32) * np.float32(arrays["lat_stdev"][3])
    np.testing.assert_array_equal(found[f"{path.stem}_3"], expected)
    np.testing.assert_array_equal(
        found[f"{path.stem}_mean"], arrays["lat_mean"][0].astype(np.float32)
    )

    # Computed in z, its latent components are not of w; the mapping network's outputs are.
    arrays["lat_stdev"] = np.ones(5, dtype)
    np.savez_compressed(path, **arrays)
    assert main([str(path), str(tmp_path / "o.npz"), "--overwrite"]) == 0
    assert "act_*" in capsys.readouterr().out
    found = load_directions(str(tmp_path / "o.npz"))
    expected = arrays["act_comp"][3, 0].astype(np.float32) * np.float32(arrays["act_stdev"][3])
    np.testing.assert_array_equal(found[f"{path.stem}_3"], expected)
    arrays["act_comp"] = np.ones((5, 1, 3, 4, 4), dtype)  # of a convolution
    np.savez_compressed(path, **arrays)
    assert main([str(path), str(tmp_path / "p.npz")]) == 1
    assert "its components are of z" in capsys.readouterr().err


def test_sefa_s_factors(tmp_path, capsys):
    vectors, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    torch.save({"ckpt": "550000.pt", "eigvec": vectors}, tmp_path / "factor.pt")
    assert main([str(tmp_path / "factor.pt"), str(tmp_path / "sefa.npz")]) == 0
    assert "SeFa's factors of 550000.pt" in capsys.readouterr().out
    found = load_directions(str(tmp_path / "sefa.npz"))
    assert len(found) == 8
    np.testing.assert_array_equal(found["factor_2"], vectors[:, 2])  # in columns


def test_a_direction_of_all_layers_or_the_codes_of_one_image(tmp_path, capsys):
    """Told by the name, by its length, or by the flag; never guessed."""
    rng = np.random.default_rng(0)
    ambiguous = torch.from_numpy(rng.normal(size=(1, 6, 8)).astype(np.float32))
    unit = ambiguous / ambiguous.norm(dim=-1, keepdim=True)
    out = str(tmp_path / "o.npz")

    def outcome(name, tensor, *flags):
        torch.save(tensor, tmp_path / name)
        code = main([str(tmp_path / name), out, "--overwrite", *flags])
        printed = capsys.readouterr()
        return (printed.out.splitlines()[0].split()[-1] if code == 0 else printed.err), printed.out

    assert outcome("smile.pt", ambiguous)[0] == "directions"
    assert outcome("d.pt", unit)[0] == "directions"
    found, output = outcome("x.pt", ambiguous[0])  # [L, D]
    assert found == "directions" and "need --format latents" in output
    assert outcome("x.pt", ambiguous[0], "--format", "latents")[0] == "latents"
    assert outcome("my_latents.pt", ambiguous[0])[0] == "latents"
    assert outcome("latents.pt", unit)[0] == "latents"
    assert outcome("latents.pt", unit, "--format", "directions")[0] == "directions"
    refused, _ = outcome("0.pt", ambiguous)
    assert "say which by --format directions or --format latents" in refused
    assert outcome("0.pt", ambiguous, "--format", "latents")[0] == "latents"
    assert "expected a direction" in outcome("fs3.pt", torch.zeros(60, 8))[0]


def test_other_shapes_and_keys(tmp_path):
    pca = {"mean": torch.ones(8), "comp": torch.full((2, 8), 2.0), "std": torch.tensor([3.0, 4.0])}
    torch.save(pca, tmp_path / "pca.pt")
    torch.save({"boundary": torch.ones(1, 8)}, tmp_path / "tie.pt")
    out = str(tmp_path / "o.npz")
    assert main([str(tmp_path / "pca.pt"), str(tmp_path / "tie.pt"), out]) == 0
    found = load_directions(out)
    assert list(found) == ["pca_mean", "pca_0", "pca_1", "tie"]
    np.testing.assert_array_equal(found["pca_1"], np.full(8, 8.0))


def test_directions_that_are_no_numbers(tmp_path, capsys):
    for tensor, sentence in [
        (torch.tensor([[1.0, float("nan")]]), "the direction d holds NaN or infinity"),
        (torch.ones(1, 8, dtype=torch.int32), "tensor is int32 [1, 8], expected floats"),
    ]:
        torch.save(tensor, tmp_path / "d.pt")
        assert main([str(tmp_path / "d.pt"), str(tmp_path / "o.npz")]) == 1
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "o.npz").exists()


def test_bad_directions_are_named(tmp_path, capsys):
    torch.save(torch.zeros(2, 3, 4, 5), tmp_path / "a.pt")
    torch.save(torch.zeros(1, 4), tmp_path / "b.pt")
    pca = {"mean": torch.tensor(1.0), "comp": torch.ones(2, 8), "std": torch.tensor(1.0)}
    torch.save(pca, tmp_path / "pca.pt")
    (tmp_path / "other").mkdir()
    torch.save(torch.zeros(1, 4), tmp_path / "other" / "b.pt")
    a, b, other = (str(tmp_path / name) for name in ("a.pt", "b.pt", "other/b.pt"))
    out = str(tmp_path / "out.npz")
    for arguments, sentence in [
        ([a, out], "a.pt: its shape is [2, 3, 4, 5]; expected a direction"),
        (
            [str(tmp_path / "pca.pt"), out],
            "mean, comp and std have shapes [1, 1], [2, 1, 8] and []",
        ),
        ([b, other, out], "two files hold a direction 'b'"),
        ([b, str(tmp_path / "out")], "expected a name that ends in .npz"),
    ]:
        assert main(arguments) == 1
        assert sentence in capsys.readouterr().err
    assert not any(path.suffix == ".npz" for path in tmp_path.iterdir())
