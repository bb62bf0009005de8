"""Face alignment: the crop of FFHQ, which the published face models were trained on.

The geometry is that of NVlabs/ffhq-dataset (Karras et al. 2019, arXiv 1812.04948, appendix A).
Landmarks come from dlib and the 68-point predictor of the package face_recognition_models, whose
training data (iBUG 300-W) is for research only; both are in the extra "align".
"""

import functools
import importlib.util
import os
from typing import Any

import numpy as np
from PIL import Image

from e4e_jax.data.images import ImageError

# Where each part of the face lies among the 68 landmarks.
_LEFT_EYE, _RIGHT_EYE, _MOUTH_CORNERS = slice(36, 42), slice(42, 48), (48, 54)
_SMALL, _TURNED = 64, 0.35


def face_quad(landmarks: np.ndarray) -> np.ndarray:
    """The corners of the aligned square in the image.

    Args:
      landmarks: [68, 2], x and y in pixels, in the order of iBUG 300-W.

    Returns:
      [4, 2] float64: upper left, lower left, lower right, upper right.
    """
    landmarks = np.asarray(landmarks, np.float64)
    left, right = landmarks[_LEFT_EYE].mean(axis=0), landmarks[_RIGHT_EYE].mean(axis=0)
    eyes, between_eyes = (left + right) / 2, right - left
    to_mouth = landmarks[list(_MOUTH_CORNERS)].mean(axis=0) - eyes
    # Along the eyes and across the line to the mouth, in equal parts.
    across = between_eyes + np.array([to_mouth[1], -to_mouth[0]])
    across /= np.hypot(*across)
    across *= max(2.0 * np.hypot(*between_eyes), 1.8 * np.hypot(*to_mouth))
    down = np.array([-across[1], across[0]])
    centre = eyes + 0.1 * to_mouth
    return np.stack(
        [centre - across - down, centre - across + down, centre + across + down,
         centre + across - down]
    )  # fmt: skip


def crop_face(image: np.ndarray, landmarks: np.ndarray, size: int = 256) -> np.ndarray:
    """Cuts the aligned square out of an image; what lies outside of it is mirrored.

    Args:
      image: uint8 [H, W, 3].
      landmarks: [68, 2], see `face_quad`.
      size: side of the result.

    Returns:
      uint8 [size, size, 3].
    """
    quad = face_quad(landmarks)
    side = np.hypot(*(quad[3] - quad[0]))
    shrink = side / size
    picture = Image.fromarray(np.asarray(image))
    if shrink > 1:  # the warp below reads single pixels, so that what is larger comes first down
        shape = [max(1, round(n / shrink)) for n in picture.size]
        quad = quad * (np.array(shape) / np.array(picture.size))
        picture = picture.resize(shape, Image.Resampling.LANCZOS)
    width, height = picture.size
    low = np.floor(quad.min(axis=0)).astype(int) - 2
    high = np.ceil(quad.max(axis=0)).astype(int) + 2
    before = np.maximum(-low, 0)
    after = np.maximum(high - (width, height), 0)
    pixels = np.asarray(picture)
    padding = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    pixels = np.pad(pixels, padding, mode="symmetric")
    corners = (quad + before).reshape(-1)
    warped = Image.fromarray(pixels).transform(
        (size, size), Image.Transform.QUAD, tuple(corners), Image.Resampling.BILINEAR
    )
    return np.asarray(warped)


def find_faces(image: np.ndarray) -> list[np.ndarray]:
    """The landmarks [68, 2] of every face that dlib finds, the largest face first.

    Args:
      image: uint8 [H, W, 3].

    Raises:
      ImportError: the extra "align" is not installed; in one sentence.
    """
    detector, predictor = _dlib()
    image = np.ascontiguousarray(image)
    boxes = sorted(detector(image, 1), key=lambda box: -box.area())
    shapes = (predictor(image, box) for box in boxes)
    return [np.array([(p.x, p.y) for p in shape.parts()], np.float64) for shape in shapes]


class AlignedFaces:
    """A named source whose images are aligned faces.

    An image without a face is an `ImageError`. Of several faces the largest is taken; `notes`
    says so, and names faces that are small or turned away, which invert badly.

    Args:
      source: of photographs, with `names`, and `paths` where they are files.
      size: side of the aligned images.

    Attributes:
      paths: of the photographs' files; None where there are none.
      notes: name -> what is to be known about the face, as images are read.
    """

    def __init__(self, source: Any, size: int = 256):
        _dlib()  # missing packages are known before the first image
        self._source = source
        self._size = size
        self.names = source.names
        self.paths = getattr(source, "paths", None)
        self.notes = {}

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        image, name = self._source[index], self.names[index]
        faces = find_faces(image)
        if not faces:
            raise ImageError(f"{name}: no face was found")
        notes = face_notes(faces)
        if notes:
            self.notes[name] = ", ".join(notes)
        return crop_face(image, faces[0], self._size)


def face_notes(faces: Any) -> list[str]:
    """What is to be known about the first of the faces [68, 2] of an image."""
    landmarks = np.asarray(faces[0])
    notes = []
    if len(faces) > 1:
        notes.append(f"{len(faces)} faces, of which the largest was taken")
    side = np.ptp(landmarks, axis=0).max()
    if side < _SMALL:
        notes.append(f"a small face of {side:.0f} pixels")
    # The tip of the nose lies halfway between the eyes' outer corners where the face looks ahead.
    outer = landmarks[45] - landmarks[36]
    place = np.dot(landmarks[30] - landmarks[36], outer) / np.dot(outer, outer)
    if abs(place - 0.5) > _TURNED / 2:
        notes.append("a face that is turned away")
    return notes


def is_aligned(image: np.ndarray, tolerance: float = 0.15) -> bool | None:
    """Whether the face in a square image lies where alignment puts it; None without a face.

    Args:
      image: uint8 [S, S, 3].
      tolerance: mean distance of the square's corners from the image's, as a share of S.
    """
    faces = find_faces(image)
    if not faces:
        return None
    height, width = image.shape[:2]
    corners = np.array([(0, 0), (0, height), (width, height), (width, 0)])
    return bool(np.mean(np.hypot(*(face_quad(faces[0]) - corners).T)) < tolerance * width)


@functools.cache
def _dlib():
    # The package itself is not imported: it needs pkg_resources, which setuptools gave up.
    models = importlib.util.find_spec("face_recognition_models")
    try:
        import dlib
    except ImportError:
        dlib = None
    if dlib is None or models is None or not models.submodule_search_locations:
        missing = "dlib" if dlib is None else "face_recognition_models"
        raise ImportError(
            f"face alignment needs {missing}, which is not installed: pip install 'e4e-jax[align]'."
        )
    path = os.path.join(
        models.submodule_search_locations[0], "models", "shape_predictor_68_face_landmarks.dat"
    )
    return dlib.get_frontal_face_detector(), dlib.shape_predictor(path)
