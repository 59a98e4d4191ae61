"""An archive that would unpack to more than the size of its file is refused before it is unpacked."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import Launcher

from pretext.data import Shards
from pretext.data.pack import PackSettings, pack
from pretext.data.tar_index import index_path, load_index
from pretext.engine.checkpoint import DamagedFileError, load_checkpoint, save_checkpoint
from pretext.errors import UserError
from pretext.gamut import Gamut
from pretext.prior import load_prior
from transfer.labels import proposals


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of zeros whose records are deflated: a quarter of a megabyte that unpacks to 256 of them."""
    path = tmp_path_factory.mktemp("compressed") / "bomb.pth"
    save_checkpoint(path, {"model": {"w": torch.zeros(4)}})
    with zipfile.ZipFile(path) as plain:
        records = {record.filename: plain.read(record) for record in plain.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            with archive.open(name, "w", force_zip64=True) as record:
                if name.endswith("data/0"):
                    for _ in range(256):
                        record.write(bytes(2**20))
                else:
                    record.write(content)
    return path


READERS = {
    "checkpoint": "from pretext.engine.checkpoint import load_checkpoint as read",
    "import": "from pretext.weights.importer import load_release as read",
    "timm": "from pretext.backbones import build_backbone\n"
    "read = lambda path: build_backbone('test_resnet', weights=path)",
    "score": "from pretint.colorization.scores.evaluators import read_weights\n"
    "read = lambda path: read_weights(str(path), ['w'])",
}


@pytest.mark.parametrize("reader", READERS)
def test_a_compressed_archive_is_refused_before_it_is_unpacked(
    reader: str, compressed: Path, launcher: Launcher
) -> None:
    assert compressed.stat().st_size < 2**19
    script = f"""
import resource, sys
from pathlib import Path
from pretext.errors import UserError
{READERS[reader]}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(Path(sys.argv[1]))
except UserError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error)
"""
    megabytes, _, said = launcher.run(compressed, code=script).stdout.decode().partition(" ")
    assert "is compressed or larger than the file" in said and said.count("\n") == 1
    assert int(megabytes) < 100


def test_sizes_that_are_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    """Records that overlap would unpack to more than the file, too."""
    path = tmp_path / "x.pt"
    save_checkpoint(path, {"model": {"w": torch.zeros(1000)}})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"archive/data/0"))
    struct.pack_into("<II", content, entry + 20, 2**31, 2**31)
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="compressed or larger than the file"):
        load_checkpoint(path)


def test_a_second_directory_is_not_believed(tmp_path: Path) -> None:
    """What zipfile checks must be what torch reads: an end record that points elsewhere is refused."""
    path = tmp_path / "x.pt"
    save_checkpoint(path, {"model": {"w": torch.zeros(40)}})
    content = path.read_bytes()
    path.write_bytes(b"\0" * 512 + content)  # zipfile would find the records all the same
    with pytest.raises(UserError):
        load_checkpoint(path)
    path.write_bytes(content[:-22] + content[-22:-2] + struct.pack("<H", 4) + b"tail")
    with pytest.raises(UserError):
        load_checkpoint(path)
    locator = content.rindex(b"PK\x06\x07")
    path.write_bytes(content[: locator + 8] + struct.pack("<Q", 0) + content[locator + 16 :])
    with pytest.raises(DamagedFileError, match="misplaced"):
        load_checkpoint(path)


def test_a_compressed_index_beside_shards_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have come with them from anywhere; another is made from the shard."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pack("bundled:test", tmp_path / "packed", PackSettings(shorter=16, workers=0))
    shard = tmp_path / "packed" / "shard-000000.tar"
    expected = load_index(shard)
    assert expected is not None
    with index_path(shard).open("wb") as file:
        np.savez_compressed(file, offsets=np.zeros(100_000, np.int64))
    assert load_index(shard) is None
    assert len(Shards(shard)) == len(expected)


def test_proposals_that_unpack_to_far_more_than_boxes_do(tmp_path: Path) -> None:
    path = tmp_path / "boxes.npz"
    np.savez_compressed(path, a=np.zeros((100_000, 4), np.float32))
    with pytest.raises(UserError, match="unpacks to more than 100 times its size"):
        list(proposals._read_file(path))
    boxes = np.random.default_rng(0).integers(0, 500, (2000, 4)).astype(np.float32)
    np.savez_compressed(path, a=boxes)  # a user's own may be compressed
    ((name, read),) = proposals._read_file(path)
    assert name == "a" and (read == boxes).all()


def test_a_prior_that_claims_more_than_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "prior.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (2**55,)})
    with pytest.raises(UserError, match="not a readable"):
        load_prior(path, Gamut())
