"""Alignment: its geometry on made-up landmarks, and dlib on large drawn faces."""

import importlib.util

import numpy as np
import pytest
from helpers import drawn_face, needs_dlib

from e4e_jax.data.images import ImageError
from e4e_jax.inversion import align


def landmarks(*, eyes=40.0, mouth=50.0, angle=0.0, centre=(128.0, 128.0)):
    """68 points of which those that count lie where told: half the eyes' distance, the mouth's."""
    points = np.zeros((68, 2))
    ring = 5 * np.array([(np.cos(a), np.sin(a)) for a in np.arange(6) * np.pi / 3])
    points[36:42], points[42:48] = ring - (eyes, 0), ring + (eyes, 0)
    points[48], points[54] = (-20, mouth), (20, mouth)
    points[30] = (0, mouth / 2)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return points @ rotation + centre


def test_quad_of_an_upright_face():
    # Half a side is the larger of 2 · 80 and 1.8 · 50; the centre is a tenth of the way down.
    corners = np.array([(-160, -160), (-160, 160), (160, 160), (160, -160)])
    np.testing.assert_allclose(align.face_quad(landmarks()), corners + (128, 133), atol=1e-9)
    corners = np.array([(-216, -216), (-216, 216), (216, 216), (216, -216)])
    long = align.face_quad(landmarks(mouth=120.0))
    np.testing.assert_allclose(long, corners + (128, 140), atol=1e-9)


def test_quad_turns_with_the_face():
    upright = align.face_quad(landmarks(centre=(0, 0)))
    turned = align.face_quad(landmarks(centre=(0, 0), angle=0.3))
    rotation = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    np.testing.assert_allclose(turned, upright @ rotation, atol=1e-9)


@pytest.mark.parametrize("scale, angle", [(1.0, 0.0), (3.0, 0.2), (0.5, -0.4)])
def test_crop_shows_what_lies_in_the_quad(scale, angle):
    """On an image whose colours are its coordinates, within 2 pixels of the result."""
    height, width = int(500 * scale), int(600 * scale)
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / width, y * 255 / height, 0 * x], axis=-1).astype(np.uint8)
    points = landmarks(eyes=30, mouth=40, angle=angle, centre=(300, 250)) * scale
    size = 128
    crop = align.crop_face(image, points, size).astype(float)
    quad = align.face_quad(points)
    down, across = np.mgrid[:size, :size] + 0.5
    place = (
        quad[0]
        + across[..., None] / size * (quad[3] - quad[0])
        + down[..., None] / size * (quad[1] - quad[0])
    )
    expected = place * 255 / (width, height)
    tolerance = 2 * np.hypot(*(quad[3] - quad[0])) / size * 255 / np.array([width, height]) + 1
    assert np.all(np.abs(crop[..., :2] - expected) < tolerance)


def test_what_lies_outside_is_mirrored():
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, :128] = 200  # the left half is bright
    crop = align.crop_face(image, landmarks(), 64)
    assert crop.shape == (64, 64, 3)
    assert np.all(crop[:, :2] > 190) and np.all(crop[:, -2:] < 10)


def test_notes():
    assert align.face_notes([landmarks(eyes=60)]) == []
    assert align.face_notes([landmarks(eyes=60)] * 3) == ["3 faces, of which the largest was taken"]
    small = landmarks(eyes=10, mouth=12, centre=(0, 0)) * 0.5
    assert "a small face of" in align.face_notes([small])[0]
    turned = landmarks(eyes=60)
    turned[30] += (50, 0)
    assert align.face_notes([turned]) == ["a face that is turned away"]


class Source:
    names = ["face.png", "wall.png"]

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index]


@needs_dlib
def test_a_drawn_face_is_found_and_put_in_its_place():
    image = drawn_face()
    (points,) = align.find_faces(image)
    assert 200 < points[:, 0].min() and points[:, 0].max() < 456
    aligned = align.crop_face(image, points, 256)
    # The predictor has only seen photographs: of drawn eyes it is less sure.
    assert align.is_aligned(aligned, tolerance=0.25)
    assert not align.is_aligned(image[20:276, 100:356], tolerance=0.25)
    assert align.is_aligned(np.full((256, 256, 3), 128, np.uint8)) is None
    (again,) = align.find_faces(aligned)
    eyes = np.stack([again[36:42].mean(axis=0), again[42:48].mean(axis=0)])
    assert abs(eyes[0, 1] - eyes[1, 1]) < 10 and 110 < eyes[:, 0].mean() < 146


@needs_dlib
def test_images_without_a_face_are_named():
    faces = align.AlignedFaces(Source([drawn_face(), np.full((200, 200, 3), 90, np.uint8)]), 64)
    assert len(faces) == 2 and faces[0].shape == (64, 64, 3)
    with pytest.raises(ImageError, match="wall.png: no face was found"):
        faces[1]


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    align._dlib.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'e4e-jax\[align\]'"):
        align.find_faces(np.zeros((8, 8, 3), np.uint8))
    align._dlib.cache_clear()
