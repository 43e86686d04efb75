"""Synthetic faces: the same everywhere, labelled under the pixels, and impossible to guess without looking."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from trainer.landmarks import ATTRIBUTES
from trainer.synthetic import draw_face
from trainer.synthetic.faces import SMALLEST_SIZE, SyntheticFace

PROJECT = Path(__file__).resolve().parents[3]
RIGHT_EYE, LEFT_EYE = range(60, 68), range(68, 76)


@pytest.fixture(scope="module")
def faces() -> list[SyntheticFace]:
    return [draw_face(11, index) for index in range(300)]


@pytest.fixture(scope="module")
def clear_faces(faces: list[SyntheticFace]) -> list[SyntheticFace]:
    """Faces of which no nuisance but the expression is strong; twice as large, to see the eyes well."""
    numbers = [index for index, face in enumerate(faces) if not face.attributes[[0, 2, 3, 4, 5]].any()]
    return [draw_face(11, index, size=256) for index in numbers[:80]]


def split_by(faces: list[SyntheticFace], attribute: str) -> tuple[list[SyntheticFace], list[SyntheticFace]]:
    """Faces that have the attribute, and faces that do not."""
    column = ATTRIBUTES.index(attribute)
    return [f for f in faces if f.attributes[column]], [f for f in faces if not f.attributes[column]]


def digest(face: SyntheticFace) -> str:
    parts = (face.image, face.landmarks, face.box, face.attributes)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def grey_at(face: SyntheticFace, points: np.ndarray) -> np.ndarray:
    """Grey values (N,) of the picture at points (N, 2), interpolated."""
    grey = cv2.cvtColor(face.image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return cv2.remap(grey, points.astype(np.float32)[None], None, cv2.INTER_LINEAR)[0]


def colour_at(face: SyntheticFace, points: np.ndarray) -> np.ndarray:
    """Mean colour (3,) BGR of the picture at points (N, 2), interpolated."""
    return cv2.remap(face.image.astype(np.float32), points.astype(np.float32)[None], None, cv2.INTER_LINEAR)[0].mean(0)


def eye_opening(face: SyntheticFace) -> float:
    """Mean height of the eyes relative to their width."""
    p = face.landmarks
    height = np.linalg.norm(p[62] - p[66]) + np.linalg.norm(p[70] - p[74])
    return height / (np.linalg.norm(p[60] - p[64]) + np.linalg.norm(p[68] - p[72]))


def test_types_and_shapes() -> None:
    face = draw_face(0, 0, size=96)
    assert (face.image.shape, face.image.dtype) == ((96, 96, 3), np.uint8)
    assert (face.landmarks.shape, face.landmarks.dtype) == ((98, 2), np.float64)
    assert (face.box.shape, face.box.dtype) == ((4,), np.float64)
    assert (face.attributes.shape, face.attributes.dtype) == ((6,), np.bool_)


def test_a_face_depends_on_nothing_but_seed_index_and_size() -> None:
    first = digest(draw_face(3, 7))
    draw_face(3, 8)
    assert digest(draw_face(3, 7)) == first
    others = {digest(draw_face(3, 8)), digest(draw_face(4, 7)), digest(draw_face(3, 7, size=127))}
    assert len(others | {first}) == 4


def test_another_process_draws_the_same_bits() -> None:
    code = "from test_synthetic import digest, draw_face; print(*[digest(draw_face(5, i)) for i in range(8)])"
    paths = os.pathsep.join([str(PROJECT), str(Path(__file__).parent)])
    environment = os.environ | {"PYTHONHASHSEED": "123", "PYTHONPATH": paths}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.split() == [digest(draw_face(5, index)) for index in range(8)]


def test_drawing_leaves_the_global_random_state_alone() -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    draw_face(0, 1)
    assert np.random.random() == expected


@pytest.mark.parametrize("size", [64, 200])
def test_another_size_is_the_same_face(size: int) -> None:
    small, reference = draw_face(2, 5, size=size), draw_face(2, 5, size=128)
    np.testing.assert_allclose(small.landmarks / (size - 1), reference.landmarks / 127, atol=0.012)
    np.testing.assert_array_equal(small.attributes, reference.attributes)


@pytest.mark.parametrize("size", [SMALLEST_SIZE, 61])
def test_small_pictures_hold_all_landmarks(size: int) -> None:
    for index in range(40):
        landmarks = draw_face(1, index, size=size).landmarks
        assert landmarks.min() >= 0
        assert landmarks.max() <= size - 1


def test_landmarks_are_inside_and_the_box_is_tight(faces: list[SyntheticFace]) -> None:
    for face in faces:
        assert np.isfinite(face.landmarks).all()
        assert face.landmarks.min() >= 0
        assert face.landmarks.max() <= 127
        np.testing.assert_array_equal(face.box, [*face.landmarks.min(axis=0), *face.landmarks.max(axis=0)])


def test_landmarks_are_where_wflw_has_them(clear_faces: list[SyntheticFace]) -> None:
    for face in clear_faces:
        p = face.landmarks
        assert p[60, 0] < p[64, 0] < p[68, 0] < p[72, 0], "the subject's right eye is on the left of the picture"
        assert p[33, 0] < p[37, 0] < p[42, 0] < p[46, 0]
        assert p[76, 0] < p[85, 0] < p[82, 0]
        assert p[[60, 72], 1].mean() < p[57, 1] < p[85, 1] < p[16, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1, 0, 64), "seed=-1"), ((0, -2, 64), "index=-2"), ((0, 0, SMALLEST_SIZE - 1), "size must be at least")],
)
def test_bad_arguments_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    seed, index, size = arguments
    with pytest.raises(ValueError, match=message):
        draw_face(seed, index, size=size)


def test_every_attribute_occurs_but_not_too_often(faces: list[SyntheticFace]) -> None:
    rates = np.mean([face.attributes for face in faces], axis=0)
    assert ((rates > 0.05) & (rates < 0.4)).all(), dict(zip(ATTRIBUTES, rates, strict=True))


def test_a_guess_that_does_not_look_at_the_picture_is_bad(faces: list[SyntheticFace]) -> None:
    landmarks, boxes = np.stack([f.landmarks for f in faces]), np.stack([f.box for f in faces])
    low, extent = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    guess = ((landmarks - low) / extent).mean(axis=0) * extent + low
    error = np.linalg.norm(guess - landmarks, axis=-1).mean(axis=1)
    nme = error / np.linalg.norm(landmarks[:, 60] - landmarks[:, 72], axis=-1)
    assert np.median(nme) > 0.08
    assert nme.mean() > 0.08


# The label is right under the pixels


def test_pupils_are_darker_than_the_white_of_the_eye(clear_faces: list[SyntheticFace]) -> None:
    darker = []
    for face in clear_faces:
        for eye, pupil in ((RIGHT_EYE, 96), (LEFT_EYE, 97)):
            corners, lids = face.landmarks[[eye[0], eye[4]]], face.landmarks[[eye[2], eye[6]]]
            if np.linalg.norm(lids[0] - lids[1]) < 0.2 * np.linalg.norm(corners[0] - corners[1]):
                continue
            farther = corners[np.argmax(np.linalg.norm(corners - face.landmarks[pupil], axis=1))]
            white = 0.55 * farther + 0.45 * face.landmarks[pupil]
            around = face.landmarks[pupil] + np.array([[0, 0], [1, 0], [-1, 0], [0, 1]])
            darker.append(grey_at(face, around).mean() < grey_at(face, white[None])[0])
    assert len(darker) > 50
    assert np.mean(darker) > 0.9


def test_lips_are_redder_than_the_skin_beside_them(clear_faces: list[SyntheticFace]) -> None:
    redder = []
    for face in clear_faces:
        p = face.landmarks
        lower_lip, chin = 0.5 * (p[[84, 85, 86]] + p[[95, 94, 93]]), 0.55 * p[[85]] + 0.45 * p[[16]]
        lip, skin = colour_at(face, lower_lip), colour_at(face, chin)
        redder.append(lip[2] / lip[1] > skin[2] / skin[1])
    assert np.mean(redder) > 0.8


def test_brows_and_upper_lids_are_darker_than_the_skin_between_them(clear_faces: list[SyntheticFace]) -> None:
    brows, lids = [], []
    for face in clear_faces:
        p = face.landmarks
        brow, lid = 0.5 * (p[[35, 44]] + p[[40, 48]]), p[[62, 70]]
        between = grey_at(face, 0.5 * (p[[40, 48]] + lid)).mean()
        brows.append(grey_at(face, brow).mean() < between)
        lids.append(grey_at(face, lid).mean() < between)
    assert np.mean(brows) > 0.9
    assert np.mean(lids) > 0.9


def test_the_contour_lies_on_an_edge(clear_faces: list[SyntheticFace]) -> None:
    contrast_on, contrast_inside = [], []
    for face in clear_faces:
        jaw, nose = face.landmarks[10:23], face.landmarks[57]
        inwards = (nose - jaw) / np.linalg.norm(nose - jaw, axis=1, keepdims=True)
        for place, into in ((jaw, contrast_on), (jaw + 12 * inwards, contrast_inside)):
            into.append(np.abs(grey_at(face, place + 3 * inwards) - grey_at(face, place - 3 * inwards)).mean())
    assert np.mean(contrast_on) > 2 * np.mean(contrast_inside)


# The flags are visible


def test_posed_faces_are_turned(faces: list[SyntheticFace]) -> None:
    def asymmetry(face: SyntheticFace) -> float:
        p = face.landmarks
        near, far = np.linalg.norm(p[60] - p[2]), np.linalg.norm(p[72] - p[30])
        return abs(np.log((near + 1) / (far + 1)))

    posed, others = split_by(faces, "pose")
    assert np.mean([asymmetry(f) for f in posed]) > 2 * np.mean([asymmetry(f) for f in others])


def test_expressive_faces_have_unusual_mouths_or_eyes(faces: list[SyntheticFace]) -> None:
    def features(face: SyntheticFace) -> np.ndarray:
        p = face.landmarks
        unit = np.linalg.norm(p[16] - p[51])
        gap, drop = np.linalg.norm(p[90] - p[94]), (p[[76, 82]] - p[[90, 94]].mean(axis=0)) @ (p[16] - p[51]) / unit
        return np.array([gap / unit, drop.mean() / unit, np.linalg.norm(p[76] - p[82]) / unit, eye_opening(face)])

    strong, others = ([features(f) for f in group] for group in split_by(faces, "expression"))
    centre, spread = np.mean(others, axis=0), np.std(others, axis=0)
    deviation = [np.abs((np.array(group) - centre) / spread).max(axis=1).mean() for group in (strong, others)]
    assert deviation[0] > 1.4 * deviation[1]


def test_extreme_light_is_dark_bright_coloured_or_one_sided(faces: list[SyntheticFace]) -> None:
    def cheeks(face: SyntheticFace) -> np.ndarray:
        """(2, 3) colours of the two cheeks."""
        right, left = face.landmarks[[66, 76]].mean(axis=0), face.landmarks[[74, 82]].mean(axis=0)
        return np.stack([colour_at(face, right[None]), colour_at(face, left[None])]) + 5

    strong, others = (np.log([cheeks(f) for f in group]) for group in split_by(faces, "illumination"))
    brightness, hue = ([part(group) for group in (strong, others)] for part in (spread_of_brightness, spread_of_hue))
    sides = [np.abs(group[:, 0].mean(axis=-1) - group[:, 1].mean(axis=-1)).mean() for group in (strong, others)]
    assert brightness[0] > 1.2 * brightness[1]
    assert hue[0] > 1.2 * hue[1]
    assert sides[0] > 1.2 * sides[1]


def spread_of_brightness(log_colours: np.ndarray) -> float:
    """log_colours (N, 2, 3)."""
    return float(log_colours.mean(axis=(1, 2)).std())


def spread_of_hue(log_colours: np.ndarray) -> float:
    """log_colours (N, 2, 3)."""
    return float((log_colours - log_colours.mean(axis=2, keepdims=True)).std(axis=0).mean())


def test_made_up_lips_are_more_colourful(faces: list[SyntheticFace]) -> None:
    def lip_redness(face: SyntheticFace) -> float:
        p = face.landmarks
        lip = colour_at(face, 0.5 * (p[[84, 85, 86]] + p[[95, 94, 93]]))
        return float(np.log((lip[2] + 5) / (lip[1] + 5)))

    made_up, others = split_by([f for f in faces if not f.attributes[[2, 4, 5]].any()], "make-up")
    assert np.mean([lip_redness(f) for f in made_up]) > np.mean([lip_redness(f) for f in others]) + 0.3


def test_occluded_faces_hide_features(faces: list[SyntheticFace]) -> None:
    """Where eyes and mouth are covered, the fixed relations of pupils, eye whites and lips break."""

    def looks_like_a_face(face: SyntheticFace) -> float:
        p = face.landmarks
        pupils = grey_at(face, p[[96, 97]]) < grey_at(face, 0.5 * (p[[66, 74]] + p[[54, 54]]))
        lip, skin = colour_at(face, 0.5 * (p[[84, 85, 86]] + p[[95, 94, 93]])), colour_at(face, p[[53]])
        return (pupils.mean() + (lip[2] / (lip[1] + 1) > skin[2] / (skin[1] + 1))) / 2

    occluded, others = split_by([f for f in faces if not f.attributes[[2, 5]].any()], "occlusion")
    assert np.mean([looks_like_a_face(f) for f in occluded]) < np.mean([looks_like_a_face(f) for f in others]) - 0.1


def test_blurred_faces_are_less_sharp(faces: list[SyntheticFace]) -> None:
    def sharpness(face: SyntheticFace) -> float:
        return float(cv2.Laplacian(cv2.cvtColor(face.image, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())

    blurred, others = split_by(faces, "blur")
    assert np.median([sharpness(f) for f in blurred]) < 0.3 * np.median([sharpness(f) for f in others])
