"""Pooled features: one pass over several networks, bad images, calibration, kills, full disks; and rows for probes."""

import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extraction_processes import RULES, SIZE, Noise, extract_features, start_extraction
from tiers import one_fast
from waits import wait_until

import transfer.features.extraction
from pretext.color import rgb_to_lightness
from pretext.data import ClassFolder
from pretext.data.batches import EvalDataset, center_crop
from pretext.engine.device import ComputeConfig
from pretext.errors import UserError
from transfer.features import CacheSettings, Rows, View, cache_folder, calibrate_batch_norm, extract
from transfer.features.pool import pool
from transfer.networks import Network, open_network

ClassFolderMaker = Callable[[Path], Path]
PLACE = ComputeConfig(torch.device("cpu"), "fp32", workers=0)


def files(cache: Path) -> dict[str, bytes]:
    """The columns of every entry, whatever their blocks."""
    columns: dict[str, bytes] = {}
    for path in sorted([*cache.glob("*/*.f16"), *cache.glob("*/*.f32")]):
        column = f"{path.parent.name}/{path.name.split('.')[1]}"
        columns[column] = columns.get(column, b"") + path.read_bytes()
    return columns


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_equals_one_image_at_a_time(tmp_path: Path, class_folder: ClassFolderMaker, storage: str) -> None:
    source = ClassFolder(class_folder(tmp_path / "data"))
    networks = [open_network("random:tiny", seed=seed) for seed in (0, 1)]
    networks.append(open_network("timm:test_resnet:random"))
    view, cache = View(32, 0.8), CacheSettings(tmp_path / "cache", storage)  # type: ignore[arg-type]
    found = extract(networks, source, view, RULES, PLACE, cache, (source, view), "test")
    rtol = 2e-3 if storage == "float16" else 1e-4
    for network, features in zip(networks, found, strict=True):
        assert features.rows == 6 and features.good.all() and not features.skipped and features.seconds > 0
        for index in range(6):
            square = torch.from_numpy(center_crop(source.read(index), 32, 0.8)).permute(2, 0, 1)[None]
            for stage, maps in network.module(square).items():
                for rule in RULES:
                    expected = pool(maps, rule)[0].numpy()
                    matrix = np.array(features.matrix(stage, rule))
                    assert matrix.dtype == storage and matrix.shape == (6, features.dims(stage, rule))
                    np.testing.assert_allclose(matrix[index], expected, rtol=rtol, atol=1e-4)
    assert sum(features.nbytes for features in found) == sum(map(len, files(tmp_path / "cache").values()))


def test_a_view_is_the_middle_at_the_ratio_asked() -> None:
    source = Noise(1)
    view = EvalDataset(source, 8, 0.5)[0].rgb  # of an image of 16 by 20
    assert view is not None
    assert (view.permute(1, 2, 0).numpy() == np.asarray(source.read(0))[4:12, 6:14]).all()
    assert source.requested_sizes == {16, None}  # a decoder may not go below what is shown
    source.requested_sizes.clear()
    assert EvalDataset(source, 8, 0.7)[0].rgb is not None and source.requested_sizes == {12}


def test_the_cache_is_asked_first_and_shared(tmp_path: Path) -> None:
    one, other = open_network("random:tiny", seed=0), open_network("random:tiny", seed=1)
    source = Noise(130)
    first = extract_features(source, tmp_path, [one])
    before = files(tmp_path)
    source.reads.clear()
    [again] = extract_features(source, tmp_path, [open_network("random:tiny", seed=0)])
    assert len(source.reads) == 32  # looked at, to know them; no pass
    assert files(tmp_path) == before and again.seconds == first[0].seconds
    both = extract_features(source, tmp_path, [other, one])
    assert len(files(tmp_path)) == 2 * len(before)
    assert (np.array(both[1].matrix("conv1", "mean")) == np.array(again.matrix("conv1", "mean"))).all()
    assert (np.array(both[0].matrix("conv1", "mean")) != np.array(again.matrix("conv1", "mean"))).any()
    extract_features(source, tmp_path, [other, other])
    assert len(files(tmp_path)) == 2 * len(before)


@pytest.mark.parametrize(
    "change",
    [
        {"view": View(SIZE, 0.5)},
        {"cache": "float32"},
        {"place": ComputeConfig(torch.device("cpu"), "bf16", 0)},
        {"calibrate_on": (Noise(100, seed=8), View(SIZE))},
        {"source": Noise(65, seed=1)},  # other images of the same names
        {"source": Noise(66)},
    ],
)
def test_what_changes_features_is_another_entry(tmp_path: Path, change: dict[str, Any]) -> None:
    extract_features(Noise(65), tmp_path)
    before = files(tmp_path)
    source = change.pop("source", Noise(65))
    assert isinstance(source, Noise)
    if "cache" in change:
        change["cache"] = CacheSettings(tmp_path, "float32")
    extract_features(source, tmp_path, None, **change)
    after = files(tmp_path)
    assert len(after) == 2 * len(before) and before.items() <= after.items()


def test_unreadable_images_are_rows_of_zeros(tmp_path: Path) -> None:
    bad = (0, 3, 64, 129)
    [whole] = extract_features(Noise(130), tmp_path / "whole")
    [features] = extract_features(
        Noise(130, bad=bad), tmp_path / "torn", place=ComputeConfig(torch.device("cpu"), "fp32", 1)
    )
    assert np.flatnonzero(~features.good).tolist() == list(bad)
    assert features.skipped == [(f"{row:06}.png", "torn") for row in bad]
    for stage in ("conv1", "conv5"):
        matrix = np.array(features.matrix(stage, "mean"))
        assert not matrix[list(bad)].any()
        np.testing.assert_allclose(
            matrix[features.good].astype(float),
            np.array(whole.matrix(stage, "mean"))[features.good],
            rtol=2e-3,
            atol=1e-4,
        )


def test_an_image_that_was_repaired_is_taken_in(tmp_path: Path) -> None:
    extract_features(Noise(200, bad=(70,)), tmp_path)
    source = Noise(200)
    [features] = extract_features(source, tmp_path)
    assert features.good.all() and not features.skipped
    expected = extract_features(Noise(200), tmp_path / "other")[0]
    assert (np.array(features.matrix("conv5", "mean")) == np.array(expected.matrix("conv5", "mean"))).all()


def test_only_bad_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of 3 images can be read; the first: 000000.png: torn"):
        extract_features(Noise(3, bad=(0, 1, 2)), tmp_path)


def broken(spec: str, value: float) -> Network:
    """A network whose third stage gives a value."""
    network = open_network(spec)
    backbone = network.module.backbone
    with torch.no_grad():
        backbone.blocks["conv3"][1].weight.zero_()  # type: ignore[index,union-attr]
        backbone.blocks["conv3"][1].bias.fill_(value)  # type: ignore[index,union-attr]
    network.weights = f"broken {value}"
    return network


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    with pytest.raises(UserError) as error:
        extract_features(Noise(10, bad=(0,)), tmp_path, [broken("random:tiny", value)])
    said = one_line(error)
    assert "random:tiny, stage conv3" in said and "000001.png" in said and "not finite" in said


def test_features_too_great_for_their_storage(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        extract_features(Noise(10), tmp_path, [broken("random:tiny", 65520)])
    said = one_line(error)
    assert "stage conv3" in said and "--storage float32" in said
    [largest] = extract_features(Noise(10), tmp_path, [broken("random:tiny", 65519)], rules=["mean"])
    assert np.isfinite(np.array(largest.matrix("conv3", "mean"))).all()
    cache = CacheSettings(tmp_path, "float32")
    [features] = extract_features(Noise(10), tmp_path, [broken("random:tiny", 65520)], rules=["mean"], cache=cache)
    assert (np.array(features.matrix("conv3", "mean")) == np.array(65520)).all()


def test_batch_norm_statistics_are_those_of_the_images(tmp_path: Path, class_folder: ClassFolderMaker) -> None:
    source = ClassFolder(class_folder(tmp_path))
    network = open_network("random:tiny")
    before = [weight.clone() for weight in network.module.parameters()]
    calibrate_batch_norm(network, source, View(32, 0.9), PLACE)
    views = torch.stack([torch.from_numpy(center_crop(source.read(index), 32, 0.9)) for index in range(6)])
    blocks = network.module.backbone.blocks  # type: ignore[union-attr]
    first = blocks["conv1"][0]((rgb_to_lightness(views.permute(0, 3, 1, 2)) - 50) / 50)  # type: ignore[index,operator]
    norm = network.norms[0]
    torch.testing.assert_close(norm.running_mean, first.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(norm.running_var, first.var((0, 2, 3)), atol=1e-4, rtol=1e-3)
    assert norm.momentum == 0.1 and not any(module.training for module in network.module.modules())
    assert all(torch.equal(old, new) for old, new in zip(before, network.module.parameters(), strict=True))


def test_calibration_is_determined_and_not_repeated() -> None:
    networks = [open_network("random:test_resnet") for _ in range(2)]
    for network in networks:
        calibrate_batch_norm(network, Noise(90), View(32), PLACE)
    states = [network.module.state_dict() for network in networks]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    source = Noise(90)
    calibrate_batch_norm(networks[0], source, View(32), PLACE)
    assert len(source.reads) == 32
    calibrate_batch_norm(networks[0], Noise(90, seed=1), View(32), PLACE)
    assert not torch.equal(*(network.module.state_dict()["backbone.net.bn1.running_mean"] for network in networks))
    with pytest.raises(UserError, match=r"at least two images that can be read; 000000.png: torn"):
        calibrate_batch_norm(networks[0], Noise(2, bad=(0,)), View(32), PLACE)


def test_calibration_is_only_done_where_something_lacks(tmp_path: Path) -> None:
    train = Noise(100, seed=9)
    extract_features(Noise(10), tmp_path, calibrate_on=(train, View(SIZE)))
    assert len(train.reads) > 100
    train.reads.clear()
    extract_features(Noise(10), tmp_path, calibrate_on=(train, View(SIZE)))
    assert len(train.reads) == 32
    plain = open_network("random:test_vit")  # it has no batch norm
    extract_features(Noise(10), tmp_path, [plain], calibrate_on=None, view=View(32))


def started(process: BaseProcess, cache: Path, blocks: int) -> None:
    """Wait until every entry has so many blocks."""

    def is_there() -> bool:
        assert process.is_alive(), "it ended by itself"
        written = [len(list(entry.glob("[0-9]*.block.*"))) for entry in cache.glob("*")]
        return len(written) == len(RULES) and min(written) >= blocks

    wait_until(is_there, f"{blocks} blocks of every entry", every=0.005)


@pytest.mark.parametrize("number", one_fast(signal.SIGINT, [signal.SIGTERM, signal.SIGINT]))
def test_a_stop_loses_little_and_changes_nothing(tmp_path: Path, number: signal.Signals) -> None:
    count, log = 900, tmp_path / "log"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = start_extraction(Noise(count, delay=0.002, bad=(5, 600)), cut, log)
    started(process, cut, blocks=3)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    said = log.read_text()
    assert "Traceback" not in said and "run the same command again to resume" in said
    source = Noise(count, bad=(5, 600))
    [features] = extract_features(source, cut)
    assert 64 < len(source.reads) < 32 + 1 + count - 3 * 64 + 2  # those before are not read again
    [expected] = extract_features(Noise(count, bad=(5, 600)), whole)
    assert files(cut) == files(whole)
    assert features.skipped == expected.skipped and (features.good == expected.good).all()


def test_of_two_processes_one_waits(tmp_path: Path) -> None:
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    processes = [start_extraction(Noise(500, delay=0.002), tmp_path / "cache", log) for log in logs]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    said = [log.read_text() for log in logs]
    assert sorted(text.count("waiting for it") for text in said) == [0, 1]
    assert sorted("500/500" in text for text in said) == [False, True]  # only one of them computed
    extract_features(Noise(500), tmp_path / "whole")
    assert files(tmp_path / "cache") == files(tmp_path / "whole")


def test_a_full_disk(tmp_path: Path) -> None:
    log, cache = tmp_path / "log", tmp_path / "cache"
    process = start_extraction(Noise(400), cache, log, largest=200 * 2 * 256)  # fewer than the rows of a block
    process.join()
    said = log.read_text()
    assert process.exitcode == 2 and "Traceback" not in said
    assert "File too large" in said and "continues at row 0 of 400" in said
    extract_features(Noise(400), cache)
    extract_features(Noise(400), tmp_path / "whole")
    assert files(cache) == files(tmp_path / "whole")


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noise, "digest", lambda self: "not to be computed")
    with pytest.raises(UserError, match="are free; make room"):
        extract_features(Noise(10**12), tmp_path)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRETINT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("PRETINT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "pretint" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "pretint" / "features"


@pytest.mark.parametrize("free", [0, 10**12])
def test_rows_are_those_of_the_file_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(transfer.features.extraction, "available_memory", lambda device: free)
    stored = np.random.default_rng(0).normal(size=(9000, 7)).astype(np.float16)
    stored.tofile(tmp_path / "file")
    rows = Rows(np.memmap(tmp_path / "file", np.float16, "r", shape=(9000, 7)), PLACE.device)
    chosen = np.random.default_rng(1).permutation(9000)[:8500]
    assert rows.dims == 7 and rows[chosen].dtype == torch.float32
    assert np.array_equal(rows[chosen].numpy(), stored[chosen].astype(np.float32))
    assert np.array_equal(torch.cat(list(rows.chunks(chosen))).numpy(), stored[chosen].astype(np.float32))


def test_statistics_are_numpy_s_also_far_from_0() -> None:
    features = np.random.default_rng(0).normal(size=(9001, 5)) * [1e-3, 1, 1, 100, 0] + [0, 0, 1000, -5, 3]
    stored = features.astype(np.float32)
    chosen = np.arange(0, 9001, 2)
    mean, variance = Rows(stored, PLACE.device).statistics(chosen)
    np.testing.assert_allclose(mean, stored[chosen].mean(0, np.float64), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, stored[chosen].var(0, np.float64), rtol=1e-4, atol=1e-12)
