"""Pooled features: the pooling rule, one pass over several networks, bad pictures left out."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pretext.backbones import Tiny
from pretext.color import rgb_to_lightness
from pretext.engine.device import Place
from pretext.errors import UserError
from pretext.pictures import ClassFolder
from pretext.pictures.batches import centre_crop
from transfer.features import calibrate_batch_norm, pool, pooled_features

ClassFolderMaker = Callable[[Path], Path]
PLACE = Place(torch.device("cpu"), "fp32", workers=0)


@pytest.mark.parametrize(
    ("shape", "dims", "grid"),
    [
        ((32, 48, 48), 2048, (8, 8)),
        ((256, 6, 6), 2048, (2, 2)),
        ((256, 6, 6), 9000, (5, 5)),
        ((64, 4, 4), 2048, (4, 4)),  # never finer than the features
        ((4096, 3, 3), 2048, (1, 1)),  # never less than the mean
        ((64, 1, 9), 2048, (1, 5)),
    ],
)
def test_pooling_rule(shape: tuple[int, int, int], dims: int, grid: tuple[int, int]) -> None:
    features = torch.rand(2, *shape)
    pooled = pool(features, dims)
    assert torch.equal(pooled, F.adaptive_avg_pool2d(features, grid).flatten(1))


def test_equals_one_picture_at_a_time(tmp_path: Path, class_folder: ClassFolderMaker) -> None:
    source = ClassFolder(class_folder(tmp_path))
    networks = {"one": Tiny().eval(), "other": Tiny().eval()}
    features = pooled_features(networks, source, 32, 128, PLACE, "test")
    assert features.labels.tolist() == [0, 0, 0, 1, 1, 1] and not features.skipped
    for name, network in networks.items():
        assert list(features.networks[name]) == [stage.name for stage in network.stages]
        for index in range(len(source)):
            view = torch.from_numpy(centre_crop(source.read(index), 32)).permute(2, 0, 1)[None]
            with torch.no_grad():
                stages = network(rgb_to_lightness(view))
            for stage, expected in stages.items():
                mine = features.networks[name][stage][index]
                torch.testing.assert_close(mine, pool(expected, 128)[0], atol=1e-4, rtol=1e-4)


def test_bad_pictures_are_left_out_with_their_labels(tmp_path: Path, class_folder: ClassFolderMaker) -> None:
    root = class_folder(tmp_path)
    (root / "cat" / "1.png").write_bytes(b"no picture")
    features = pooled_features({"one": Tiny().eval()}, ClassFolder(root), 32, 128, PLACE, "test")
    assert features.labels.tolist() == [0, 0, 1, 1, 1]
    assert len(features.networks["one"]["conv1"]) == 5
    assert [key for key, _ in features.skipped] == ["cat/1.png"]


def test_only_bad_pictures(tmp_path: Path, class_folder: ClassFolderMaker) -> None:
    root = class_folder(tmp_path)
    for path in root.glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of 6 pictures can be read"):
        pooled_features({"one": Tiny().eval()}, ClassFolder(root), 32, 128, PLACE, "test")


def test_batch_norm_statistics_are_those_of_the_pictures(tmp_path: Path, class_folder: ClassFolderMaker) -> None:
    source = ClassFolder(class_folder(tmp_path))
    network = Tiny()
    weights = [weight.clone() for weight in network.parameters()]
    calibrate_batch_norm(network, source, 32, PLACE)
    views = torch.stack([torch.from_numpy(centre_crop(source.read(index), 32)) for index in range(6)])
    with torch.no_grad():
        first = network.blocks["conv1"][0]((rgb_to_lightness(views.permute(0, 3, 1, 2)) - 50) / 50)
    norm = network.blocks["conv1"][1]
    torch.testing.assert_close(norm.running_mean, first.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(norm.running_var, first.var((0, 2, 3)), atol=1e-4, rtol=1e-3)
    assert not network.training and norm.momentum == 0.1
    assert all(torch.equal(before, after) for before, after in zip(weights, network.parameters(), strict=True))
