"""Speed of the first edition beside HEAD: ``python -m benchmarks.editions --data DATA``.

Runs the same commands by both in turn, as ``benchmarks.same_numbers`` does, and compares the CPU seconds of both, round
by round. Prints a line a job: the median of each edition, and the ratio (above 1: HEAD is faster) with its least and
greatest, and an interval of its mean. Writes results/scripts/editions.csv. DATA is as for same_numbers. The folder of
ImageNet's size is made of empty files, takes a minute, and is removed at the end.
"""

import argparse
import csv
import io
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from scipy.stats import t

from benchmarks.__main__ import machine
from benchmarks.folder_index import FILES, make_tree
from benchmarks.same_numbers import REFERENCE, Edition, check_out, rename
from pretext.files import write_atomically

FEW = "--machine.workers 0 --machine.device cpu --machine.checkpoint_every 100000 --machine.evaluate_every 100000"
SETS = "--train {data}/imagenette-mini/train --test {data}/imagenette-mini/val --device cpu --workers 0"
OPEN = """
import time
from pretext.{package}.folder import ClassFolder
began = time.process_time()
ClassFolder({tree!r}).digest()
print(time.process_time() - began)
"""
"""Opens a folder, and prints the CPU seconds: imports, which every command has, take longer."""

PREPARED = (
    "pretrain net --config {configs}/pretext/laptop.yaml --data.source {data}/imagenette-mini/train "
    f"--training.steps 20 --training.warmup 2 {FEW}",
    f"probe net {SETS} --cache features --out first",
)
"""Commands before the first round: a network, and its features."""
JOBS = {
    "40 steps of training, laptop": "pretrain step-{round} --config {configs}/pretext/laptop.yaml --data.source "
    f"{{data}}/imagenette-mini/train --training.steps 40 --training.warmup 2 {FEW}",
    "probe of all stages, the full grid, from cached features": f"probe net {SETS} --cache features --out p{{round}}",
    "colorizing a 12-megapixel JPEG": "colorize net {photograph} --out colors-{round} --device cpu",
}


def run(edition: Edition, words: str, **values: object) -> float:
    """Run a command, and return its CPU seconds."""
    first = edition.code.parent.name == REFERENCE
    text = (words if first else rename(words)).format(configs=edition.code / "configs", **values)
    execute(edition, text.split())
    return edition.cpu_seconds


def execute(edition: Edition, argv: list[str]) -> str:
    """Run what ``Edition.run`` takes, and return its output."""
    code, shown, errors = edition.run(argv)
    if code:
        raise SystemExit(f"{edition.code}: {' '.join(argv)}: exit {code}: {errors[-500:]}")
    return shown


def summary(what: str, old: list[float], new: list[float]) -> dict[str, object]:
    """A row of the table: medians, and the ratios of the rounds with a 95% t interval of their mean."""
    ratios = [before / after for before, after in zip(old, new, strict=True)]
    mean, count = statistics.fmean(ratios), len(ratios)
    reach = float(t.ppf(0.975, count - 1)) * statistics.stdev(ratios) / count**0.5
    return {
        "what": what, "first_s": f"{statistics.median(old):.3f}", "head_s": f"{statistics.median(new):.3f}",
        "ratio": f"{statistics.median(ratios):.3f}", "ratio_least": f"{min(ratios):.3f}",
        "ratio_greatest": f"{max(ratios):.3f}", "mean_low": f"{mean - reach:.3f}", "mean_high": f"{mean + reach:.3f}",
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.editions", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of images, see same_numbers")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--files", type=int, default=FILES, help="in the large folder; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "scripts" / "editions.csv")
    settings = parser.parse_args()
    command = ["git", "-C", Path(__file__).parents[1], "rev-parse", "--short", settings.commit]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    data = settings.data.resolve()
    taken: dict[str, tuple[list[float], list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="editions-") as scratch:
        folder = Path(scratch)
        editions = []
        for name in (REFERENCE, commit):
            check_out(name, folder / name / "code")
            editions.append(Edition(folder / name / "code", folder / name / "work", settings.threads))
        photograph, tree = folder / "photograph.jpg", folder / "tree"
        with Image.open(min((data / "imagenet-sample").rglob("*.[jJ]*"))) as image:
            image.convert("RGB").resize((4000, 3000), Image.Resampling.LANCZOS).save(photograph, quality=92)
        if settings.files:
            tree.mkdir()
            make_tree(tree, settings.files)
        for edition in editions:
            for words in PREPARED:
                run(edition, words, data=data)
        for number in range(settings.rounds + 1):  # the first is not counted
            for at in (0, 1) if number % 2 else (1, 0):
                edition = editions[at]
                seconds = {
                    what: run(edition, words, data=data, photograph=photograph, round=number)
                    for what, words in JOBS.items()
                }
                if settings.files:
                    what = f"opening a folder of {settings.files:,} images, from its index"
                    program = OPEN.format(package="data" if at else "pictures", tree=str(tree))
                    seconds[what] = float(execute(edition, ["-c", program]))
                for what, value in seconds.items():
                    if number:
                        taken.setdefault(what, ([], []))[at].append(value)
            print(f"round {number} of {settings.rounds}", file=sys.stderr, flush=True)
        for edition in editions:
            edition.close()
    about = {
        "rounds": settings.rounds, "threads": settings.threads, "first": REFERENCE, "head": commit,
        "machine": machine(torch.device("cpu")), "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__,
    }  # fmt: skip
    rows = [summary(what, *both) | about for what, both in taken.items()]
    for row in rows:
        print(
            f"{row['what']}: {row['first_s']} s of CPU in the first edition, {row['head_s']} s now; "
            f"{row['ratio']} times as fast ({row['ratio_least']} to {row['ratio_greatest']}; "
            f"mean {row['mean_low']} to {row['mean_high']})"
        )
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(settings.results, buffer.getvalue().encode())


if __name__ == "__main__":
    main()
