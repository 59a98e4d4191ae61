"""The journal forgets what an interrupted run wrote beyond its checkpoint, and nothing else."""

import io
import json
import math
import random
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretext.engine.journal import Journal, read_journal, skipped_images


def written(folder: Path, first: int, last: int, start: int) -> None:
    journal = Journal(folder, start)
    for step in range(first, last + 1):
        journal.write("step", step, loss=1 / step)
    journal.close()


def test_goes_on_after_a_crash(tmp_path: Path) -> None:
    written(tmp_path, 1, 10, start=0)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 11, "lo')  # torn by the crash
    assert [record["step"] for record in read_journal(tmp_path)] == list(range(1, 11))
    written(tmp_path, 8, 12, start=7)
    records = read_journal(tmp_path)
    assert [record["step"] for record in records] == list(range(1, 13))
    assert all(record["loss"] == 1 / record["step"] for record in records), "floats survive exactly"


def test_a_damaged_line_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, 1, 20, start=0)
    path, drawn = tmp_path / "journal.jsonl", random.Random(0)
    content, records = path.read_bytes(), read_journal(tmp_path)
    for number in range(100):
        damaged = bytearray(content)
        damaged[drawn.randrange(len(content) - 1)] ^= 1 << drawn.randrange(8)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(damaged)
        left = read_journal(folder)
        assert 18 <= len(left) <= 19 and all(record in records for record in left)
        said = capsys.readouterr().err
        assert said.startswith(f"{folder}/journal.jsonl: 1 line") and said.count("\n") == 1
    Journal(folder, 20).close()
    assert read_journal(folder) == left and not capsys.readouterr().err, "a resumed run leaves it out for good"


def test_is_mirrored_to_tensorboard(tmp_path: Path) -> None:
    written(tmp_path, 1, 10, start=0)
    written(tmp_path, 8, 12, start=7)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("step/loss")] == list(range(1, 13))


def test_lists_are_stored_without_nan_and_not_mirrored(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    journal.write("health", 5, loss=0.5, recall=[0.25, math.nan, 1.0, math.inf], empty=math.nan)
    journal.close()
    stored = json.loads((tmp_path / "journal.jsonl").read_text(), parse_constant=pytest.fail)
    assert len(stored.pop("seal")) == 16
    assert stored == {"kind": "health", "step": 5, "loss": 0.5, "recall": [0.25, None, 1.0, None], "empty": None}
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"health/loss", "health/empty"}


def test_images_in_tensorboard(tmp_path: Path) -> None:
    for start, steps in ((0, (10, 20, 30)), (20, (30,))):  # the second call goes on from a checkpoint at 20
        journal = Journal(tmp_path, start)
        for step in steps:
            buffer = io.BytesIO()
            Image.new("RGB", (30 + start, step), "orange").save(buffer, "PNG")
            journal.image("samples", step, buffer.getvalue(), 30 + start, step)
        journal.flush()
        if start:
            journal.close()
    assert not read_journal(tmp_path)
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("samples")
    assert [(one.step, one.width, one.height) for one in shown] == [(10, 30, 10), (20, 30, 20), (30, 50, 30)]
    for one in shown:
        with Image.open(io.BytesIO(one.encoded_image_string)) as image:
            assert image.size == (one.width, one.height) and image.getpixel((0, 0)) == (255, 165, 0)


def test_lists_skipped_images(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    journal.write("skipped", 1, key="a.jpg", reason="truncated")
    journal.write("step", 1, loss=0.5)
    journal.close()
    assert skipped_images(tmp_path) == [("a.jpg", "truncated")]
    assert skipped_images(tmp_path / "nowhere") == []
