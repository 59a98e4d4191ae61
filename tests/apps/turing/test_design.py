"""Making a study of folders: pairs, encoding, and every mistake in one line."""

import io
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import Launcher
from turing_studies import wait_until_served, write_images

import pretint.cli
from pretext.errors import UserError
from pretext.files import write_png
from pretint.apps.turing.design import FILE, Pairs, TuringSettings, encode_image, merge_algorithms, open_study

SMALL = {"practice": 1, "trials": 2, "size": 16, "seed": 0}


def settings(folders: list[Path], **more: Any) -> TuringSettings:
    words = [f"name {index}={folder}" for index, folder in enumerate(folders[1:])]
    return TuringSettings(real=str(folders[0]), algorithm=words, **SMALL | more)


def refused(folder: Path, asked: TuringSettings, *parts: str) -> None:
    with pytest.raises(UserError) as said, open_study(folder, asked):
        pass
    assert all(part in str(said.value) for part in parts) and "\n" not in str(said.value), said.value


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return write_images(tmp_path / "images", ["a", "b", "c", "d"])


def test_pairs_go_by_name_whatever_the_ending(folders: list[Path]) -> None:
    (folders[0] / "deep").mkdir()
    Image.new("RGB", (9, 9)).save(folders[0] / "deep" / "x.y.webp")
    for fake in folders[1:]:
        (fake / "deep").mkdir()
        Image.new("RGB", (9, 9)).save(fake / "deep" / "x.y.png")
        write_png(fake / "sheet.png", Image.new("RGB", (30, 30)))
        Image.new("RGB", (9, 9)).save(fake / "of nothing.png")
    pairs = Pairs(folders[0], {"one": folders[1], "two": folders[2]})
    assert [pair.name for pair in pairs.pairs] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "deep/x.y.webp"]
    assert pairs.unused == 2, "the one that belongs to nothing, twice; the contact sheet is no image"
    real, *fakes = pairs.encoded(pairs.pairs[0], 16)
    for index, fake in enumerate(fakes, start=1):
        assert np.asarray(Image.open(io.BytesIO(fake)))[..., index].min() == 255
    assert np.asarray(Image.open(io.BytesIO(real))).std() > 5


def test_what_is_served_has_one_size_whatever_it_shows() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8))
    images = [noise, noise.convert("L"), Image.new("RGB", (1, 900), "red"), Image.new("RGB", (20, 20))]
    files = [encode_image(image, 64) for image in images]
    assert len({len(file) for file in files}) == 1
    assert {Image.open(io.BytesIO(file)).size for file in files} == {(64, 64)}
    assert {Image.open(io.BytesIO(file)).mode for file in files} == {"RGB"}
    assert not any(Image.open(io.BytesIO(file)).info for file in files)


def test_every_mistake_is_a_line_and_leaves_no_study(folders: list[Path], tmp_path: Path) -> None:
    study = tmp_path / "study"
    refused(study, settings(folders, trials=4), "4 pairs, and 5 trials", "--trials")
    refused(study, settings([tmp_path / "none", *folders[1:]]), "none")
    refused(study, TuringSettings(), "no study yet", "--real")
    assert pretint.cli.main(["turing", str(study), "--results"]) == 2
    (folders[2] / "b.png").unlink()
    refused(study, settings(folders), "1 of 4 real images have no colored one of algorithm name 1", ": b")
    refused(study, settings([folders[0], folders[0] / "a.jpg"]), "not a folder")
    Image.new("RGB", (48, 40)).save(folders[0] / "a.png")
    refused(study, settings(folders[:2]), "a.jpg and a.png have one name")
    assert not study.exists()


def test_an_image_that_shows_another_part_is_refused(folders: list[Path], tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(folders[1] / "c.png")
    refused(tmp_path / "study", settings(folders), "c.png", "another shape")
    assert not (tmp_path / "study" / FILE).exists()
    Image.new("RGB", (96, 80)).save(folders[1] / "c.png")  # of another size it shows the same
    with open_study(tmp_path / "study", settings(folders)) as (store, said):
        assert len(store.names) == 4 and not said


def test_pairs_that_cannot_be_read_are_listed_until_too_few_are_left(folders: list[Path], tmp_path: Path) -> None:
    (folders[1] / "b.png").write_bytes((folders[1] / "b.png").read_bytes()[:60])
    with open_study(tmp_path / "study", settings(folders)) as (store, said):
        assert store.names == ["a.jpg", "c.jpg", "d.jpg"] and len(said) == 1 and "b.jpg" in said[0]
    (folders[0] / "a.jpg").write_text("no image")
    refused(tmp_path / "other", settings(folders), "2 pairs, and 3 trials")
    assert not (tmp_path / "other" / FILE).exists() and not list((tmp_path / "other").glob(".study*"))


def test_a_study_goes_on_as_it_was_made(folders: list[Path], tmp_path: Path) -> None:
    study = tmp_path / "study"
    with open_study(study, settings(folders)) as (store, _):
        link, number = store.facts.token, store.join("somebody", "yes")
    for same in (TuringSettings(), settings(folders)):
        with open_study(study, same) as (store, _):
            assert store.facts.token == link and store.facts.trials == 2
            assert store.participant("somebody") is not None and number == 0
    refused(study, settings(folders, trials=3), "another trials (2)")
    refused(study, settings(folders, seed=5), "another seed (0)")
    refused(study, settings(folders, trials=40), "another trials (2)")  # though 40 is what a new study has
    refused(study, settings(folders, size=256), "another size (16)")
    refused(study, settings(folders[:2]), "another algorithm")


def test_a_seed_is_drawn_once_if_none_is_given(folders: list[Path], tmp_path: Path) -> None:
    seeds = set()
    for name in "ab":
        for _ in range(2):
            with open_study(tmp_path / name, settings(folders, seed=None)) as (store, _):
                seeds.add((name, store.facts.seed))
    assert len(seeds) == 2 and len({seed for _, seed in seeds}) == 2
    with open_study(tmp_path / "c", settings(folders, seed=7)) as (store, _):
        assert store.facts.seed == 7
        protocol = TuringSettings().protocol
    assert protocol == (10, 40, 1.0, 256), "as docs/turing.md says"


def test_a_damaged_study_is_a_line(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    with open_study(study, settings(folders)) as (store, _):
        (page,) = store._db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'participant'").fetchone()
        (size,) = store._db.execute("PRAGMA page_size").fetchone()

    def damage() -> None:
        with (study / FILE).open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)

    damage()
    assert pretint.cli.main(["turing", str(study), "--results"]) == 2
    monkeypatch.setattr("pretint.apps.web.server.serve", lambda app, listener, behind_proxy: listener.close())
    assert pretint.cli.main(["turing", str(study), "--port", "0"]) == 2, "nor when it ends"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pretint: ")]
    assert len(lines) == 2 and all("study.db: the study cannot be read any more (" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["s", "--algorithm", "a=1"], ["a=1"]),
        (["s", "--algorithm", "a=1", "b=2,3", "--port", "5"], ["a=1", "b=2,3"]),
        (["--algorithm", "a=1", "s", "--algorithm=b=x y"], ["a=1", "b=x y"]),
        (["s", "--algorithm", '["a=1", "b=2"]'], ["a=1", "b=2"]),
        (["s", "--algorithm=[a=1]"], ["a=1"]),
    ],
)
def test_algorithms_may_be_named_in_any_way(words: list[str], found: list[str]) -> None:
    from pretext.settings import Positional, parse_command

    (folder,), asked = parse_command("x", "", TuringSettings, [Positional("study", "")], merge_algorithms(words))
    assert asked.algorithm == found and str(folder) == "s"


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"algorithm": ["nameless"]}, "NAME=FOLDER"),
        ({"algorithm": ["a=1", "a=2"]}, "named twice"),
        ({"algorithm": ["a\nb=1"]}, "printable"),
        ({"trials": 0}, "trials"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"size": 5000}, "size"),
        ({"port": 70000}, "port"),
        ({"token": "short"}, "token"),
        ({"public": "javascript:alert(1)"}, "public"),
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError, match=part):
        TuringSettings(**wrong)


def test_a_port_in_use_is_a_line(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["turing", str(tmp_path / "study"), "--real", str(folders[0]), "--algorithm", f"one={folders[1]}"]
        code = pretint.cli.main([*words, "--practice", "1", "--trials", "2", "--port", str(port)])
    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 2 and error.startswith(f"pretint: port {port} on 127.0.0.1: cannot be opened") and "--port" in error


@pytest.mark.slow
def test_the_command_serves_is_killed_and_goes_on(launcher: Launcher, folders: list[Path], tmp_path: Path) -> None:
    words = ["turing", tmp_path / "study", "--port", "0", "--token", "a token of mine"]
    more = ["--real", folders[0], "--algorithm", f"one={folders[1]}", "--practice", "1", "--trials", "2"]
    started = launcher.start(*words, *more)
    site, link = wait_until_served(started)
    joined = site.ask(link, b"vision=yes", content_type="application/x-www-form-urlencoded")
    assert joined.status == 303
    place = joined.headers["location"]
    assert site.post(f"{place}/seen", {"trial": 0}).json["show"]
    assert site.post(f"{place}/answer", {"trial": 0, "chosen": "first"}).json["kept"]
    told = launcher.start("turing", tmp_path / "study", "--results")  # while the other serves
    assert told.wait() == 0 and "1 participants" in told.output
    refused_twice = launcher.start(*words)
    assert refused_twice.wait() == 2 and "another process is serving this study" in refused_twice.output
    started.kill()
    started.wait()
    again = launcher.start(*words)
    site, link_again = wait_until_served(again)
    assert link_again == link and "a token of mine" not in again.output
    assert site.ask(f"{place}/state").json["trial"] == 1
    again.signal(signal.SIGINT)
    assert again.wait() == 130 and "1 participants, 0 of them finished" in again.output
