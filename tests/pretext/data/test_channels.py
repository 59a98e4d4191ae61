"""Images of named channels: values, ranges, files by a pattern, packing, crops, and what is refused."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from pretext.backbones import build_backbone
from pretext.data import LabeledDataset, open_dataset, open_labeled
from pretext.data.batches import CropSettings, EvalDataset, TrainDataset, center_crop
from pretext.data.channels import ChannelDataset, ChannelImage, channels_of
from pretext.data.duplicates import find_shared
from pretext.data.pack import PackSettings, pack
from pretext.data.packed_tiff import read_packed, write_packed
from pretext.data.planes import read_planes
from pretext.data.source import StoredDataset, fingerprint
from pretext.errors import ImageError, UserError
from pretext.store import seal, unseal


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 65536, shape, np.uint16)


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    """Six images of three channels, in two classes."""
    for at in range(6):
        folder = tmp_path / "bands" / ("dry", "wet")[at % 2]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{at}.npy", noise(3, 20, 24, seed=at))
    return tmp_path / "bands"


def values(source: object, index: int = 0) -> NDArray[np.float32]:
    assert isinstance(source, ChannelDataset)
    return np.asarray(source.read(index))


def test_values_are_those_of_the_files(bands: Path) -> None:
    source = open_dataset(f"channels:B2,B3,B8:{bands}")
    assert len(source) == 6 and source.key(1) == "dry/2.npy" and channels_of(source) == ("B2", "B3", "B8")
    assert np.array_equal(values(source), np.moveaxis(noise(3, 20, 24, seed=0), 0, -1))
    assert isinstance(source, StoredDataset) and not isinstance(source, LabeledDataset)
    labeled = open_labeled(f"channels:B2,B3,B8:{bands}")
    assert labeled.classes == ["dry", "wet"] and labeled.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(find_shared(source, source)) == 6
    others = {open_dataset(f"channels:{names}:{bands}").digest() for names in ("B2,B3,B8", "B2,B3,B4", "B2,B8,B3")}
    assert len(others) == 3 and source.digest() in others
    assert fingerprint(source) == fingerprint(open_dataset(f"channels:a,b,c:{bands}"))


def test_gray_and_srgb_are_scaled_by_their_range(tmp_path: Path) -> None:
    stored = np.array([[[0, 100, 65535]]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(stored, -1, 0), photometric="minisblack", metadata={"axes": "CYX"})
    srgb = values(open_dataset(f"channels:red,green,blue:{tmp_path}"))
    np.testing.assert_array_equal(srgb, stored.astype(np.float32) / np.float32(65535))
    assert values(open_dataset(f"channels:red,green,blue=0..131070:{tmp_path}"))[0, 0, 2] == 0.5


def test_what_is_not_finite_is_nan_and_black_in_gray(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0.5, np.nan, np.inf, -np.inf]]))
    assert np.isnan(values(open_dataset(f"channels:p:{tmp_path}"))).ravel().tolist() == [False, True, True, True]
    assert values(open_dataset(f"channels:gray:{tmp_path}")).ravel().tolist() == [0.5, 0, 0, 0]
    np.save(tmp_path / "a.npy", np.array([[0.5, 1.25]]))
    with pytest.raises(ImageError, match=r"a.npy: values of gray reach from 0.5 to 1.25, beyond 0 to 1; declare"):
        values(open_dataset(f"channels:gray:{tmp_path}"))
    assert values(open_dataset(f"channels:gray=0..2:{tmp_path}")).ravel().tolist() == [0.25, 0.625]


def test_each_channel_in_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for plate in ("x", "y"):
        (tmp_path / plate).mkdir()
        for site in (1, 2):
            for number, channel in enumerate(("DAPI", "GFP")):
                tifffile.imwrite(tmp_path / plate / f"s{site}_w{channel}.tif", noise(8, 9, seed=10 * site + number))
    (tmp_path / "x" / "notes_w.tif").write_bytes(b"")
    name = f"channels:GFP,DAPI:{tmp_path}/{{id}}_w{{channel}}.tif"
    source = open_dataset(name)
    assert [source.key(index) for index in range(len(source))] == ["x/s1", "x/s2", "y/s1", "y/s2"]
    assert np.array_equal(values(source, 1), np.stack([noise(8, 9, seed=21), noise(8, 9, seed=20)], -1))
    labeled = open_labeled(name)
    assert labeled.classes == ["x", "y"] and labeled.labels.tolist() == [0, 0, 1, 1]
    assert len(find_shared(source, source)) == 4
    monkeypatch.chdir(tmp_path)
    for pattern, key in (("{id}_w{channel}.tif", "x/s1"), ("x/{id}_w{channel}.tif", "s1")):
        assert open_dataset(f"channels:GFP,DAPI:{pattern}").key(0) == key, "from the working folder"
    (tmp_path / "x" / "s2_wGFP.tif").unlink()
    with pytest.raises(UserError, match="1 of 4 images lack a channel; the first: x/s2 has no GFP"):
        open_dataset(name)
    with pytest.raises(UserError, match="none of 8 files has such a name, with a channel A or B"):
        open_dataset(f"channels:A,B:{tmp_path}/{{id}}_w{{channel}}.tif")
    with pytest.raises(UserError, match=r"the pattern needs {id} and {channel}, each once"):
        open_dataset(f"channels:GFP,DAPI:{tmp_path}/x_w{{channel}}.tif")
    tifffile.imwrite(tmp_path / "x" / "s2_wGFP.tif", noise(9, 8))
    with pytest.raises(ImageError, match="x/s2: the files of its channels differ in size"):
        values(open_dataset(name), 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_packed_images_keep_every_value(tmp_path: Path, dtype: str) -> None:
    stored = [(noise(3, 17, 19, seed=at) / 7).astype(dtype) for at in range(4)]
    for at, image in enumerate(stored):
        (tmp_path / "in" / "ab"[at % 2]).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "in" / "ab"[at % 2] / f"{at}.npy", image)
    name = f"channels:p,q,r:{tmp_path / 'in'}"
    assert pack(name, tmp_path / "out", PackSettings(workers=0)).complete
    packed, source = (open_labeled(f"channels:p,q,r:{folder}") for folder in (tmp_path / "out", tmp_path / "in"))
    assert packed.classes == source.classes and packed.labels.tolist() == source.labels.tolist()
    assert isinstance(packed, ChannelDataset) and isinstance(source, ChannelDataset)
    for index in range(4):
        ours, theirs = packed.stored_values(index), source.stored_values(index)
        assert ours.dtype == dtype and np.array_equal(ours, theirs)
    with pytest.raises(UserError, match=r"packed from other images .*or other names, channels or classes"):
        pack(f"channels:p,r,q:{tmp_path / 'in'}", tmp_path / "out", PackSettings(workers=0))
    with pytest.raises(UserError, match="was packed as channels:p,q,r, not as q,p,r"):
        open_dataset(f"channels:q,p,r:{tmp_path / 'out'}")
    manifest = tmp_path / "out" / "manifest.json"
    written = unseal(manifest.read_bytes())
    del written["source"]["channels"]  # as by an earlier version
    manifest.write_bytes(seal(written))
    assert pack(name, tmp_path / "out", PackSettings(workers=0)).complete


def test_an_image_that_is_no_number_cannot_be_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((4, 5), np.nan, np.float32))
    with pytest.raises(ImageError, match=r"a.npy: no value of gray is a number"):
        values(open_dataset(f"channels:gray:{tmp_path}"))
    assert np.isnan(values(open_dataset(f"channels:p:{tmp_path}"))).all()


def test_more_values_than_an_rgb_image_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for channels, side in ((3, 10), (4, 10)):
        image = noise(side, side, channels)
        names = [f"c{at}" for at in range(channels)]
        np.save(tmp_path / "a.npy", image)
        for data in (write_packed(image), (tmp_path / "a.npy").read_bytes()):
            if channels == 3:
                assert np.array_equal(read_planes(data, "x", names), image)
            else:
                assert read_packed(data, channels) is None
                with pytest.raises(ImageError, match="too large: 400 values, more than 300"):
                    read_planes(data, "x", names)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_the_quick_reader_reads_what_the_general_one_does_or_nothing(dtype: str, channels: int) -> None:
    image = (noise(9, 11, channels) / 7).astype(dtype)
    data, names = write_packed(image), [f"c{at}" for at in range(channels)]
    quick = read_packed(data, channels)
    assert quick is not None and quick.dtype == dtype and np.array_equal(quick, image)
    assert np.array_equal(read_planes(data, "x", names), image)
    assert read_packed(data, channels + 1) is None and read_packed(data[: len(data) // 2], channels) is None
    random = np.random.default_rng(channels)
    for at in random.integers(len(data), size=300):
        damaged = bytearray(data)
        damaged[at] ^= 1 << random.integers(8)
        quick = read_packed(bytes(damaged), channels)
        assert quick is None or np.array_equal(quick, image)  # what does not count was damaged
    buffer = BytesIO()
    tifffile.imwrite(buffer, np.moveaxis(image, -1, 0), photometric="minisblack", metadata=None)
    assert read_packed(buffer.getvalue(), channels) is None
    options = {"compression": "zlib", "rowsperstrip": 9, "metadata": None}
    for other in ({"predictor": 2}, {"photometric": "miniswhite"}, {"extratags": [(274, "H", 1, 3)]}):
        if "predictor" in other and dtype == "float32":
            continue
        buffer = BytesIO()
        tifffile.imwrite(buffer, image[..., 0], **{"photometric": "minisblack", **options, **other})
        assert read_packed(buffer.getvalue(), 1) is None, other


def test_crops_are_those_of_each_channel_alone() -> None:
    image = np.random.default_rng(0).random((40, 50, 5), np.float32)
    alone = [np.asarray(center_crop(ChannelImage.of(image[..., at : at + 1]), 13, 0.8)) for at in range(5)]
    assert np.array_equal(center_crop(ChannelImage.of(image), 13, 0.8), np.concatenate(alone, -1))
    bytes_ = (255 * image[..., :3]).astype(np.uint8)
    exact = center_crop(ChannelImage.of(bytes_.astype(np.float32)), 13, 0.8)
    assert np.abs(exact - center_crop(Image.fromarray(bytes_), 13, 0.8)).max() < 2  # Pillow rounds twice


def test_batches_of_named_channels(bands: Path) -> None:
    source = open_labeled(f"channels:p,q,r:{bands}")
    crop = CropSettings(size=8)
    plain, cached = (TrainDataset([source], crop, 3, cache_bytes=room, labeled=True, views=2) for room in (0, 10**6))
    for t in range(12):
        sample = plain[t]
        assert sample.rgb is not None and sample.rgb.shape == (2, 3, 8, 8) and sample.rgb.dtype == torch.float32
        again = cached[t]
        assert again.rgb is not None and torch.equal(again.rgb, sample.rgb) and again.label == sample.label
    assert len(cached._cache) == 6


def test_sixteen_bits_give_the_features_of_eight(tmp_path: Path) -> None:
    for at in range(4):
        gray = np.asarray(Image.fromarray((noise(8, 9, seed=at) % 2 * 255).astype(np.uint8)).resize((90, 90), 0))
        for folder, image in (("8", gray), ("16", gray.astype(np.uint16) * 257)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{at}.png")
    views = []
    for name in (f"{tmp_path}/8", f"channels:gray:{tmp_path}/16"):
        dataset = EvalDataset(open_dataset(name), 56, 0.875)
        views.append(torch.stack([rgb for at in range(4) if (rgb := dataset[at].rgb) is not None]))
    assert views[0].dtype == torch.uint8 and views[1].shape == (4, 1, 56, 56)
    torch.testing.assert_close(views[1] * 255, views[0][:, :1].float(), rtol=0, atol=1.0)  # Pillow rounds twice
    for inputs in ("lightness", "rgb"):
        backbone = build_backbone("tiny", inputs=inputs).eval()
        backbone.set_source(("gray",), "images")
        first, second = (backbone(backbone.to_input(images)) for images in views)
        for stage, features in first.items():
            torch.testing.assert_close(second[stage], features, rtol=0, atol=0.02 * float(features.abs().max()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("channels:", "write channels:NAMES:SOURCE"),
        ("channels:a,b", "write channels:NAMES:SOURCE"),
        ("channels:a,,b:x", "an empty text is no channel's name"),
        ("channels:a+b:x", r"a\+b is no channel's name"),
        ("channels:a,b:EMPTY", r"the folder is empty; put images in it \(.jpg .* .npy"),
        ("channels:a b:x", "a b is no channel's name"),
        ("channels:a,b,a:x", "two channels are called a; give each its own name"),
        ("channels:gray=5:x", "5 is no range of gray; write gray=0..4095"),
        ("channels:gray=5..5:x", "is no range of gray"),
        ("channels:gray=0..nan:x", "is no range of gray"),
        ("channels:a=0..5,b:x", "only gray, and red, green and blue, have a range here"),
        ("channels:" + ",".join(f"c{at}" for at in range(33)) + ":x", "33 channels; at most 32 are possible"),
        ("channels:a,b:nowhere", "no such folder"),
        ("channels:a,b:bundled:train", "bundled:train has no files of its own"),
    ],
)
def test_names_that_are_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset(name.replace("EMPTY", str(tmp_path)))
