"""Expand a study of 500 cells, by the first edition and by this checkout: ``python -m benchmarks.study_cells FIRST``.

FIRST is a checkout of the first edition (``same_numbers.REFERENCE``). Prints the CPU seconds of each, in rounds that
alternate, and their ratio. A process has imported everything before it begins; its first call is the one that counts,
as in ``pretint study``.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

STUDY = """
settings: {{data.source: "{folder}/train", training.steps: 2000, crop.size: 32}}
variants: {{rebalanced: {{}}, L2: {{objective.name: regression}}}}
grid: {{objective.uniform: [0.1, 0.2, 0.3, 0.4, 0.5]}}
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
evaluations:
  probe: {{command: probe, train: "{folder}/train", test: "{folder}/test"}}
  neighbors: {{command: knn, train: "{folder}/train", test: "{folder}/test"}}
  svm: {{command: svm, train: "{folder}/train", test: "{folder}/test"}}
  color: {{command: score, {images}: "{folder}/test"}}
"""
CODE = """
import sys, time
from pathlib import Path
{imports}
study = read_study(Path(sys.argv[1]))
began = time.process_time()
plan = expand(study, Store(Path(sys.argv[2])))
print(len(plan.cells), time.process_time() - began)
"""
FIRST = """from study.expanding import expand
from study.file import read_study
from study.shelf import Shelf as Store"""
HEAD = """from pretint.study.expand import expand
from pretint.study.file import read_study
from pretint.study.cells import CellStore as Store"""


def main() -> None:
    """Run both in turn, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study_cells", description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="a checkout of the first edition")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("train", "test"):
            for label in "ab":
                (folder / part / label).mkdir(parents=True)
                for number in range(10):
                    generator = np.random.default_rng([number, part == "test"])
                    pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / part / label / f"{number}.png")
        sides = {"first": (asked.first, FIRST, "pictures"), "head": (Path(__file__).parents[1], HEAD, "images")}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(asked.rounds):
            for side, (code, imports, images) in sides.items():
                file = folder / f"{side}.yaml"
                file.write_text(STUDY.format(folder=folder, images=images))
                done = subprocess.run(
                    [sys.executable, "-c", CODE.format(imports=imports), str(file), str(folder / "studies")],
                    env={**os.environ, "PYTHONPATH": str(code)}, cwd=folder, capture_output=True, text=True, check=True,
                )  # fmt: skip
                count, took = done.stdout.split()
                seconds[side].append(float(took))
        medians = {side: statistics.median(values) for side, values in seconds.items()}
        print(f"{count} cells: first edition {medians['first']:.2f} s, here {medians['head']:.2f} s of CPU, ratio "
              f"{medians['first'] / medians['head']:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
