"""docs/extending.md: its examples are run as they stand there, and what else a plugin may do wrong."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiers import one_fast

import pretint.cli
from pretext.backbones import BACKBONES
from pretext.data import DATASETS, open_dataset, open_labeled
from pretext.errors import UserError
from pretext.methods import METHODS
from pretext.methods.objectives import OBJECTIVES
from pretext.plugins import VARIABLE, Registry, load_plugins, plugin_contents
from transfer.results import code_digest, find_results
from transfer.tasks.registry import TASKS

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r'^```python title="(\w+\.py)"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL))
SHOWN = re.findall(rf"^    {VARIABLE}=(\w+\.py) pretint (.*)$", PAGE, re.MULTILINE)
SMALLER = {
    "pretrain": "--crop.size 16 --objective.stride 8 --objective.prior_images 20 --training.steps 3 "
    "--training.batch_size 8 --training.warmup 1 --data.holdout 8 --machine.workers 0",
    "probe": "--protocol logistic --size 16 --workers 0",
    "colorize": "--size 32",
    "finetune": "--size 16 --training.steps 3 --training.batch_size 8 --training.warmup 1 --machine.workers 0 "
    "--train images/train --test images/test --reference false",
}
BUNDLED = ["--train", "bundled:train", "--test", "bundled:test"]
FOLDERS = "--train images/train --test images/test"
SPAWNED = "--machine.workers 1 --machine.worker_start spawn"


@pytest.fixture(autouse=True)
def undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a folder of its own; what plugins did to this process is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("pretext.plugins._contents", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    tables: list[Registry[object]] = [BACKBONES, METHODS, OBJECTIVES, DATASETS, TASKS]  # type: ignore[list-item]
    names, modules = [set(table) for table in tables], set(sys.modules)
    yield
    for table, before in zip(tables, names, strict=True):
        for name in set(table) - before:
            del table[name]
    for module in set(sys.modules) - modules:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]


def plugin(name: str, content: str) -> Path:
    file = Path(name)
    file.write_text(content)
    return file


def call(files: str, words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv(VARIABLE, files)
    return pretint.cli.main(shlex.split(words))


def test_the_page_has_one_example_for_each_kind() -> None:
    assert set(EXAMPLES) == {"ladder.py", "headstand.py", "vivid.py", "arrays.py", "upright.py"}
    assert {file for file, _ in SHOWN} - {"my_net.py"} == set(EXAMPLES)


@pytest.mark.parametrize("example", one_fast("vivid.py", EXAMPLES))
def test_an_example_does_what_the_page_shows(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(example, EXAMPLES[example])
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 8)):
        for index in range(count):
            file = Path(f"images/{part}/{index % 2}/{index}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 26, 3), dtype=np.uint8)).save(file)
    for part, count in (("train", 48), ("test", 24)):
        images = rng.integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
        np.savez(f"{part}.npz", images=images, labels=np.arange(count) % 2, names=np.array(["left", "right"]))
    if example == "upright.py":
        assert pretint.cli.main(shlex.split(f"pretrain runs/x --data.source bundled {SMALLER['pretrain']}")) == 0
    for file, words in SHOWN:
        if file == example:
            command = words.split()[0]
            more = FOLDERS if words == "probe runs/ladder" else SPAWNED if "runs/arrays --data" in words else ""
            assert call(file, f"{words} {SMALLER[command]} {more}", monkeypatch) == 0, words
    if example == "vivid.py":
        assert len(list(Path("colored").glob("*/*/*.png"))) == 20
    else:
        assert find_results([Path("runs").resolve() / {"upright.py": "x"}.get(example, Path(example).stem)])


def test_a_run_without_its_plugin_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ladder.py", "vivid.py"):
        plugin(name, EXAMPLES[name])
    words = (
        f"pretrain runs/both --data.source bundled --backbone.name ladder --objective.name vivid {SMALLER['pretrain']}"
    )
    assert call("ladder.py:vivid.py", words, monkeypatch) == 0
    assert os.environ[VARIABLE] == f"{Path.cwd()}/ladder.py:{Path.cwd()}/vivid.py"  # also for processes begun elsewhere
    builder = OBJECTIVES.pop("vivid")
    capsys.readouterr()
    assert pretint.cli.main(["probe", "runs/both", *BUNDLED]) == 2
    assert "objective.name is vivid" in (said := capsys.readouterr().err) and VARIABLE in said
    OBJECTIVES["vivid"] = builder
    del BACKBONES["ladder"]
    assert pretint.cli.main(["probe", "runs/both", *BUNDLED]) == 2
    assert "no backbone is named 'ladder'" in (said := capsys.readouterr().err) and VARIABLE in said


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("late.py", "a = 1\n\nb = a / 0\n", "late.py, line 3: ZeroDivisionError: division by zero"),
        ("torn.py", "def f(:\n", "torn.py, line 1: SyntaxError"),
        ("json.py", "", "there is another module called json; rename the file"),
        ("two.words.py", "", "give a Python file, NAME.py"),
        ("notes.txt", "", "give a Python file, NAME.py"),
        (
            "tiny.py",
            "from pretext.backbones import BACKBONES, Tiny\nBACKBONES['tiny'] = Tiny\n",
            "tiny.py, line 2: UserError: backbone tiny exists already; choose another name",
        ),
        (
            "net.py",
            "from pretext.backbones import BACKBONES, Tiny\nBACKBONES['resnet18'] = Tiny\n",
            "resnet18 exists already",
        ),
        ("net.py", "from pretext.backbones import BACKBONES, Tiny\nBACKBONES['a:b'] = Tiny\n", "use letters, digits"),
        (
            "all.py",
            "from pretext.methods.objectives import *\nOBJECTIVES['plain'] = None\n",
            "objective plain exists already",
        ),
        ("src.py", "from pretext.data import DATASETS\nDATASETS['voc'] = None\n", "source voc exists already"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_one_line(
    name: str, content: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(str(plugin(name, content)), "pretrain runs/x", monkeypatch) == 2
    out, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1 and not out and not Path("runs").exists()


def test_a_missing_plugin_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("gone.py", "demo", monkeypatch) == 2
    assert f"{Path.cwd()}/gone.py: cannot be read (No such file" in capsys.readouterr().err


def test_a_misspelt_objective_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert pretint.cli.main(["pretrain", "runs/x", "--objective.name", "rebalance"]) == 2
    assert "objective.name is rebalance: did you mean rebalanced?" in capsys.readouterr().err


def test_what_a_plugin_opens_must_be_a_source() -> None:
    plugin("odd.py", "from pretext.data import DATASETS\nDATASETS['odd'] = lambda rest, labeled: [rest]\n")
    plugin("arrays.py", EXAMPLES["arrays.py"])
    load_plugins("odd.py", "arrays.py")
    with pytest.raises(UserError, match=r"odd:x: the plugin returns no ImageDataset"):
        open_dataset("odd:x")
    np.savez("bare.npz", images=np.zeros((3, 8, 8, 3), np.uint8))
    assert len(open_dataset("npz:bare.npz")) == 3
    with pytest.raises(UserError, match=r"npz:bare.npz: cannot be read"):
        open_labeled("npz:bare.npz")
    load_plugins(plugin("again.py", "from pretext.data import DATASETS\nDATASETS['arrays'] = DATASETS['npz']\n"))
    with pytest.raises(UserError, match=r"array:bare.npz: no such folder; did you mean arrays:bare.npz"):
        open_dataset("array:bare.npz")


def test_results_know_what_is_in_a_plugin() -> None:
    before = code_digest(), code_digest("pretext/color.py")
    load_plugins(plugin("one.py", "A = 1\n"))
    first = code_digest(), code_digest("pretext/color.py")
    load_plugins("one.py")  # again: nothing new
    assert len(plugin_contents()) == 1 and first == (code_digest(), code_digest("pretext/color.py"))
    load_plugins(plugin("two.py", "A = 2\n"))
    assert len({*before, *first, code_digest(), code_digest("pretext/color.py")}) == 6
