"""All kinds of artifacts: killed at random they go on to the same numbers, and no flipped bit is silently used."""

import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from artifact_kinds import KINDS, Kind, Outcome, jump, make_inputs, run_in_process, stored_files, take_away

KILLS, FLIPS = 2, 3
"""Of each kind, and of each kind of file, in the fast tier."""
MANY_KILLS, MANY_FLIPS = 20, int(os.environ.get("FLIPS", "3"))
"""The same in the slow tier. FLIPS=100 takes most of an hour."""
VANISHED = 2
"""How often the disk of each kind vanishes, in the slow tier."""
QUICK = ("pack", "local copy", "study", "folder index", "tar index")
"""The kinds whose files are damaged in the fast tier too: a job takes milliseconds."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("artifacts") / "inputs")


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, inputs: Path) -> Iterator[tuple[Kind, Path, Outcome]]:
    """A kind, the folder of a job that nobody killed, and its outcome."""
    kind, folder = KINDS[request.param], inputs.with_name(request.param)
    folder.mkdir()
    [outcome] = run_in_process(kind, inputs, [folder])
    assert not outcome.code, outcome
    yield kind, folder, outcome
    shutil.rmtree(folder)


def _kept(kind: Kind, folder: Path) -> dict[Path, tuple[int, int]]:
    paths = (path for path in folder.rglob("*") if re.fullmatch(kind.kept, str(path)))
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def kill(whole: tuple[Kind, Path, Outcome], inputs: Path, tmp_path: Path, kills: int) -> None:
    kind, _, expected = whole
    moments = _moments(expected, kills)
    folders, kept = [tmp_path / f"{number}" for number in range(kills)], []
    for folder, moment in zip(folders, moments, strict=True):
        folder.mkdir()
        run_in_process(kind, inputs, [folder], at=moment)
        kept.append(_kept(kind, folder))
    for folder, moment, before, again in zip(
        folders, moments, kept, run_in_process(kind, inputs, folders), strict=True
    ):
        where = f"killed at {moment} of {expected.events}: {again.output or again.value}"
        assert (again.code, again.value) == (0, expected.value), where
        assert len(before.items() - _kept(kind, folder).items()) <= kind.unit, f"parts were made again; {where}"
        assert not list(folder.rglob(".*.part")) and "damaged" not in again.output, where


def flip(whole: tuple[Kind, Path, Outcome], inputs: Path, tmp_path: Path, flips: int) -> None:
    kind, complete, expected = whole
    drawn = random.Random(expected.events)
    half = tmp_path / "half"
    half.mkdir()
    run_in_process(kind, inputs, [half], at=1 + expected.events * 2 // 3)
    places: dict[Path, str] = {}
    seen: set[str] = set()
    for state in (half, complete):
        for name, paths in stored_files(kind, state).items():
            for _ in range(1 if name in seen else flips):
                path, folder = drawn.choice(paths), tmp_path / f"{len(places)}"
                bit = drawn.randrange(8 * path.stat().st_size)
                shutil.copytree(state, folder)
                flip_bit(folder / path.relative_to(state), bit)
                places[folder] = f"bit {bit % 8} of byte {bit // 8} of {path}"
            seen.add(name)
    for place, again in zip(places.values(), run_in_process(kind, inputs, list(places)), strict=True):
        if again.code:
            assert again.code == 2 and "\n" not in again.value, f"{place}: {again}"
        else:
            assert again.value == expected.value or is_said(again, expected.value), f"{place}: {again}"


def flip_bit(path: Path, bit: int) -> None:
    """Flip a bit of a file, which gets another time of change by that."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def is_said(again: Outcome, expected: Any) -> bool:
    """Whether only damaged lines of a journal are missing, and a message says so."""
    return (
        isinstance(expected, dict)
        and again.value.get("weights", 0) == expected["weights"]
        and again.value["losses"].items() <= expected["losses"].items()
        and "left out" in again.output
    )


def _moments(expected: Outcome, count: int) -> list[int]:
    return random.Random(expected.events).choices(range(1, expected.events + 1), k=count)


@pytest.mark.slow
@pytest.mark.parametrize("whole", KINDS, indirect=True)
def test_a_disk_that_vanishes(whole: tuple[Kind, Path, Outcome], inputs: Path, tmp_path: Path) -> None:
    kind, _, expected = whole
    for number, moment in enumerate(_moments(expected, VANISHED)):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        [stopped] = run_in_process(kind, inputs, [folder], moment, take_away)
        where = f"vanished at {moment} of {expected.events}: {stopped.code} {stopped.value}"
        if isinstance(stopped.value, dict):  # files of which some are away
            assert stopped.value.items() <= expected.value.items(), where
        else:
            assert (stopped.code == 2 and "\n" not in stopped.value) or stopped.value == expected.value, where
        shutil.rmtree(folder, ignore_errors=True)  # what was written after it had vanished
        folder.with_suffix(".away").rename(folder)
        [again] = run_in_process(kind, inputs, [folder])
        assert (again.code, again.value) == (0, expected.value), f"{where}; then {again}"


@pytest.mark.slow
@pytest.mark.parametrize("whole", KINDS, indirect=True)
def test_a_clock_that_jumps(whole: tuple[Kind, Path, Outcome], inputs: Path, tmp_path: Path) -> None:
    kind, _, expected = whole
    for moment in _moments(expected, 1):
        folder = tmp_path / f"{moment}"
        folder.mkdir()
        for _ in range(2):  # the second reads what the first has written
            [outcome] = run_in_process(kind, inputs, [folder], moment, jump)
            assert (outcome.code, outcome.value) == (0, expected.value), f"at {moment} of {expected.events}"


@pytest.mark.parametrize("whole", KINDS, indirect=True)
def test_random_kills_change_no_outcome(whole: tuple[Kind, Path, Outcome], inputs: Path, tmp_path: Path) -> None:
    kill(whole, inputs, tmp_path, KILLS)


@pytest.mark.slow
@pytest.mark.parametrize("whole", KINDS, indirect=True)
def test_many_random_kills_change_no_outcome(whole: tuple[Kind, Path, Outcome], inputs: Path, tmp_path: Path) -> None:
    kill(whole, inputs, tmp_path, MANY_KILLS)


@pytest.mark.parametrize("whole", QUICK, indirect=True)
def test_no_flipped_bit_is_silently_used(whole: tuple[Kind, Path, Outcome], inputs: Path, tmp_path: Path) -> None:
    flip(whole, inputs, tmp_path, FLIPS)


@pytest.mark.slow
@pytest.mark.parametrize("whole", KINDS, indirect=True)
def test_none_of_many_flipped_bits_is_silently_used(
    whole: tuple[Kind, Path, Outcome], inputs: Path, tmp_path: Path
) -> None:
    flip(whole, inputs, tmp_path, MANY_FLIPS)
