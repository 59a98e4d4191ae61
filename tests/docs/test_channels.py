"""The commands of the page on other channels, run as they stand on small images."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pretint.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "channels.md"
SMALL = {
    "pretrain": "--training.steps 3 --training.warmup 1 --training.batch_size 4 --data.holdout 2 --machine.workers 0 "
    "--machine.device cpu --objective.neighbors 3",
    "finetune": "--training.steps 3 --training.warmup 1 --training.batch_size 4 --machine.workers 0 "
    "--machine.device cpu",
    "probe": "--workers 0 --device cpu",
}
"""What makes a command small enough for a test."""


def commands() -> list[list[str]]:
    """Return the commands of the page, in order."""
    blocks = PAGE.read_text().replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in blocks if line.startswith("    pretint ")]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The folders that the page names."""
    random = np.random.default_rng(0)
    for at in range(12):
        for folder in ("patches", f"scenes/train/{'ab'[at % 2]}", f"scenes/test/{'ab'[at % 2]}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / folder / f"{at}.npy", random.integers(0, 10001, (4, 72, 72), np.uint16))
        for channel in ("DAPI", "GFP", "RFP"):
            (tmp_path / "plates").mkdir(exist_ok=True)
            plate = random.integers(0, 4096, (72, 72), np.uint16)
            tifffile.imwrite(tmp_path / "plates" / f"{at}_w{channel}.tif", plate)
        for folder in ("tiles", "photographs"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(random.integers(0, 256, (72, 72, 3), np.uint8)).save(tmp_path / folder / f"{at}.png")
        for part in ("train", "test"):
            folder = tmp_path / "xrays" / part / "ab"[at % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 65536, (72, 72), np.uint16)).save(folder / f"{at}.png")
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_page(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = PAGE.parents[1] / "configs"
    monkeypatch.chdir(images)
    done = []
    for words in commands():
        if words[0] == "study":
            continue
        changed = [
            str(configs / word.removeprefix("configs/")) if word.startswith("configs/") else word for word in words
        ]
        if "codes" not in str(changed) and "hidden" in str(changed):
            changed = [word.replace("{hidden", "{codes: 9, hidden") for word in changed]
        assert main([*changed, *SMALL[words[0]].split()]) == 0, words
        done.append(words[0])
    assert done.count("pretrain") == 5 and {"probe", "finetune"} < set(done)
