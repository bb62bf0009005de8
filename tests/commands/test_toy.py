import numpy as np

from e4e_jax.__main__ import main
from e4e_jax.data.images import decode_image
from e4e_jax.toy.faces import HELD_OUT, ToyFaces


def test_faces_are_those_that_no_training_sees(tmp_path, capsys):
    assert main(["toy", str(tmp_path / "faces"), "--count=3", "--size=32"]) == 0
    expected = ToyFaces(3, resolution=32, start=HELD_OUT)
    for i in range(3):
        image = decode_image(tmp_path / "faces" / f"face{i:04d}.png")
        np.testing.assert_array_equal(image, expected[i])
    assert "3 faces" in capsys.readouterr().out


def test_a_count_of_none_is_one_sentence(tmp_path, capsys):
    assert main(["toy", str(tmp_path / "faces"), "--count=0"]) == 1
    assert "--count is 0; expected at least 1" in capsys.readouterr().err
    assert not (tmp_path / "faces").exists()
