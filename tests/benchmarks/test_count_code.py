"""The counts of the code, on a product small enough to count by hand."""

import ast
import subprocess
import sys
from pathlib import Path

from benchmarks import count_code

SOURCES = {
    "pretext/__init__.py": "",
    "pretext/coloring.py": '''"""An image's
colors."""

from transfer import probe  # needs the image

Floats = list[float]


class Cell:
    """Of an image."""

    image: int = 1
    """How many."""


def color(images):
    """Color."""
    return _mix(images, """two
lines""")


def _mix(a, b):
    return _mix(a, b) or probe.run
''',
    "transfer/__init__.py": "from transfer.probe import run as run\n",
    "transfer/probe.py": """
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretext.coloring import Floats
    from pretext import coloring
else:
    from . import table


class Cell:
    def _mix(self):
        return self._twice() + self._twice()

    def _twice(self): ...


def run():
    import pretext
""",
    "transfer/table.py": "def show():\n    from .probe import Cell\n",
    "tests/test_it.py": "from pretext.coloring import _mix\n",
}


def written(folder: Path) -> Path:
    for path, source in SOURCES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(source)
    return folder


def test_code_is_counted_as_by_hand(tmp_path: Path) -> None:
    sources = count_code.read_product(written(tmp_path))
    assert list(sources) == [path for path in SOURCES if not path.startswith("tests")]
    trees = {path: ast.parse(source) for path, source in sources.items()}
    assert count_code.count_code_lines(sources["pretext/coloring.py"]) == 9
    assert count_code.find_helpers_of_one(trees) == [("pretext/coloring.py", "_mix")]
    assert count_code.find_repeated_types(trees) == {"Cell": ["pretext/coloring.py", "transfer/probe.py"]}
    assert count_code.count_word({"": sources["pretext/coloring.py"]}, "image") == (3, 3)
    graph = count_code.import_graph(trees)
    assert graph["transfer.probe"] == {"transfer.table", "pretext"}
    assert count_code.find_circles(graph) == [["transfer.probe", "transfer.table"]]
    typed = count_code.import_graph(trees, type_checking=True)
    assert count_code.find_circles(typed) == [["pretext.coloring", "transfer.probe", "transfer.table"]]


def test_a_commit_stands_beside_the_folder(tmp_path: Path) -> None:
    written(tmp_path)
    for words in ("init -q", "add .", "-c user.name=n -c user.email=e commit -qm m"):
        subprocess.run(["git", "-C", tmp_path, *words.split()], check=True)
    (tmp_path / "transfer" / "table.py").unlink()
    command = [sys.executable, "-m", "benchmarks.count_code", tmp_path, "--compare", "HEAD"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    numbers = {line[:44].strip(): line[44:].split() for line in lines}
    assert numbers["modules"] == ["5", "4"] and numbers["functions"] == ["6", "5"]
