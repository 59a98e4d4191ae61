"""docs/start.md: a newcomer's path, by the commands as they stand there, at a length that takes seconds."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pretint.cli

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "start.md").read_text(encoding="utf-8").replace("\\\n", "")
SHOWN = re.findall(r"^    pretint (.*)$", PAGE, re.MULTILINE)
SHORT = "--training.steps 3 --training.batch_size 8 --training.warmup 1 --crop.size 16 --machine.workers 0"
SHORTER = {"plan": SHORT, "pretrain": SHORT, "probe": "--workers 0"}


@pytest.mark.slow
def test_the_path_of_a_newcomer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 8)):
        for index in range(count):
            file = Path(f"images/{part}/{('cat', 'dog')[index % 2]}/{index}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(file)
    commands = [words.split()[0] for words in SHOWN]
    assert commands == ["plan", "pretrain", "probe", "compare", "table", "colorize", "export"]
    said = {}
    for words in SHOWN:
        command = words.split()[0]
        assert pretint.cli.main(shlex.split(f"{words} {SHORTER.get(command, '')}")) == 0, words
        said[command] = capsys.readouterr().out
    assert "next: pretint probe runs/mine" in said["pretrain"]
    assert "top-1 accuracy on 8 test images of images/val" in said["probe"] and "conv5" in said["probe"]
    assert "Holm" in said["compare"] and "| stage | mine | random |" in said["table"]
    assert Path("colored/sheet.png").is_file() and Path("mine.safetensors").is_file()
