"""Where memory runs out for real, a command says in one line what to lower, and ends with 2."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiers import one_fast
from torch.utils.data import Dataset
from waits import PATIENCE

from pretext.data import decode
from pretext.data.batches import Sample
from pretext.engine.memory import explain_memory_shortage, is_memory_shortage
from pretext.errors import ImageError
from pretext.pretrain import pretrain
from pretext.recipe import PretrainSettings
from pretext.settings import settings_from

HUGE = 2**50


class Hungry(Dataset[Sample]):
    """Every image asks for more memory than there is."""

    def __init__(self, of: str) -> None:
        self.of = of

    def __getitem__(self, index: int) -> Sample:
        if self.of == "numpy":
            np.ones(HUGE)
        elif self.of == "torch":
            torch.ones(HUGE)
        raise MemoryError


EXHAUSTED = """
import sys
sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/../.."]
from pretext.engine.memory import explain_memory_shortage
from pretext.data.batches import stream
from test_memory import Hungry
try:
    with explain_memory_shortage("lower workers"):
        list(stream(Hungry(sys.argv[2]), range(2), 2, int(sys.argv[3])))
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""


@pytest.mark.parametrize("workers", one_fast(1, [0, 1]))
@pytest.mark.parametrize("of", one_fast("torch", ["numpy", "torch", "python"]))
def test_memory_that_runs_out_in_a_worker_or_here(of: str, workers: int) -> None:
    words = [sys.executable, "-c", EXHAUSTED, str(Path(__file__).parent), of, str(workers)]
    # It ends by itself: no worker is left that Python waits for.
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.rstrip("\n")
    assert said.startswith("UserError out of memory")
    assert said.endswith("; lower workers") and "\n" not in said
    assert ("in a process that decodes images" in said) == bool(workers)
    assert of == "python" or "needed" in said


def test_other_errors_stay_as_they_are() -> None:
    for wrong in (RuntimeError("sizes do not match"), FileNotFoundError(2, "no such file"), ValueError("memory")):
        assert not is_memory_shortage(wrong)
        with pytest.raises(type(wrong)), explain_memory_shortage("lower workers"):
            raise wrong
    assert is_memory_shortage(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."))
    assert is_memory_shortage(OSError(12, "Cannot allocate memory"))


LIMITED = """
import json, resource, sys
import pretint.cli
from pretext.engine import loop  # all that a command imports later takes memory too
import pretext.pretrain, pretext.plan
import transfer.probes.knn, transfer.probes.linear, transfer.probes.svm, transfer.report
import pretint.colorization.job, pretint.colorization.scores.job
from pathlib import Path
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[1]) * 2**20,) * 2)
for words in json.loads(sys.argv[2]):
    sys.stderr.write(f"$ {words[0]}: ")
    sys.stderr.flush()
    sys.stderr.write(f"code {pretint.cli.main(words)}\\n")
"""


def limited(megabytes: int, *commands: list[str], folder: Path) -> list[str]:
    """What commands print on standard error, in a process that may take so much more memory than its imports."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(megabytes), json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr.removeprefix("$ ").split("\n$ ")


@pytest.mark.slow
def test_commands_say_what_to_lower(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small: dict[str, Any] = {
        "data": {"source": "bundled"},
        "crop": {"size": 16},
        "objective": {"prior_images": 8},
        "training": {"steps": 1, "batch_size": 4, "warmup": 0},
        "machine": {"workers": 0},
    }
    assert not pretrain(run, settings_from(PretrainSettings, small, "test"))
    Image.new("RGB", (400, 400), (200, 30, 90)).save(tmp_path / "photo.png")
    big = ["--data.source", "bundled", "--crop.size", "512", "--objective.prior_images", "8", "--machine.workers"]
    bundled = ["--train", "bundled:train", "--test", "bundled:test"]
    said = limited(
        400,
        ["pretrain", "big", *big, "0", "--data.holdout", "1", "--training.batch_size", "256"],
        ["pretrain", "bigger", *big, "1", "--data.holdout", "1", "--training.batch_size", "512"],
        ["knn", "run", *bundled, "--size", "2048", "--workers", "0"],
        ["probe", "run", *bundled, "--size", "2048", "--workers", "0"],
        ["colorize", "run", "photo.png", "--size", "4096", "--sheet", "false"],
        ["score", "run", "--images", "bundled:test", "--size", "2048"],
        folder=tmp_path,
    )
    remedies = ["training.batch_size"] * 2 + ["lower size or workers"] * 2 + ["lower size"] * 2
    assert len(said) == len(remedies)
    for text, remedy in zip(said, remedies, strict=True):
        lines = [line for line in text.splitlines() if "out of memory" in line]
        assert len(lines) == 1 and remedy in lines[0], text
        assert text.rstrip().endswith("code 2") and "Traceback" not in text


@pytest.mark.slow
def test_an_image_is_not_blamed_for_memory_that_is_short(tmp_path: Path) -> None:
    """A run that skipped it would depend on the memory that is free."""
    script = """
import resource, sys
from pathlib import Path
from pretext.data import decode
data = Path(sys.argv[1]).read_bytes()
decode(Path(sys.argv[2]).read_bytes(), "small")
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 40 * 2**20,) * 2)
try:
    decode(data, "large")
except BaseException as error:
    print(type(error).__name__)
"""
    Image.new("RGB", (6000, 6000)).save(tmp_path / "large.png")
    Image.new("RGB", (6, 6)).save(tmp_path / "small.png")
    words = [sys.executable, "-c", script, str(tmp_path / "large.png"), str(tmp_path / "small.png")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "MemoryError\n"


def test_an_image_that_asks_for_absurd_memory_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def absurd(image: Image.Image) -> None:
        bytearray(HUGE)

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", absurd)
    content = io.BytesIO()
    Image.new("RGB", (6, 6)).save(content, "PNG")
    with pytest.raises(ImageError, match="needs more memory than there is"):
        decode(content.getvalue(), "x")
