"""Runs and results of Pretint 0.1.0, whose names have changed since: one line says which version wrote them."""

import json
from pathlib import Path

import pytest
import torch

import pretint.cli
from pretext.errors import UserError, check_format


def old_run(folder: Path) -> Path:
    """A run as 0.1.0 left it, as far as it is read."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "settings.yaml").write_text("data: {source: bundled}\nobjective: {prior_pictures: 50}\n")
    torch.save({"format": "pretint checkpoint 1", "step": 10}, folder / "checkpoints" / "00000010.pt")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        "pretrain run --data.source bundled",
        "report run",
        "probe run --train bundled:train --test bundled:test",
        "probe run/checkpoints/00000010.pt --train bundled:train --test bundled:test",
        "export run x.safetensors",
        "colorize run photo.png",
        "table results",
    ],
)
def test_files_of_an_old_version_are_refused_in_one_line(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    old_run(tmp_path / "run")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.json").write_text(json.dumps({"format": "pretint result 1"}))
    (tmp_path / "photo.png").write_bytes(b"")
    assert pretint.cli.main(words.split()) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Pretint 0.1.0" in lines[-1], lines
    assert "Traceback" not in "".join(lines)


def test_only_number_1_of_the_same_kind_is_old() -> None:
    check_format("x", "pretint result 2", "pretint result 2")
    check_format("x", "pretint scores 1", "pretint result 2")
    check_format("x", None, "pretint result 2")
    with pytest.raises(UserError, match=r"^x: written by Pretint 0\.1\.0"):
        check_format("x", "pretint result 1", "pretint result 2")
