"""Packed shards that were damaged: every image is the one that was packed, or refused."""

import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pretext.data import LabeledShards, Shards
from pretext.data.pack import PackSettings, pack
from pretext.data.tar_index import build_index, index_path, load_index
from pretext.errors import ImageError, UserError

SMALL = PackSettings(shorter=16, shard_mb=0.2, workers=0)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: shards of more than the ends that an index is known by."""
    folder = tmp_path_factory.mktemp("packed") / "to"
    pack("bundled:train", folder, SMALL)
    assert (folder / "shard-000000.tar").stat().st_size > 3 * 2**16
    return folder


@pytest.fixture
def packed(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(original, tmp_path / "packed"))


def contents(source: LabeledShards) -> list[tuple[str, int, bytes]]:
    return [(source.key(at), int(source.labels[at]), source.data(at)) for at in range(len(source))]


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["shard-000000.tar", "shard-000000.index.npz"])
@pytest.mark.parametrize("part", ["start", "all"])
def test_a_flipped_bit_changes_no_image_or_label(name: str, part: str, packed: Path) -> None:
    path = packed / name
    shard = packed / "shard-000000.tar"
    expected, content = contents(LabeledShards(shard)), path.read_bytes()
    refused, size = 0, min(len(content), 2**15) if part == "start" else len(content)
    for bit in random.Random(0).sample(range(8 * size), 40):
        flip(path, bit)
        shutil.rmtree(packed.parent / "cache", ignore_errors=True)
        try:
            source = LabeledShards(shard)
            assert len(source) == len(expected)
        except UserError as error:
            assert str(packed) in str(error)
            refused += 1
        else:
            for at, (key, label, data) in enumerate(expected):
                assert (source.key(at), source.labels[at]) == (key, label)
                try:
                    assert source.data(at) == data
                except ImageError as error:
                    assert "shard-000000.tar is damaged" in str(error)
                    refused += 1
        path.write_bytes(content)
    assert refused > 10 or path != shard


def test_the_index_beside_is_known_when_the_ends_are_damaged(packed: Path) -> None:
    """A scan would find the images, but no checksums, and the damaged label."""
    shard = packed / "shard-000000.tar"
    expected = LabeledShards(shard)
    content = bytearray(shard.read_bytes())
    label = content.index(b".cls") // 512 * 512 + 512
    content[label] ^= 1
    shard.write_bytes(content)
    assert load_index(shard) is None and build_index(shard).sums is not None
    assert (LabeledShards(shard).labels == expected.labels).all()


def without_sums(packed: Path) -> None:
    """As the version before packed."""
    for path in packed.glob("*.tar"):
        with np.load(index_path(path)) as arrays:
            np.savez(index_path(path), **{name: arrays[name] for name in arrays.files if name != "sums"})
    sums = subprocess.run(["sha256sum", *sorted(path.name for path in packed.iterdir() if path.suffix in (
        ".tar", ".npz", ".txt", ".json", ".jsonl"))], cwd=packed, capture_output=True, check=True).stdout  # fmt: skip
    (packed / "SHA256SUMS").write_bytes(sums)


def test_shards_without_checksums_are_read_and_a_line_says_so(
    packed: Path, original: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    without_sums(packed)
    expected = Shards(original)
    for _ in range(2):
        source = Shards(packed)
        assert all(source.data(at) == expected.data(at) for at in range(len(expected)))
    said = capfd.readouterr().err
    assert said.count("without a checksum for each image") == 1 and said.count("\n") == 1


def test_a_damaged_copy_gives_way_to_the_original(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETINT_LOCAL", str(tmp_path / "local"))
    source = Shards(packed)
    expected = [source.data(at) for at in range(len(source))]
    (copy,) = (tmp_path / "local").glob("*/shard-000000.tar")
    with copy.open("r+b") as file:
        for at in source._offsets[:5].tolist():
            file.seek(at + 20)
            file.write(b"?")
    assert [source.data(at) for at in range(len(source))] == expected
