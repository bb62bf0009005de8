import numpy as np
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


def test_bad_directions_are_named(tmp_path, capsys):
    torch.save(torch.zeros(2, 3, 4, 5), tmp_path / "a.pt")
    torch.save(torch.zeros(1, 4), tmp_path / "b.pt")
    (tmp_path / "other").mkdir()
    torch.save(torch.zeros(1, 4), tmp_path / "other" / "b.pt")
    a, b, other = (str(tmp_path / name) for name in ("a.pt", "b.pt", "other/b.pt"))
    out = str(tmp_path / "out.npz")
    for arguments, sentence in [
        ([a, out], "a.pt: its shape is [2, 3, 4, 5]; expected a direction"),
        ([b, other, out], "two files hold a direction 'b'"),
        ([b, str(tmp_path / "out")], "expected a name that ends in .npz"),
    ]:
        assert main(arguments) == 1
        assert sentence in capsys.readouterr().err
    assert not any(path.suffix == ".npz" for path in tmp_path.iterdir())
