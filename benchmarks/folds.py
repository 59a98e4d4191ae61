"""Folds and few labels as list files, and results pooled over the folds.

    python -m benchmarks.folds write ucmerced lists --folds 5 --shots 5 20 80
    python -m benchmarks.folds pool studies random satellite-0 satellite-1 satellite-2 satellite-3 satellite-4

``write`` deals the images of each class to the folds by the SHA-256 of their names; lists/fold0/test.txt has fold 0,
lists/fold0/train-5.txt five images a class of the others, the first ones in the order of the SHA-256. With --folds 0
all images are for training, in lists/train-5.txt. ``pool`` reads the results of studies, one for each fold: each image
is a test image of one fold, so a number is over all images.
"""

import argparse
import csv
import hashlib
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pretext.data import open_labeled
from pretext.files import write_atomically
from pretint.study.cells import PLAN, CellStore, StudyCell, read_plan
from transfer.bootstrap import difference, estimate_mean
from transfer.metrics import Top1Accuracy
from transfer.results import read_result


def write(images: str, lists: Path, folds: int, shots: Sequence[int]) -> None:
    """Write the lists of a folder of classes."""
    source = open_labeled(images)
    by_class: dict[int, list[str]] = defaultdict(list)
    for index, label in enumerate(source.labels.tolist()):
        by_class[label].append(source.key(index))
    for names in by_class.values():
        names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    for fold in range(max(1, folds)):
        folder = lists / f"fold{fold}" if folds else lists
        train = {label: [name for at, name in enumerate(names) if not folds or at % folds != fold]
                 for label, names in by_class.items()}  # fmt: skip
        parts = {f"train-{count}.txt": {label: names[:count] for label, names in train.items()} for count in shots}
        if folds:
            parts["test.txt"] = {label: names[fold::folds] for label, names in by_class.items()}
        for name, part in parts.items():
            folder.mkdir(parents=True, exist_ok=True)
            lines = [f"{key} {label}\n" for label, keys in part.items() for key in keys]
            write_atomically(folder / name, "".join(lines).encode())


def pool(folder: Path, studies: Sequence[str], baseline: str) -> list[list[object]]:
    """Return a row for each evaluation and variant: accuracy and difference from the baseline, with intervals.

    Of several stages each fold has the one that did best on its held-out training images. Outcomes of several seeds
    are averaged for each image first.

    Args:
        folder: the folder of studies.
        studies: the studies, one for each fold.
        baseline: the variant that others are compared with.
    """
    shelf, plans = CellStore(folder), [read_plan(folder / name / PLAN) for name in studies]
    rows: list[list[object]] = []
    for evaluation in plans[0].evaluations:
        means = {
            variant: np.concatenate([_right(shelf, plan.of(variant, evaluation)) for plan in plans])
            for variant in plans[0].variants
        }
        for variant, mean in means.items():
            estimates = (*estimate_mean(mean), *difference(mean, means[baseline]))
            seeds = len(plans[0].of(variant, evaluation))
            rows.append([evaluation, variant, seeds, len(mean), *[round(100 * number, 2) for number in estimates]])
    return rows


def _right(shelf: CellStore, cells: Sequence[StudyCell]) -> NDArray[np.float64]:
    """Return for each test image the share of the seeds that are right."""
    each = []
    for cell in cells:
        (result,) = (read_result(file) for file in shelf.results(cell))
        (outcome,) = (result.row(result.best) if result.best else result.rows[0]).outcomes
        assert isinstance(outcome, Top1Accuracy)
        each.append(outcome.correct)
    mean: NDArray[np.float64] = np.mean(each, 0)
    return mean


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Folds and few labels as list files; results pooled over the folds.")
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="write lists")
    writing.add_argument("images", help="a folder of class folders")
    writing.add_argument("lists", type=Path, help="where the lists go")
    writing.add_argument("--folds", type=int, default=5)
    writing.add_argument("--shots", type=int, nargs="+", required=True, help="training images a class")
    pooling = commands.add_parser("pool", help="print results as CSV")
    pooling.add_argument("folder", type=Path, help="the folder of studies")
    pooling.add_argument("baseline", help="the variant that others are compared with")
    pooling.add_argument("studies", nargs="+", help="the studies, one for each fold")
    given = parser.parse_args()
    if given.command == "write":
        write(given.images, given.lists, given.folds, given.shots)
    else:
        table = csv.writer(sys.stdout)
        table.writerow(["evaluation", "variant", "seeds", "n", "accuracy", "low", "high", "difference",
                        "difference low", "difference high"])  # fmt: skip
        table.writerows(pool(given.folder, given.studies, given.baseline))


if __name__ == "__main__":
    main()
