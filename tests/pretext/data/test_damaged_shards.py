"""Packed shards that were damaged: every image is the one that was packed, or refused."""

import shutil
from pathlib import Path

import pytest

from pretext.data import LabeledShards, Shards
from pretext.data.pack import PackSettings, pack
from pretext.data.tar_index import build_index, load_index

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


def test_the_index_beside_is_known_when_the_ends_are_damaged(packed: Path) -> None:
    """A scan would find the images, but no checksums, and the damaged label."""
    shard = packed / "shard-000000.tar"
    expected = LabeledShards(shard)
    content = bytearray(shard.read_bytes())
    label = content.index(b".cls") // 512 * 512 + 512
    content[label] ^= 1
    shard.write_bytes(content)
    assert load_index(shard) is None and len(build_index(shard).sums)
    assert (LabeledShards(shard).labels == expected.labels).all()


def test_shards_without_index_are_read_and_a_line_says_so(
    packed: Path, original: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in packed.glob("*.index"):
        path.unlink()
    expected = Shards(original)
    for _ in range(2):
        source = Shards(packed)
        assert all(source.data(at) == expected.data(at) for at in range(len(expected)))
    said = capfd.readouterr().err
    assert said.count("checksum for each image") == 1
    assert not pack("bundled:train", packed, SMALL).already
    assert {path.name: path.read_bytes() for path in packed.iterdir()} == {
        path.name: path.read_bytes() for path in original.iterdir()
    }


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
