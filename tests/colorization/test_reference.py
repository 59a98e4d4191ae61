"""Color from a reference: where every gray has one color, against all pairs, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from photograph_colors import color_photograph
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

from pretext.errors import UserError
from pretint.colorization.reference import (
    ReferenceSamples,
    ReferenceSettings,
    features,
    jittered,
    match_samples,
    read_swatches,
    reference_colorist,
    remapped,
    samples_of,
)


def image_of(lightness: NDArray[np.float64], ab: NDArray[np.float64]) -> Image.Image:
    rgb = lab2rgb(np.concatenate((lightness[..., None], ab), -1))
    return Image.fromarray((rgb * 255).round().astype(np.uint8))


def lightness_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(rgb2lab(np.asarray(image))[..., 0]).float()[None, None]


def two_tones(seed: int, shape: tuple[int, int] = (48, 64)) -> tuple[Image.Image, np.ndarray]:
    """Large blocks of dark blue and light green: each gray has one color. And which is where."""
    blocks = np.random.default_rng(seed).random((shape[0] // 16, shape[1] // 16)) < 0.5
    blocks[0, :2] = True, False
    light = np.kron(blocks, np.ones((16, 16), bool))
    lightness = np.where(light, 75.0, 30.0)
    return image_of(lightness, np.where(light[..., None], [-30.0, 30.0], [15.0, -40.0])), light


@pytest.mark.parametrize("samples", [0, 200])
def test_two_tones_get_their_colors_back(samples: int) -> None:
    reference, _ = two_tones(0)
    true = rgb2lab(np.asarray(reference))[..., 1:]
    colorist = reference_colorist(reference, ReferenceSettings(samples=samples))
    ab = color_photograph(colorist, lightness_of(reference))[0].movedim(0, -1)
    assert ab.dtype == torch.float32
    np.testing.assert_allclose(ab, true, atol=1e-3)


@pytest.mark.parametrize("samples", [0, 400])
def test_a_brighter_and_flatter_photograph_is_remapped(samples: int) -> None:
    """An affine change of L is undone by the remapping: exactly, if the proportions of the tones are the same."""
    reference, light = two_tones(1)
    photo = torch.from_numpy(np.where(light[:, ::-1].copy(), 80.0, 62.0)).float()[None, None]
    ab = color_photograph(reference_colorist(reference, ReferenceSettings(samples=samples)), photo)[0]
    true = rgb2lab(np.asarray(reference))[:, ::-1, 1:]
    np.testing.assert_allclose(ab.movedim(0, -1), true, atol=1e-3)


def test_texture_tells_apart_what_lightness_cannot() -> None:
    random = np.random.default_rng(0)
    rough = np.kron([[1, 0]], np.ones((64, 64)))
    lightness = 50 + 25 * rough * random.choice([-1, 1], rough.shape)
    ab = np.where(rough[..., None], [-30.0, 30.0], [20.0, 20.0])
    reference = image_of(lightness, ab)
    turned = 50 + 25 * rough.T * random.choice([-1, 1], rough.T.shape)
    colorist = reference_colorist(reference, ReferenceSettings(samples=0))
    found = color_photograph(colorist, torch.from_numpy(turned).float()[None, None])[0]
    inner = found.numpy()[:, :, 8:-8]
    np.testing.assert_allclose(inner[:, :60].mean((1, 2)), [-30, 30], atol=2)
    np.testing.assert_allclose(inner[:, 68:].mean((1, 2)), [20, 20], atol=2)


def test_remapping_gives_mean_and_deviation() -> None:
    random = np.random.default_rng(0)
    one, other = random.uniform(0, 100, (30, 20)), random.uniform(40, 60, (10, 10))
    moved = remapped(one, other)
    np.testing.assert_allclose([moved.mean(), moved.std()], [other.mean(), other.std()])
    np.testing.assert_allclose(np.argsort(moved, axis=None), np.argsort(one, axis=None))
    np.testing.assert_allclose(remapped(np.full((3, 3), 9.0), other), other.mean())


@pytest.mark.parametrize("shape", [(9, 11), (1, 1), (1, 7), (7, 1), (3, 4)])
def test_features_are_lightness_and_deviation_in_the_window(shape: tuple[int, int]) -> None:
    lightness = np.random.default_rng(0).uniform(0, 100, shape)
    found = features(lightness)
    for y in range(shape[0]):
        for x in range(shape[1]):
            window = lightness[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            np.testing.assert_allclose(found[y, x], [lightness[y, x] / 2, window.std() / 2], atol=1e-9)


def test_a_flat_image_has_no_deviation_at_all() -> None:
    lightness = np.full((9, 9), np.float64(np.float32(53.7)))
    assert (features(lightness)[..., 1] == 0).all()


def test_equal_pixels_are_equal_samples_whatever_their_last_digits() -> None:
    chosen = samples_of(np.full((9, 9), 100 / 3), np.zeros((2, 9, 9)), 0, seed=0)
    assert features(np.full((9, 9), 100 / 3))[..., 1].any(), "25 thirds do not add up exactly"
    assert len(np.unique(chosen.features, axis=0)) == 1


@pytest.mark.parametrize("samples", [0, 1, 50, 200])
def test_matching_finds_the_nearest_of_all(samples: int) -> None:
    random = np.random.default_rng(samples)
    lightness, ab, photo = random.uniform(0, 100, (20, 30)), random.uniform(-80, 80, (2, 20, 30)), features(
        random.uniform(0, 100, (25, 15))
    )  # fmt: skip
    chosen = samples_of(lightness, ab, samples, seed=3)
    apart = np.abs(photo[:, :, None] - chosen.features).sum(-1)
    np.testing.assert_array_equal(match_samples(photo, chosen), np.moveaxis(chosen.ab[apart.argmin(-1)], -1, 0))


def test_of_equal_samples_the_first_counts() -> None:
    chosen = ReferenceSamples(
        np.array([[10.0, 1], [20, 1], [10, 1], [20, 1]]), np.array([[1.0, 1], [2, 2], [3, 3], [4, 4]])
    )
    assert match_samples(np.array([[[11.0, 1], [18, 0]]]), chosen)[0].tolist() == [[1, 2]]


@pytest.mark.parametrize("shape", [(48, 64), (200, 20), (1, 1000), (1000, 1), (15, 15), (13, 17), (3, 2)])
@pytest.mark.parametrize("samples", [1, 7, 200])
def test_samples_are_jittered_on_a_grid(shape: tuple[int, int], samples: int) -> None:
    height, width = shape
    y, x = jittered(height, width, samples, seed=0)
    assert y.min() >= 0 and x.min() >= 0 and y.max() < height and x.max() < width
    if samples >= height * width:
        assert len(y) == height * width
        return
    assert len(np.unique(y * width + x)) == len(y), "each once"
    assert 0.7 * samples <= len(y) <= max(1, 1.4 * samples)
    other, _ = jittered(height, width, samples, seed=0)
    assert (y == other).all()
    counts, *_ = np.histogram2d(y, x, bins=2, range=((0, height), (0, width)))
    if samples > 100 and min(shape) > 10:
        assert counts.min() > 0.15 * samples, "spread over the image"


def test_another_seed_takes_other_samples() -> None:
    assert (jittered(90, 90, 200, 0)[0] != jittered(90, 90, 200, 1)[0]).any()


def test_turning_the_photograph_turns_the_color() -> None:
    reference, _ = two_tones(2)
    lightness = torch.rand(1, 1, 20, 31) * 100
    colorist = reference_colorist(reference)
    ab = color_photograph(colorist, lightness)
    assert torch.equal(color_photograph(colorist, lightness.flip(-1)), ab.flip(-1))
    assert torch.equal(color_photograph(colorist, lightness.mT), ab.mT)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (1, 3000)])
@pytest.mark.parametrize("pixels", [1, 30, 500_000])
def test_odd_shapes(shape: tuple[int, int], pixels: int) -> None:
    reference, _ = two_tones(0)
    ab = color_photograph(
        reference_colorist(reference, ReferenceSettings(pixels=pixels)), torch.rand(1, 1, *shape) * 100
    )
    assert ab.shape == (1, 2, *shape) and ab.isfinite().all()
    thin = reference.crop((0, 0, *shape[::-1])) if max(shape) < 48 else reference.resize(shape[::-1])
    colorist = reference_colorist(thin, ReferenceSettings(pixels=max(pixels, 2)))
    ab = color_photograph(colorist, torch.rand(1, 1, 8, 9) * 100)
    assert ab.isfinite().all()


def test_a_large_photograph_is_matched_reduced() -> None:
    reference, _ = two_tones(0)
    large = reference.resize((64 * 5, 48 * 5), Image.Resampling.NEAREST)
    colorist = reference_colorist(reference, ReferenceSettings(pixels=48 * 64))
    ab = color_photograph(colorist, lightness_of(large))[0].movedim(0, -1)
    np.testing.assert_allclose(ab, rgb2lab(np.asarray(large))[..., 1:], atol=0.1)


@pytest.mark.parametrize("color", ["black", "white", (120, 120, 120), (121, 120, 120)])
def test_a_reference_without_color_is_refused(color: str | tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match=r"old\.jpg: has no color"):
        reference_colorist(Image.new("RGB", (30, 20), color), name="old.jpg")


def swatches(folder: Path, text: str) -> Path:
    path = folder / "swatches.yaml"
    path.write_text(text)
    return path


def test_swatches_say_what_belongs_together(tmp_path: Path) -> None:
    """The photograph's light is the reference's dark: without swatches the colors would be the wrong way round."""
    reference, photo = Image.new("RGB", (60, 40), (30, 30, 120)), torch.full((1, 1, 40, 60), 80.0)
    reference.paste((200, 220, 90), (30, 0, 60, 40))
    photo[..., 30:] = 20.0
    path = swatches(
        tmp_path,
        "[{reference: [2, 2, 20, 20], photo: [5, 5, 10, 10]}, {reference: [35, 5, 20, 30], photo: [40, 20, 15, 15]}]",
    )
    ab = color_photograph(reference_colorist(reference, ReferenceSettings(swatches=str(path))), photo)[0].movedim(0, -1)
    true = rgb2lab(np.asarray(reference))[..., 1:]
    np.testing.assert_allclose(ab[:, :28], true[:, :28], atol=1e-3)
    np.testing.assert_allclose(ab[:, 32:], true[:, 32:], atol=1e-3)


def test_outside_swatches_the_nearest_window_counts(tmp_path: Path) -> None:
    """Against all pairs of windows."""
    reference, _ = two_tones(0)
    photo = np.random.default_rng(0).uniform(0, 100, (24, 30))
    path = swatches(tmp_path, "[{reference: [0, 0, 40, 40], photo: [3, 4, 9, 8]}]")
    colorist = reference_colorist(reference, ReferenceSettings(swatches=str(path), samples=0))
    found = color_photograph(colorist, torch.from_numpy(photo).float()[None, None])[0].numpy()
    padded = np.pad(photo.astype(np.float32).astype(float), 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).reshape(24, 30, 25)
    inside = np.zeros((24, 30), bool)
    inside[4:12, 3:12] = True
    known, colors = windows[inside], found[:, inside]
    for y, x in zip(*np.nonzero(~inside), strict=True):
        apart = ((known - windows[y, x]) ** 2).sum(1)
        np.testing.assert_array_equal(found[:, y, x], colors[:, apart.argmin()])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no swatches"),
        ("{}", "no swatches"),
        ("- 3", "swatch 1: give reference and photo"),
        ("- {reference: [0, 0, 1, 1]}", "give reference and photo"),
        ("- {reference: [0, 0, 1, 1], photo: [0, 0, 1]}", "photo is"),
        ("- {reference: [0, 0, 1, 0], photo: [0, 0, 1, 1]}", "reference is"),
        ("- {reference: [-1, 0, 1, 1], photo: [0, 0, 1, 1]}", "reference is"),
        ("- {reference: [0, 0, 1.5, 1], photo: [0, 0, 1, 1]}", "reference is"),
        (f"- {{reference: [-0x{'f' * 5000}, 0, 1, 1], photo: [0, 0, 1, 1]}}", "a number of 5,003 digits"),
        (f"- {{reference: {[1] * 9000}, photo: [0, 0, 1, 1]}}", "reference is"),
    ],
)
def test_swatches_that_are_not_understood(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_swatches(swatches(tmp_path, text))
    assert len(str(caught.value)) < len(str(tmp_path)) + 200


def test_swatches_outside_an_image(tmp_path: Path) -> None:
    reference, _ = two_tones(0)
    path = swatches(tmp_path, "[{reference: [50, 0, 15, 5], photo: [0, 0, 9, 9]}]")
    with pytest.raises(UserError, match=r"\[50, 0, 15, 5\] lies outside old\.jpg, which has 64 x 48 pixels"):
        reference_colorist(reference, ReferenceSettings(swatches=str(path)), "old.jpg")
    path = swatches(tmp_path, f"[{{reference: [0, 0, 1, 0x{'f' * 5000}], photo: [0, 0, 9, 9]}}]")
    with pytest.raises(UserError, match="a number of 5,002 digits"):
        reference_colorist(reference, ReferenceSettings(swatches=str(path)))
    path = swatches(tmp_path, "[{reference: [0, 0, 9, 9], photo: [0, 0, 9, 9]}]")
    with pytest.raises(UserError, match="lies outside the photograph, which has 8 x 20 pixels"):
        color_photograph(reference_colorist(reference, ReferenceSettings(swatches=str(path))), torch.rand(1, 1, 20, 8))


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"samples": -1}, {"pixels": 0}, {"samples": 10**9}, {"seed": -1}):
        with pytest.raises(UserError, match="must"):
            ReferenceSettings(**wrong)  # type: ignore[arg-type]
