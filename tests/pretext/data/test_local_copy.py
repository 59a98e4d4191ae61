"""Shards copied to a local disk: the same images, each byte checked, copied once, whatever breaks."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from processes import Launcher, StartedProcess, TrainedRun
from waits import wait_until

from pretext.data import ClassFolder, Shards, local_copy, open_dataset, open_labeled
from pretext.data.pack import PackSettings, pack
from pretext.engine.progress import say_once
from pretext.engine.signals import ExitStatus
from pretext.errors import ImageError, UserError


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder of classes."""
    folder = tmp_path_factory.mktemp("images")
    tiles = open_dataset("bundled:train")
    for index in range(0, 120, 2):
        path = folder / "ab"[index % 4 // 2] / f"{index:03}.png"
        path.parent.mkdir(exist_ok=True)
        tiles.read(index).save(path)
    return folder


@pytest.fixture(scope="module")
def original(images: Path) -> Path:
    """It packed, not to be changed."""
    to = images.with_name("packed")
    pack(str(images), to, PackSettings(shorter=48, shard_mb=0.03, workers=0))
    assert len(list(to.glob("*.tar"))) > 3
    return to


@pytest.fixture
def packed(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "packed"))


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PRETINT_LOCAL", str(tmp_path / "local"))
    say_once.cache_clear()
    return tmp_path / "local"


def place(packed: Path, local: Path) -> Path:
    """Where the copy belongs."""
    return local / hashlib.sha256((packed / "SHA256SUMS").read_bytes()).hexdigest()[:16]


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir() if not path.name.startswith(".")}


def data(source: object) -> list[bytes]:
    assert isinstance(source, Shards)
    return [source.data(index) for index in range(len(source))]


def refused(source: Path, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        Shards(source)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_source_from_the_copy(
    packed: Path, images: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = open_labeled(str(packed))
    assert isinstance(copied, Shards)
    there = place(packed, local)
    names = {path.name for path in packed.iterdir() if path.suffix in (".tar", ".index")}
    assert set(inodes(there)) == names
    assert all((there / name).read_bytes() == (packed / name).read_bytes() for name in names)
    monkeypatch.delenv("PRETINT_LOCAL")
    plain = open_labeled(str(packed))
    assert copied.digest() == plain.digest() and copied.classes == plain.classes == ClassFolder(images).classes
    assert list(copied.labels) == list(plain.labels) and copied.paths == Shards(packed).paths
    want = data(plain)
    for path in packed.glob("*.tar"):
        path.unlink()
    assert data(copied) == want, "it reads the copy"
    assert isinstance(plain, Shards)
    plain._open.clear()
    with pytest.raises(ImageError, match="shard-000000"):
        plain.data(0)


def test_what_is_there_is_not_copied_again(packed: Path, local: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = data(Shards(packed))
    assert "copy packed to" in capfd.readouterr().err
    there = place(packed, local)
    before = inodes(there)
    assert data(Shards(packed)) == first and inodes(there) == before
    assert capfd.readouterr().err == ""
    # A pattern of the same folder shares its copy.
    assert len(Shards(f"{packed}/shard-00000{{0..1}}.tar")) and inodes(there) == before

    cut, touched, gone, kept = (there / f"shard-00000{number}.tar" for number in range(4))
    os.truncate(cut, 100)
    content = bytearray(touched.read_bytes())
    content[2000] ^= 1
    touched.write_bytes(content)
    gone.unlink()
    (there / ".shard-000002.tar.part").write_bytes(b"begun")
    assert data(Shards(packed)) == first
    assert inodes(there)[kept.name] == before[kept.name] and not list(there.glob(".*.part"))
    assert touched.read_bytes() == (packed / touched.name).read_bytes()

    (there / ".checked").unlink()  # what nobody checked is not believed
    assert data(Shards(packed)) == first and inodes(there)[kept.name] != before[kept.name]
    (there / ".checked").write_bytes(b"\xff\xfe\x00 damaged")
    assert data(Shards(packed)) == first


def test_a_part_of_a_folder_is_copied_alone(packed: Path, local: Path) -> None:
    Shards(packed / "shard-000001.tar")
    assert set(inodes(place(packed, local))) == {"shard-000001.tar", "shard-000001.index"}
    whole = Shards(packed)
    assert len(inodes(place(packed, local))) == 2 * len(whole.paths)


def test_a_wrong_checksum_names_the_shard(packed: Path, local: Path) -> None:
    bad = packed / "shard-000002.tar"
    content = bytearray(bad.read_bytes())
    content[700] ^= 1
    bad.write_bytes(content)
    refused(packed, str(bad), "SHA256SUMS", "fetch it again")
    there = place(packed, local)
    assert set(inodes(there)) == {"shard-000000.tar", "shard-000001.tar"} and not list(there.glob(".*.part"))
    content[700] ^= 1
    bad.write_bytes(content)
    before = inodes(there)
    assert len(Shards(packed)) == 60
    assert before.items() <= inodes(there).items(), "what was right is kept"
    bad.write_bytes(content + bytes(512))  # replaced after it was copied: its old copy is not taken
    refused(packed, str(bad))


def test_a_shard_without_checksum(packed: Path) -> None:
    sums = packed / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text("".join(line for line in lines if "shard-000001.tar" not in line))
    refused(packed, str(sums), "no checksum of shard-000001.tar")
    sums.write_text("no checksum\n")
    refused(packed, str(sums), "line 1")
    sums.write_bytes(b"\xff\xff")
    refused(packed, str(sums), "cannot be read")


def test_checksums_by_another_program(packed: Path, local: Path) -> None:
    """As ``sha256sum -b ./*.tar`` writes them, behind a BOM; indices without a checksum are not copied."""
    want = data(Shards(packed))
    call = r"(printf '\357\273\277'; sha256sum -b ./*.tar) > SHA256SUMS"
    said = subprocess.run(call, cwd=packed, shell=True, check=False)
    assert said.returncode == 0
    assert data(Shards(packed)) == want
    assert all(name.endswith(".tar") for name in inodes(place(packed, local)))


def test_without_checksums_shards_are_read_in_place(
    packed: Path, local: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (packed / "SHA256SUMS").unlink()
    assert len(Shards(packed)) == len(Shards(packed)) == 60
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and str(packed) in said and "pretint pack" in said and not local.exists()


def test_too_little_room(packed: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(path.stat().st_size for path in packed.iterdir() if path.suffix in (".tar", ".index"))
    usage = shutil.disk_usage(packed)
    monkeypatch.setattr(local_copy.shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    refused(packed, str(packed), f"{needed / 1e9:.2f} GB", "free")
    assert not inodes(place(packed, local))
    monkeypatch.setattr(local_copy.shutil, "disk_usage", lambda path: usage._replace(free=needed))
    assert len(Shards(packed)) == 60


def test_folders_that_cannot_be(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name, part in (
        (tmp_path / "file", "cannot write there"),
        (packed / "local", "the folder to copy"),
        ("~nobody-of-this-name/x", "no such user"),
    ):
        monkeypatch.setenv("PRETINT_LOCAL", str(name))
        refused(packed, str(name), part, "PRETINT_LOCAL")
    monkeypatch.setenv("PRETINT_LOCAL", "")
    assert len(Shards(packed)) == 60


def test_a_copy_that_is_swept_away_while_it_is_read(packed: Path, local: Path) -> None:
    source = Shards(packed)
    want = data(source)
    there = place(packed, local)
    for how in ("gone", "cut"):
        again = Shards(packed)
        assert again.data(0) == want[0]
        again._open.clear()
        if how == "gone":
            shutil.rmtree(there)
        else:
            for path in there.glob("*.tar"):
                os.truncate(path, 600)
        assert data(again) == want, how


def start(launcher: Launcher, packed: Path) -> StartedProcess:
    code = f"from pretext.data import Shards; s = Shards({str(packed)!r}); print(len(s), s._files[0])"
    return launcher.start(code=code)


def test_many_processes_copy_once(packed: Path, local: Path, launcher: Launcher) -> None:
    processes = [start(launcher, packed) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    outputs = [process.output for process in processes]
    want = f"60 {place(packed, local)}/shard-000000.tar\n"
    assert all(output.endswith(want) for output in outputs), outputs
    assert sum("copy packed" in output for output in outputs) == 1, outputs


def test_who_comes_later_waits(packed: Path, local: Path, launcher: Launcher) -> None:
    there = place(packed, local)
    there.mkdir(parents=True)
    with (there / ".lock").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        process = start(launcher, packed)
        wait_until(
            lambda: "waiting" in process.output or not process.runs(), "it waits", describe=lambda: process.output
        )
        time.sleep(0.3)  # in which a process that did not wait would copy
        assert process.runs() and not inodes(there)
    assert process.wait() == 0 and process.output.splitlines()[-1].startswith("60 ")


SETTINGS = [
    "--data.holdout", "6",
    "--crop.size", "16",
    "--objective.stride", "4",
    "--objective.prior_images", "20",
    "--training.steps", "30",
    "--training.warmup", "5",
    "--training.batch_size", "16",
    "--machine.checkpoint_every", "5",
    "--machine.evaluate_every", "15",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_goes_on_with_and_without_it(launcher: Launcher, packed: Path, local: Path, tmp_path: Path) -> None:
    whole, mixed = tmp_path / "whole", tmp_path / "mixed"
    more = [*SETTINGS, "--data.source", str(packed)]
    process = launcher.start("pretrain", whole, *more, env={"PRETINT_LOCAL": ""})
    assert process.wait() == ExitStatus.COMPLETE, process.output
    assert not local.exists()
    for step, folder in ((5, str(local)), (15, "")):
        process = launcher.start("pretrain", mixed, *more, env={"PRETINT_LOCAL": folder}, hold_at=step + 5)
        TrainedRun(mixed).wait_for_step(step, process)
        process.kill()
        process.wait()
        assert ("copy packed" in process.output) == bool(folder)
    process = launcher.start("pretrain", mixed, *more, env={"PRETINT_LOCAL": str(local)})
    assert process.wait() == ExitStatus.COMPLETE, process.output
    TrainedRun(mixed).same_as(TrainedRun(whole))
    assert str(local) not in (mixed / "settings.yaml").read_text()
