"""Small studies, for the tests of theirs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from browser import Site
from PIL import Image
from processes import StartedProcess
from waits import wait_until

from pretint.apps.turing.design import TuringSettings, open_study
from pretint.apps.turing.store import Store

HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\">",
    "\"'><script>document.title='owned'<&amp;script>",
    "ü 漢字 \u202ecod",
    "=1+1",
]

HOSTILE_ALGORITHM = '"><script>alert(1)</script>'

MakeStudy = Callable[..., Store]


def write_images(folder: Path, names: list[str], algorithms: int = 2, size: tuple[int, int] = (48, 40)) -> list[Path]:
    """Real images, and what each algorithm made of them: all green, all blue, ..."""
    rng = np.random.default_rng(0)
    folders = [folder / "real", *(folder / f"fake-{index}" for index in range(algorithms))]
    for name in names:
        real = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        for index, place in enumerate(folders):
            place.mkdir(exist_ok=True, parents=True)
            pixels = real if index == 0 else np.zeros_like(real)
            if index:
                pixels[..., index] = 255
            Image.fromarray(pixels).save(place / f"{name}.{'jpg' if index == 0 else 'png'}")
    return folders


@pytest.fixture
def make_study(tmp_path: Path) -> Iterator[MakeStudy]:
    """make(names=..., **settings): an open study of 2 practice and 3 scored trials, shown for 0.2 seconds."""
    with ExitStack() as stack:

        def make(
            names: list[str] | None = None, algorithms: tuple[str, ...] = ("one", "two"), **settings: object
        ) -> Store:
            names = [*HOSTILE, "e", "f", "g"] if names is None else names
            real, *fakes = write_images(tmp_path / "images", names, len(algorithms))
            arguments = {"practice": 2, "trials": 3, "seconds": 0.2, "size": 32, "seed": 0} | settings
            words = [f"{name}={fake}" for name, fake in zip(algorithms, fakes, strict=True)]
            design = TuringSettings(real=str(real), algorithm=words, **arguments)  # type: ignore[arg-type]
            return stack.enter_context(open_study(tmp_path / "study", design))[0]

        yield make


def wait_until_served(started: StartedProcess) -> tuple[Site, str]:
    """Where it serves, once it says so, and the path by which participants join."""

    def serves() -> bool:
        assert started.runs(), started.output
        return "Ctrl-C stops" in started.output

    wait_until(serves, "the study is served", describe=lambda: started.output, every=0.05)
    (line,) = [line for line in started.output.splitlines() if line.startswith("participants:")]
    address, _, token = line.split()[1].partition("/join/")
    return Site(address), f"/join/{token}"
