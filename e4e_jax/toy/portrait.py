"""How a toy face is drawn: its colours, its geometry, and one function for each part of it."""

from __future__ import annotations

import numpy as np

from e4e_jax.toy.shapes import Canvas, arc, clip, ellipse, rounded_box, segment, spot

# ---------------------------------------------------------------------------------------- palette


def _colour(*rgb):
    return np.array(rgb, np.float32)[:, None, None]  # [3, 1, 1]


def _palette(*hexadecimal):
    return np.array([list(bytes.fromhex(colour)) for colour in hexadecimal], np.float32) / 255


SKIN = _palette("ffe0c8", "f4c8a5", "e0a87d", "b77a52", "7d4e32")
HAIR = _palette("282024", "5c3824", "a06030", "d6a052", "eed496")
SHIRT = _palette("4664a0", "5a9678", "dcb45a", "c85a5a", "825a96")
BACKGROUND = _palette("bed8ec", "c4e6d4", "f6e8be", "f6cec4", "d8caec")

INK = _colour(0.20, 0.14, 0.16)
WHITE = _colour(1, 1, 1)
EYE_WHITE = _colour(0.99, 0.98, 0.96)
IRIS = _colour(0.30, 0.38, 0.42)
LIPS = _colour(0.80, 0.35, 0.36)
MOUTH = _colour(0.52, 0.16, 0.18)
TEETH = _colour(0.98, 0.96, 0.94)
LENS = _colour(0.85, 0.95, 1.00)
GREY_HAIR = _colour(0.80, 0.80, 0.82)
CREASE_TINT = _colour(0.62, 0.49, 0.47)  # times the skin: lines of age, nose
BLUSH_TINT = _colour(1.00, 0.66, 0.64)
NECK_TINT = _colour(0.84, 0.78, 0.76)


def _pick(palette, position):
    """Colours [N, 3, 1, 1] at `position` [N] in [0, 1] along a palette [K, 3]."""
    place = position * np.float32(len(palette) - 1)
    low = np.minimum(place.astype(int), len(palette) - 2)
    weight = (place - low.astype(np.float32))[:, None]
    return (palette[low] * (1 - weight) + palette[low + 1] * weight)[:, :, None, None]


def _mix(first, second, weight):
    return first + (second - first) * weight


# ------------------------------------------------------------------------------------------- face

Y = -0.02  # height of the face's centre on the canvas
HALF_HEIGHT = 0.60
EYE = 0.20  # sideways distance of an eye from the middle of the face


class _Face:
    """What the parts share: factors as [N, 1, 1], colours as [N, 3, 1, 1], and where things are."""

    def __init__(self, column):
        names = ("yaw", "smile", "age", "length", "glasses", "eyes")
        self.yaw, self.smile, self.age, self.length, self.glasses, self.eyes = (
            column[name][:, None, None] for name in names
        )
        self.x = 0.05 * self.yaw
        self.half_width = 0.44 + 0.08 * column["width"][:, None, None]
        self.skin = _pick(SKIN, column["skin"])
        self.crease = self.skin * CREASE_TINT
        self.shirt = _pick(SHIRT, column["shirt"])
        self.background = _pick(BACKGROUND, column["background"])
        # Age greys the hair late and partly: its own colour stays visible. The brows go further.
        age, hair = self.age[..., None], _pick(HAIR, column["hair"])
        self.hair = _mix(hair, GREY_HAIR, 0.35 * clip((age - 0.6) / 0.4, 0, 1))
        self.brow = _mix(0.62 * hair, GREY_HAIR, 0.8 * clip((age - 0.3) / 0.7, 0, 1))

    def across(self, offset, depth=0.17):
        """Canvas x of a point of the turned face, `offset` sideways and `depth` before its axis."""
        foreshortened = offset * (1 - 0.16 * self.yaw**2) - 0.10 * abs(offset) * self.yaw
        return self.x + depth * self.yaw + foreshortened


# ------------------------------------------------------------------------------------------ parts


def _background(canvas, face):
    w = canvas.window(0, 0, 1, 1)
    w.pixels[...] = face.background * (1.03 - 0.05 * (w.x**2 + w.y**2))


def _back_hair(canvas, face):
    """A cap behind the head, and a slab that grows down with the length."""
    x = face.x - 0.06 * face.yaw
    end = -0.12 + 0.95 * face.length
    w = canvas.window(x, Y, face.half_width + 0.12, np.maximum(end + 0.06, 0.76))
    cap = ellipse(w.x, w.y + 0.18, face.half_width + 0.12, 0.58)
    middle, half_height = (end - 0.15) / 2, (end + 0.15) / 2 + 0.06
    slab = rounded_box(w.x, w.y - middle, face.half_width + 0.11, half_height, 0.14)
    w.paint(w.fill(np.minimum(cap, slab)), face.hair * 0.82)


def _body(canvas, face):
    w = canvas.window(0, 1.10, 0.72, 0.36)
    w.paint(w.fill(rounded_box(w.x, w.y, 0.72, 0.36, 0.30)), face.shirt)
    w = canvas.window(0, 0.76, 0.24, 0.13)
    w.paint(w.fill(ellipse(w.x, w.y, 0.24, 0.13)), face.shirt * 0.86)
    w = canvas.window(0.02 * face.yaw, 0.55, 0.17, 0.25)
    w.paint(w.fill(rounded_box(w.x, w.y, 0.17, 0.25, 0.12)), face.skin * NECK_TINT)


def _ears(canvas, face):
    for side in (-1, 1):
        x = face.x + side * 0.98 * face.half_width - (0.10 * face.half_width + 0.05) * face.yaw
        w = canvas.window(x, Y + 0.06, 0.085, 0.13)
        w.paint(w.fill(ellipse(w.x, w.y, 0.085, 0.13)), face.skin * 0.90)


def _head(canvas, face):
    """An ellipse narrowed towards the jaw; returns its coverage of the whole canvas."""
    w = canvas.window(face.x, Y, face.half_width, HALF_HEIGHT)
    jaw = 1 - 0.05 * np.maximum(w.y, 0)
    distance = ellipse(w.x, w.y, face.half_width * jaw, HALF_HEIGHT)
    turned = 1.03 - 0.12 / face.half_width * w.x - 0.04 * face.yaw - 0.04 * w.y
    light = turned - 0.10 * clip(distance * (1 / 0.12) + 1, 0, 1)
    coverage = w.fill(distance)
    w.paint(coverage, face.skin * clip(light, 0.70, 1.06)[:, None])
    whole = np.zeros((len(coverage), canvas.resolution, canvas.resolution), np.float32)
    w.crop(whole)[...] = coverage
    return whole


def _blush(canvas, face, head):
    for side in (-1, 1):
        w = canvas.window(face.across(side * 0.27), Y + 0.20, 0.20, 0.15)
        w.paint(0.30 * spot(w.x, w.y, 0.20, 0.15), face.skin * BLUSH_TINT, head)


def _age_lines(canvas, face, head):
    """Forehead lines, crow's feet, bags under the eyes and folds beside the mouth."""
    age = clip((face.age - 0.15) / 0.85, 0, 1)
    strength = 0.90 * np.sqrt(age)
    thickness = 0.004 + 0.009 * age

    def line(w, distance):
        w.paint(w.stroke(distance, thickness) * strength, face.crease, head)

    for height, half_width in ((-0.315, 0.18), (-0.245, 0.23)):
        w = canvas.window(face.across(0), Y + height, half_width + 0.02, 0.045)
        line(w, arc(w.x, w.y, half_width, -0.025))
    for side in (-1, 1):
        w = canvas.window(face.across(side * EYE) + side * 0.165, Y - 0.03, 0.065, 0.09)
        for slope in (-0.5, 0.5):
            line(w, np.maximum(np.abs(w.x) - 0.045, np.abs(w.y - slope * side * w.x)))
        w = canvas.window(face.across(side * EYE), Y + 0.11, 0.11, 0.05)
        line(w, arc(w.x, w.y, 0.085, 0.025))
        w = canvas.window(face.across(side * 0.235), Y + 0.265, 0.08, 0.11)
        line(w, segment(w.x, w.y, side * 0.45, 0.085))


def _eyes(canvas, face, head):
    opening = 0.028 + 0.062 * face.eyes
    for side in (-1, 1):
        x = face.across(side * EYE)
        w = canvas.window(x, Y - 0.03, 0.118, 0.115)
        w.paint(w.fill(ellipse(w.x, w.y, 0.118, opening + 0.020)), 0.5 * (INK + face.crease))
        eyeball = w.fill(ellipse(w.x, w.y, 0.105, opening))
        w.paint(eyeball, EYE_WHITE)
        gaze = w.x - 0.028 * face.yaw
        w.paint(eyeball * w.fill(ellipse(gaze, w.y, 0.058, 0.066)), IRIS)
        w.paint(eyeball * w.fill(ellipse(gaze, w.y, 0.030, 0.034)), 0.4 * INK)
        w.paint(eyeball * w.fill(ellipse(gaze - 0.02, w.y + 0.025, 0.016, 0.016)), WHITE)
        w = canvas.window(x, Y - 0.19 - 0.03 * face.eyes, 0.13, 0.05)
        w.paint(w.stroke(arc(w.x, w.y, 0.105, -0.028), 0.020), face.brow, head)


def _nose(canvas, face, head):
    x = face.across(0, depth=0.22)
    w = canvas.window(x, Y + 0.165, 0.07, 0.045)
    w.paint(0.55 * w.stroke(arc(w.x, w.y, 0.055, 0.028), 0.013), face.crease, head)
    w = canvas.window(x - 0.012, Y + 0.07, 0.055, 0.115)
    shine = w.fill(ellipse(w.x, w.y, 0.022, 0.085), softness=0.06)
    w.paint(0.35 * shine, np.minimum(face.skin * 1.16, 1), head)


def _mouth(canvas, face, head):
    """Two lips bent by the smile, which parts them from a fifth of its range on: teeth show."""
    half_width = 0.16 + 0.04 * face.smile
    bend = 0.08 * face.smile
    parted = 0.115 * clip((face.smile - 0.2) / 0.8, 0, 1)
    upper, lower = bend - 0.5 * parted, bend + 0.5 * parted
    w = canvas.window(face.across(0, depth=0.18), Y + 0.375, 0.22, 0.14)
    y = w.y + 0.4 * bend  # the corners rise as the middle falls
    profile = 1 - (w.x / half_width) ** 2
    below_upper, above_lower = y - upper * profile, lower * profile - y
    inside = np.minimum(np.minimum(below_upper, above_lower), half_width - np.abs(w.x))
    opened = w.fill(-inside) * clip(parted / 0.02, 0, 1)
    w.paint(opened, MOUTH, head)
    w.paint(opened * w.fill(below_upper - 0.55 * parted * profile), TEETH, head)
    rosy, dark = _mix(face.crease, LIPS, 0.85), _mix(face.crease, LIPS, 0.25)
    w.paint(w.stroke(arc(w.x, y, half_width, lower), 0.025), rosy, head)
    w.paint(w.stroke(arc(w.x, y, half_width, upper), 0.012), dark, head)


def _front_hair(canvas, face):
    """The top of a slightly larger head, above a hairline parted at the side."""
    half_width = face.half_width + 0.05
    w = canvas.window(face.x, Y, half_width, HALF_HEIGHT + 0.09)
    parting = 0.16 * ((w.x - 0.10 - 0.10 * face.yaw) / face.half_width) ** 2 - 0.05 * w.x
    sides = clip((np.abs(w.x - 0.06 * face.yaw) / face.half_width - 0.80) / 0.2, 0, 1)
    hairline = -0.36 + parting + sides * (0.119 + 0.221 * face.length)
    scalp = ellipse(w.x, w.y + 0.03, half_width, HALF_HEIGHT + 0.06)
    light = clip(0.965 - 0.18 * w.x - 0.30 * w.y, 0.80, 1.15)
    w.paint(w.fill(np.maximum(scalp, w.y - hairline)), face.hair * light[:, None])


def _glasses(canvas, face, head):
    bar = 0.5 * (face.half_width - 0.28)
    for side in (-1, 1):
        x = face.across(side * 0.205)
        temple_x = x + side * (0.165 + bar)
        w = canvas.window(temple_x, Y - 0.05, bar, 0.015)
        temple = w.fill(rounded_box(w.x, w.y, bar, 0.015, 0.01))
        w.paint(temple * face.glasses, INK, head)
        w = canvas.window(x, Y - 0.02, 0.19, 0.175)
        rim = ellipse(w.x, w.y, 0.165, 0.150)
        w.paint(0.16 * w.fill(rim) * face.glasses, LENS)
        w.paint(w.stroke(np.abs(rim), 0.020) * face.glasses, INK)
    w = canvas.window(face.across(0, depth=0.18), Y - 0.03, 0.07, 0.04)
    w.paint(w.stroke(arc(w.x, w.y, 0.05, -0.02), 0.014) * face.glasses, INK)


# ---------------------------------------------------------------------------------------- portrait


def draw(factors: dict[str, np.ndarray], resolution: int) -> np.ndarray:
    """Draw N faces, the parts from back to front.

    factors: for every factor its N values, float32. Returns uint8 [N, resolution, resolution, 3].
    """
    face = _Face(factors)
    canvas = Canvas(len(face.yaw), resolution)
    _background(canvas, face)
    _back_hair(canvas, face)
    _body(canvas, face)
    _ears(canvas, face)
    head = _head(canvas, face)
    _blush(canvas, face, head)
    _age_lines(canvas, face, head)
    _eyes(canvas, face, head)
    _nose(canvas, face, head)
    _mouth(canvas, face, head)
    _front_hair(canvas, face)
    _glasses(canvas, face, head)
    return canvas.images()
