"""Packing real images: the same bytes whoever does it and however often it is killed, and true colors."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
import zlib
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from processes import Launcher
from tiers import one_fast
from waits import wait_until

import pretint.cli
from pretext.color import rgb_to_ab
from pretext.data import ClassFolder, LabeledShards, Shards, open_dataset, open_labeled
from pretext.data.pack import PackResult, PackSettings, pack
from pretext.data.tar_index import build_index, index_path, load_index
from pretext.errors import UserError
from pretext.store import seal, unseal

SMALL = PackSettings(shorter=48, shard_mb=0.03, workers=0)
MANY = PackSettings(shorter=48, shard_mb=0.03, workers=2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def classes(tmp_path: Path, shared_data: Path) -> Path:
    """Real images of two classes, 30 each, and three files that are none."""
    folder = tmp_path / "images"
    for name in ("n01440764", "n03028079"):
        (folder / name).mkdir(parents=True)
        for path in sorted((shared_data / "imagenette-mini" / "train" / name).iterdir())[:30]:
            shutil.copy(path, folder / name / path.name)
    for name in ("n01440764/aa.jpg", "n03028079/empty.png", "n03028079/zz.jpg"):
        (folder / name).write_bytes(b"" if "empty" in name else b"\xff\xd8\xff torn")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def members(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return found


def refused(*parts: str, source: Path, to: Path, settings: PackSettings = SMALL) -> None:
    with pytest.raises(UserError) as caught:
        pack(str(source), to, settings)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)


# What lies in the destination.


def test_a_folder_of_classes(classes: Path, tmp_path: Path) -> None:
    done = pack(str(classes), tmp_path / "to", SMALL)
    torn = ["n01440764/aa.jpg", "n03028079/empty.png", "n03028079/zz.jpg"]
    assert done == PackResult(len(list((tmp_path / "to").glob("*.tar"))), 60, 0, done.skipped, 2, True, False)
    assert done.shards > 3 and [key for key, _ in done.skipped] == torn
    source, packed = ClassFolder(classes), open_labeled(str(tmp_path / "to"))
    assert isinstance(packed, LabeledShards) and packed.classes == source.classes
    whole = [index for index in range(63) if source.key(index) not in torn]
    assert [packed.key(at) for at in range(60)] == [source.key(index).rpartition(".")[0] for index in whole]
    assert list(packed.labels) == [source.labels[index] for index in whole]
    for at in (0, 17, 59):
        one, other = packed.read(at), source.read(whole[at])
        assert min(one.size) == 48 and abs(one.width * other.height / (one.height * other.width) - 1) < 0.02
        want = other.resize(one.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(one).astype(int) - np.asarray(want)).mean() < 4

    lines = [json.loads(line) for line in (tmp_path / "to" / "skipped.jsonl").read_text().splitlines()]
    assert [(line["key"], line["reason"]) for line in lines] == done.skipped
    manifest = json.loads((tmp_path / "to" / "manifest.json").read_text())
    assert manifest["complete"] is True and (manifest["images"], manifest["skipped"]) == (60, 3)
    assert (
        manifest["source"]["digest"]
        == hashlib.sha256("".join(f"{source.key(index)}\n" for index in range(63)).encode()).hexdigest()
    )
    spans = [(shard["first"], shard["stop"]) for shard in manifest["shards"]]
    assert [first for first, _ in spans] == [0, *(stop for _, stop in spans[:-1])] and spans[-1][1] == 63
    assert all(30_000 <= shard["bytes"] < 60_000 for shard in manifest["shards"][:-1])


def test_shards_are_sound(classes: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    pack(str(classes), to, SMALL)
    said = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=to, capture_output=True, text=True, check=True)
    named = {line.split(":")[0] for line in said.stdout.splitlines()}
    assert named == {path.name for path in to.iterdir()} - {"SHA256SUMS", ".lock"}
    for path in to.glob("*.tar"):
        listed = subprocess.run(["tar", "-tvf", path.name], cwd=to, capture_output=True, text=True, check=True)
        assert not listed.stderr and "1970-01-01" in listed.stdout
        beside, scanned = load_index(path), build_index(path)
        assert beside is not None and index_path(path).exists()
        for name in ("offsets", "sizes", "ends", "hashes", "labels", "names", "sums"):
            assert np.array_equal(getattr(beside, name), getattr(scanned, name)), name
        content = path.read_bytes()
        places = zip(beside.offsets, beside.sizes, strict=True)
        assert not beside.left_out and not scanned.left_out
        assert [zlib.crc32(content[start : start + size]) for start, size in places] == beside.sums.tolist()
    names = list(members(to))  # as WebDataset groups them: one after the other
    assert names[::2] == [name[:-4] + ".jpg" for name in names[1::2]] and all(n.endswith(".cls") for n in names[1::2])


def test_the_names_in_shards(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(image, "PNG")
    names = [
        "a/x.jpg",
        "a/x.png",
        "a/x~1.png",
        "a/v1.2.png",
        "a/v1_2.jpg",
        "b.c/y.PNG",
        f"{'n' * 120}.jpg",
        "\u00e9.png",
    ]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(image.getvalue())
    done = pack(str(tmp_path / "in"), tmp_path / "to", SMALL)
    assert done.classes is None
    assert list(members(tmp_path / "to")) == [
        "a/v1_2~0.jpg", "a/v1_2~1.jpg", "a/x~2.jpg", "a/x~3.jpg", "a/x_1.jpg", "b.c/y.jpg",
        f"{'n' * 120}.jpg", "\u00e9.jpg",
    ]  # fmt: skip
    assert not (tmp_path / "to" / "classes.txt").exists()


def test_labels_can_be_left_out_and_order_shuffled(classes: Path, tmp_path: Path) -> None:
    pack(str(classes), tmp_path / "plain", SMALL)
    without = pack(str(classes), tmp_path / "to", PackSettings(shorter=48, workers=0, labels=False, shuffle=True))
    assert without.classes is None and without.shards == 1
    jpegs = {name: data for name, data in members(tmp_path / "plain").items() if name.endswith(".jpg")}
    assert members(tmp_path / "to") == jpegs and list(members(tmp_path / "to")) != list(jpegs)


def test_every_kind_of_source(tmp_path: Path, shared_data: Path) -> None:
    done = pack("bundled:test", tmp_path / "bundled", SMALL)
    assert done.classes == 8 and done.images == len(open_dataset("bundled:test"))
    again = pack(str(tmp_path / "bundled"), tmp_path / "again", SMALL)
    assert again.copied == again.images == done.images
    assert members(tmp_path / "again") == members(tmp_path / "bundled")
    assert open_labeled(str(tmp_path / "again")).classes == open_labeled("bundled:test").classes
    shard = tmp_path / "some.tar"
    with tarfile.open(shared_data / "imagenette-96-shards" / "train-0000.tar") as tar, tarfile.open(shard, "w") as some:
        for member in list(tar)[:400]:
            some.addfile(member, tar.extractfile(member))
    copied = pack(str(shard), tmp_path / "shard", PackSettings(workers=0))
    assert copied.images == copied.copied == 200 and copied.classes is not None
    with tarfile.open(shard) as tar:
        want = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert members(tmp_path / "shard") == want


# Color.


def test_only_plain_pixels_are_copied(tmp_path: Path, shared_data: Path) -> None:
    photograph = (
        Image.open(sorted((shared_data / "imagenet-sample" / "images").iterdir())[0])
        .convert("RGB")
        .crop((0, 0, 90, 60))
    )
    exif = Image.Exif()
    exif[274] = 6
    folder = tmp_path / "in"
    folder.mkdir()
    photograph.save(folder / "1-plain.jpg", quality=95)
    photograph.convert("L").save(folder / "2-gray.jpg", quality=95)
    photograph.save(folder / "3-turned.jpg", exif=exif, quality=95)
    photograph.convert("CMYK").save(folder / "4-cmyk.jpg", quality=95)
    photograph.save(folder / "5-png.png")
    photograph.resize((270, 180)).save(folder / "6-large.jpg", quality=95)
    photograph.save(folder / "7-named-wrong.png", "JPEG", quality=95)
    photograph.save(
        folder / "8-srgb.jpg",
        quality=95,
        icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    )
    photograph.save(folder / "9-profile.jpg", quality=95, icc_profile=_swapping())
    done = pack(str(folder), tmp_path / "to", PackSettings(shorter=64, workers=0))
    got = members(tmp_path / "to")
    same = [name for name, data in got.items() if data in contents(folder).values()]
    assert same == ["1-plain.jpg", "2-gray.jpg", "7-named-wrong.jpg", "8-srgb.jpg"] and done.copied == 4
    source, packed = open_dataset(str(folder)), Shards(tmp_path / "to")
    for at in range(9):
        want, small = source.read(at), packed.read(at)
        bare = Image.open(io.BytesIO(got[f"{packed.key(at)}.jpg"]))  # what a reader sees that knows nothing of profiles
        assert (np.asarray(bare.convert("RGB")) == np.asarray(small)).all()
        if bare.size != want.size:
            assert bare.size == (96, 64)
            want = want.resize(bare.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(small).astype(int) - np.asarray(want)).mean() < 3, packed.key(at)


def _swapping() -> bytes:
    """A profile far from sRGB: its red and green primaries are exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")


def test_colors_stay(tmp_path: Path, shared_data: Path) -> None:
    """Of 96-pixel originals packed at 80 pixels, ab is off by less than a tenth of a bin's width on average."""
    import torch

    folder = tmp_path / "in"
    folder.mkdir()
    for path in sorted((shared_data / "imagenet-sample" / "images").iterdir())[:12]:
        shutil.copy(path, folder)
    pack(str(folder), tmp_path / "to", PackSettings(shorter=80, workers=0))
    source, packed = open_dataset(str(folder)), Shards(tmp_path / "to")
    errors = []
    for at in range(12):
        small = packed.read(at)
        want = source.read(at).resize(small.size, Image.Resampling.BICUBIC)
        ab = [rgb_to_ab(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]) for image in (small, want)]
        errors.append(float((ab[0] - ab[1]).norm(dim=1).mean()))
    assert np.mean(errors) < 1.5, errors  # with 4:2:0 it is above 2


def test_an_image_too_long_for_jpeg_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (66_000, 2)).save(tmp_path / "in" / "long.png")
    Image.new("RGB", (60, 60)).save(tmp_path / "in" / "ok.png")
    done = pack(str(tmp_path / "in"), tmp_path / "to", SMALL)
    assert done.images == 1 and done.skipped == [("long.png", "66000 pixels long; a JPEG has at most 65500")]


# The same bytes, whatever happens.


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_byte(classes: Path, tmp_path: Path, workers: int) -> None:
    pack(str(classes), tmp_path / "alone", SMALL)
    pack(str(classes), tmp_path / "many", PackSettings(shorter=48, shard_mb=0.03, workers=workers))
    assert contents(tmp_path / "alone") == contents(tmp_path / "many")


WORDS = ["--shorter", "48", "--shard_mb", "0.03", "--workers", "2"]


def start(source: Path, to: Path) -> BaseProcess:
    """Another process that packs, with two workers of its own."""
    job = get_context("fork").Process(target=pack, args=(str(source), to, MANY))
    job.start()
    return job


def wait_for(path: Path, job: BaseProcess) -> None:
    wait_until(lambda: path.exists() or not job.is_alive(), f"{path} is there", every=0.002)


def test_killed_it_leaves_no_process_behind(tmp_path: Path) -> None:
    """Not even when the workers' pipe is full, and nobody reads from it any more."""
    folder = tmp_path / "in"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    for at in range(200):
        Image.fromarray(noise).save(folder / f"{at}.png")
    job = get_context("fork").Process(target=pack, args=(str(folder), tmp_path / "to", PackSettings(workers=2)))
    job.start()
    assert job.pid is not None
    wait_for(tmp_path / "to" / ".shard-000000.tar.part", job)
    os.kill(job.pid, signal.SIGSTOP)
    workers = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    time.sleep(0.5)
    job.kill()
    job.join()
    assert len(workers) == 2
    wait_until(lambda: not any(map(_lives, workers)), "the workers of a killed job end")


def _lives(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "code"),
    one_fast((signal.SIGTERM, 143), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR2, 75)]),
)
def test_interrupted_it_stops_politely(
    number: int, code: int, classes: Path, launcher: Launcher, tmp_path: Path
) -> None:
    """As from a terminal or a cluster: the signal reaches the workers, too."""
    to = tmp_path / "to"
    job = launcher.start("pack", classes, to, *WORDS)
    wait_until(lambda: (to / "shard-000000.tar").exists() or not job.runs(), "the first shard", every=0.002)
    os.killpg(job.pid, number)
    if job.wait() != 0:  # it may have been done before
        with pytest.raises(UserError, match="packing is not complete; run pretint pack again"):
            Shards(to)
        assert job.code == code and "to continue, run: pretint pack" in job.output
    assert "Traceback" not in job.output and not list(to.glob(".*.part"))
    pack(str(classes), to, SMALL)
    pack(str(classes), tmp_path / "whole", SMALL)
    assert contents(to) == contents(tmp_path / "whole")


def test_what_is_lost_is_packed_again(classes: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    pack(str(classes), to, SMALL)
    whole = contents(to)
    (to / "shard-000002.tar").unlink()
    with pytest.raises(UserError, match=r"1 of \d shards are missing, the first is shard-000002\.tar"):
        Shards(to)
    assert not pack(str(classes), to, SMALL).already
    assert contents(to) == whole
    os.truncate(to / "shard-000001.tar", 1000)
    (to / "shard-000009.tar").write_bytes(b"left over")
    (to / ".shard-000003.tar.part").write_bytes(b"left over")
    pack(str(classes), to, SMALL)
    assert contents(to) == whole
    (to / "SHA256SUMS").unlink()  # the last that is written
    pack(str(classes), to, SMALL)
    assert contents(to) == whole


def test_finished_work_is_left_alone(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "to"
    assert pretint.cli.main(["pack", str(classes), str(to), *WORDS]) == 0
    out, _ = capsys.readouterr()
    assert "60 images in" in out and "labels: 2 classes" in out and "3 skipped" in out and "aa.jpg: " in out
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in to.iterdir()}
    assert pretint.cli.main(["pack", str(classes), str(to), *WORDS]) == 0
    assert "was complete already" in capsys.readouterr().out
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in to.iterdir()} == before


# Refusals.


def test_other_settings_images_and_folders(classes: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    pack(str(classes), to, SMALL)
    refused("shorter was 48, is now 50", source=classes, to=to, settings=PackSettings(shorter=50, shard_mb=0.03))
    (classes / "n01440764" / "aa.jpg").unlink()
    refused("packed from other images (63 of", "now 62", source=classes, to=to)
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").touch()
    refused("full: holds something that pretint pack did not write", source=classes, to=full)
    refused("lies in", "choose a folder elsewhere", source=classes, to=classes)
    refused("lies in", "choose a folder elsewhere", source=classes, to=classes / "new")
    assert not (classes / "new").exists()
    refused("cannot write there", source=classes, to=full / "thesis.tex")
    refused("cannot write there", source=classes, to=full / "thesis.tex" / "x")
    (full / "manifest.json").write_text("[1]")
    refused("manifest.json: is no manifest of this version of pretint pack", source=classes, to=full)
    refused("no such folder", source=tmp_path / "nowhere", to=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_decoder_would_mix_pixels(classes: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    pack(str(classes), to, SMALL)
    manifest = to / "manifest.json"
    manifest.write_bytes(seal({**unseal(manifest.read_bytes()), "decoder": "pillow 0."}))
    assert not pack(str(classes), to, SMALL).already, "its checksum is another"
    assert pack(str(classes), to, SMALL).already
    (to / "shard-000001.tar").unlink()
    refused("was begun with pillow 0.", source=classes, to=to)


def test_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    refused(
        "none of its 1 images can be read; the first: a.jpg: empty file", source=tmp_path / "in", to=tmp_path / "to"
    )


def test_a_file_that_vanishes_is_skipped(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_labeled(str(classes))
    monkeypatch.setattr("pretext.data.pack._open_images", lambda name, labels: source)
    (classes / "n01440764" / "aa.jpg").unlink()
    done = pack(str(classes), tmp_path / "to", SMALL)
    assert done.skipped[0] == ("n01440764/aa.jpg", "the file is gone since the folder was listed")


def test_two_at_once(classes: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    job = start(classes, to)
    wait_for(to / "manifest.json", job)
    assert job.pid is not None
    os.kill(job.pid, signal.SIGSTOP)
    try:
        if (to / "SHA256SUMS").exists():
            pytest.skip("it was done before it could be stopped")
        refused("another process is packing there", source=classes, to=to)
    finally:
        os.kill(job.pid, signal.SIGCONT)
        job.join()
    assert job.exitcode == 0


@pytest.mark.parametrize(
    "wrong",
    [{"shorter": 0}, {"shorter": 5000}, {"quality": 0}, {"quality": 101}, {"shard_mb": 0.0}, {"workers": -2}],
    ids=str,
)
def test_nonsense_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        PackSettings(**wrong)
