"""Evaluations of many classes, each in a process of its own, whose peak of memory shows what they hold.

``python many_classes.py FOLDER COMMAND PROTOCOL MODE BRUTE`` evaluates on the images that ``write_images`` wrote to
FOLDER, and prints one line of JSON.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import transfer.evaluation
import transfer.probes.knn
import transfer.probes.linear
from pretext.data.bundled import photographs
from pretext.engine.memory import peak_memory
from transfer.evaluation import EvaluationTask
from transfer.metrics import Row
from transfer.probes.heads import Heads, Linear
from transfer.probes.knn import KnnSettings, knn
from transfer.probes.linear import ProbeSettings, probe
from transfer.probes.sweep import BestHead, FeatureKey, ProbeSweep
from transfer.protocols import PROTOCOLS, NearestProtocol

SIDE = 16
STAGE = "conv5"
CHANGES: dict[str, dict[str, Any]] = {
    "modern": {"rates": (1e-2, 1e-1), "poolings": ("mean", "average:256"), "epochs": 1, "least_steps": 16},
    "zhang2016": {"epochs": 1, "least_steps": 64},
}
"""Changed settings of protocols: fewer classifiers and steps."""


def write_images(folder: Path, classes: int, train: int, test: int) -> None:
    """Write a folder of tiles for each class: one place of a bundled photograph, with noise."""
    originals = [np.asarray(image, np.float32) for image in photographs().values()]
    rng = np.random.default_rng(classes)
    for label in range(classes):
        photograph = originals[int(rng.integers(len(originals)))]
        y, x = (int(rng.integers(length - SIDE)) for length in photograph.shape[:2])
        tiles = photograph[y : y + SIDE, x : x + SIDE] + rng.normal(0, 4, (train + test, SIDE, SIDE, 3))
        for part, part_tiles in (("train", tiles[:train]), ("test", tiles[train:])):
            class_folder = folder / part / f"n{label:08}"
            class_folder.mkdir(parents=True)
            for index, tile in enumerate(part_tiles.clip(0, 255).astype(np.uint8)):
                Image.fromarray(tile).save(class_folder / f"{index}.png", compress_level=1)


def observe(report: dict[str, Any], brute: bool) -> None:
    """Report what the evaluations of this process hold, and the score of the last stage by its definition.

    Args:
        report: gets "heads", the bytes of the classifiers that were trained at once, at most; "fit_classes", the
            number of classes with images to fit to; "labels", whether labels are those of the folders; if ``brute``
            "top1", computed from all scores at once.
        brute: whether to compute it.
    """
    init_sweep, make_row = ProbeSweep.__init__, transfer.probes.linear._row
    make_knn_rows = transfer.probes.knn.knn_rows

    def init(self: ProbeSweep, heads: dict[FeatureKey, Heads], *rest: Any) -> None:
        size = sum(2 * 4 * len(stack) * stack.classes * (stack.weight.shape[1] + 1) for stack in heads.values())
        report["heads"] = max(report["heads"], size)
        init_sweep(self, heads, *rest)

    def check_labels(task: EvaluationTask) -> None:
        report["fit_classes"] = len(np.unique(task.targets.train.labels[task.split.fit]))
        for source in (task.targets.train, task.targets.test):
            folder_labels = [int(source.key(index)[1:9]) for index in range(len(source))]
            report["labels"] = report.get("labels", True) and folder_labels == source.labels.tolist()

    def row(task: EvaluationTask, winner: BestHead) -> Row:
        check_labels(task)
        if brute:
            x = torch.from_numpy(np.array(task.test.matrix(*winner.cell), np.float64))
            logits = Linear(*(part.double() for part in winner.classifier)).scores(x)
            report["top1"] = float((logits.argmax(1).numpy() == task.targets.test.labels).mean())
        return make_row(task, winner)

    def knn_rows(task: EvaluationTask, protocol: NearestProtocol) -> list[Row]:
        check_labels(task)
        if brute:
            train, test = (np.array(part.matrix(STAGE, "mean"), np.float64) for part in (task.train, task.test))
            train, test = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, test))
            similarity = test @ train.T
            votes = np.zeros((len(test), len(task.targets.classes)))
            nearest = np.argsort(-similarity, 1, kind="stable")[:, : protocol.neighbors[0]]
            images = np.arange(len(test))[:, None]
            weights = np.exp(similarity[images, nearest] / protocol.temperature)
            np.add.at(votes, (np.broadcast_to(images, nearest.shape), task.targets.train.labels[nearest]), weights)
            report["top1"] = float((votes.argmax(1) == task.targets.test.labels).mean())
        return make_knn_rows(task, protocol)

    ProbeSweep.__init__ = init  # type: ignore[method-assign]
    transfer.probes.linear._row, transfer.probes.knn.knn_rows = row, knn_rows


def main(folder: str, command: str, name: str, mode: Any, brute: str) -> None:
    """Evaluate random weights, and print the report."""
    torch.set_num_threads(1)
    os.environ["PRETINT_CACHE"] = f"{folder}/cache"
    transfer.evaluation.reset_peak_memory = lambda device: None  # the peak of the whole evaluation is reported
    if name in CHANGES:
        PROTOCOLS[name] = replace(PROTOCOLS[name], **CHANGES[name])  # type: ignore[index]
    data: dict[str, Any] = {"train": f"{folder}/train", "test": f"{folder}/test", "workers": 0, "device": "cpu"}
    data |= {"stages": [STAGE], "size": SIDE, "out": f"{folder}/results"}
    report: dict[str, Any] = {"heads": 0}
    observe(report, brute == "brute")
    torch.randn(64, 64) @ torch.randn(64, 64)  # loads the libraries
    peak_before, start = peak_memory(), time.monotonic()
    if command == "probe":
        (result,) = probe(["random:tiny"], ProbeSettings(**data, protocol=name, mode=mode))
    else:
        (result,) = knn(["random:tiny"], KnnSettings(**data))
    report |= {
        "peak": peak_memory() - peak_before,
        "seconds": time.monotonic() - start,
        "features": result.cost.cache_bytes,
        "file": result.file,
        "score": result.rows[0].score.value,
        "n_holdout": result.n_holdout,
        "n_test": result.n_test,
    }
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
