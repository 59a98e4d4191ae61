"""Numbers that must not move: the first edition and this checkout run the same jobs, and every number is compared.

    python -m benchmarks.same_numbers --data DATA [--only pretrain probe] [--threads 1 2] [--keep FOLDER]

A redesign that changes no behavior changes no number. This script checks out the first edition (``REFERENCE``) and
HEAD into two folders, runs the same commands by both in one environment, and prints a line a job: "identical" and how
many numbers that were, or the first that differs. Exit code 1 if one differs or a command fails. The commands are
written in the words of the first edition; ``RENAMED`` says what is written otherwise now, and the functions that read
numbers from files (``READERS``) are a pair for each kind of file whose layout has changed.

DATA is a folder with imagenette-mini/{train,val}, imagenet-sample and voc-mini/VOCdevkit. With ``--keep`` the numbers
of the first edition stay in FOLDER and are not computed again; compare on the same machine with the same torch.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.number_readers import READERS, Numbers
from pretext.files import write_atomically

REFERENCE = "c427e22"
"""The last commit of the first edition, that with its faults mended."""

RENAMED = {
    "pictures": "images",
    "picture": "image",
    "colour": "color",
    "neighbour": "neighbor",
    "labelled": "labeled",
    "centre": "center",
    "learnt": "learned",
    "synchronised": "synchronized",
    "objective.name labels": "method.name supervised",
}
"""Parts of names of the first edition that are written otherwise in HEAD: in options, settings, columns and values."""


def rename(text: str) -> str:
    """Write a text of the first edition in the words of HEAD."""
    for old, new in RENAMED.items():
        text = text.replace(old, new)
    return text


DIGEST = re.compile(r"\.[0-9a-f]{6}(?=/)")
"""The end of a folder's name that says which settings it is for: the editions name settings otherwise."""


class Job(NamedTuple):
    """Commands, one after the other in a folder of their own edition, and the files whose numbers are compared."""

    group: str
    name: str
    commands: tuple[str, ...]
    outputs: tuple[str, ...]
    """Patterns below the folder; their ending says how they are read, see ``READERS``."""


def pretrain_jobs() -> Iterator[Job]:
    """200 steps of three recipes, and the network that the other groups evaluate."""
    few = "--machine.workers 0 --machine.device cpu --machine.checkpoint_every 100 --machine.evaluate_every 100"
    imagenette = "--data.source {data}/imagenette-mini/train"
    recipes = {
        "demo": ("demo", "--data.source bundled"),
        "laptop": ("laptop", imagenette),
        "labels": ("laptop", f"{imagenette} --objective.name labels"),
        "regression": ("laptop_l2", imagenette),
        "hints": ("laptop_hints", f"{imagenette} --training.batch_size 8"),  # a large network
        "paper_alexnet": (
            "paper_alexnet",
            f"{imagenette} --crop.size 96 --training.batch_size 1 --training.milestones [100,150] --data.holdout 16 "
            "--objective.prior_pictures 200 --backbone.init_pictures 20",
        ),
    }
    for name, (recipe, words) in recipes.items():
        command = f"pretrain {name} --config {{configs}}/pretext/{recipe}.yaml {words} --training.steps 200 {few}"
        yield Job("pretrain", name, (command,), (f"{name}/journal.jsonl", f"{name}/checkpoints/*.pt"))


def evaluation_jobs() -> Iterator[Job]:
    """Every frozen protocol on the laptop's network."""
    sets = "--train {data}/imagenette-mini/train --test {data}/imagenette-mini/val --device cpu --workers 0"
    augmented = "--mode augmented --stages+ conv3 --fraction 0.1"  # with all labels each takes 5 minutes
    cases = {
        "probe modern": "probe laptop",
        "probe modern augmented": f"probe laptop {augmented}",
        "probe zhang2016": "probe laptop --protocol zhang2016",
        "probe zhang2016 augmented": f"probe laptop --protocol zhang2016 {augmented}",
        "probe splitbrain": "probe laptop --protocol splitbrain",
        "probe goyal2019": "probe laptop --protocol goyal2019",
        "probe logistic": "probe laptop --protocol logistic",
        "probe, a tenth of the labels": "probe laptop --fraction 0.1",
        "probe at the labels' network": "probe labels",
        "knn": "knn laptop",
        "svm": "svm laptop --fraction 0.1",
        "svm low-shot": "svm laptop --protocol voc07_svm_lowshot --stages+ conv3 --reference false",
    }
    for name, words in cases.items():
        out = name.replace(" ", "-").replace(",", "").replace("'", "")
        yield Job("evaluate", name, (f"{words} {sets} --cache features --out {out}",), (f"{out}/*.json",))


def finetune_jobs() -> Iterator[Job]:
    """The three tasks, plain and rescaled, and Fast R-CNN with given proposals."""
    voc = "voc:{year}:{part}:{{data}}/voc-mini/VOCdevkit"
    train, test = voc.format(year=2007, part="train"), voc.format(year=2007, part="val")
    masks, masks_test = voc.format(year=2012, part="train"), voc.format(year=2012, part="val")
    few = "--training.steps 30 --training.warmup 5 --machine.workers 0 --machine.device cpu --reference false"
    cases = {
        "classify": f"--config {{configs}}/transfer/laptop_classify.yaml --train {train} --test {test}",
        "detect": f"--config {{configs}}/transfer/laptop_detect.yaml --train {train} --test {test}",
        "segment": f"--config {{configs}}/transfer/laptop_segment.yaml --train {masks} --test {masks_test}",
        "detect fast": f"--config {{configs}}/transfer/laptop_detect.yaml --train {train} --test {test} "
        "--head.form fast --head.neck conv4 --proposals {data}/proposals.npz --test_proposals {data}/proposals.npz",
    }
    for name, words in cases.items():
        for network in ("laptop", "rescaled:laptop"):
            out = f"tuned-{name.replace(' ', '-')}-{network.split(':')[0]}"
            command = f"finetune {name.split()[0]} {network} {words} {few} --out {out}"
            yield Job("finetune", f"{name} {network}", (command,), (f"{out}/*.json", f"{out}/**/*.pt"))


def weights_jobs() -> Iterator[Job]:
    """Imports of every published layout, and colors by what colors."""
    for name in ("eccv16", "siggraph17", "vissl_alexnet", "vissl_resnet"):
        commands = [f"import {{data}}/{name}.pth {name}"]
        if not name.startswith("vissl"):
            commands.append(
                f"colorize {name} {{data}}/imagenet-sample/images/n014*.JPEG --out {name}-colors --device cpu"
            )
        yield Job("weights", name, tuple(commands), (f"{name}/checkpoints/*.pt", f"{name}-colors/n*.png"))


def other_jobs() -> Iterator[Job]:
    """Scores, and a small study."""
    models = "laptop regression hints@hints=10 gray random"
    yield Job(
        "scores",
        "score",
        (f"score {models} --pictures {{data}}/imagenet-sample --most 100 --size 96 --out scores --format csv",),
        ("stdout.csv",),
    )
    yield Job("study", "study", ("study {data}/study-{edition}.yaml --name study",), ("studies/*/report.csv",))


def settings_jobs() -> Iterator[Job]:
    """What 40 command lines resolve to; nothing is run."""
    here = Path(__file__).parents[1] / "configs"
    for file in sorted((here / "pretext").glob("*.yaml")):
        if "\nmethod:" in file.read_text():
            continue  # the first edition had one method
        yield Job("settings", f"pretrain {file.stem}", (f"pretrain x --config {{configs}}/pretext/{file.name} "
                  "--data.source x --seed 3 --print_config",), ("stdout.yaml",))  # fmt: skip
    for file in sorted((here / "transfer").glob("*.yaml")):
        task = file.stem.split("_")[1]
        yield Job("settings", f"finetune {file.stem}", (f"finetune {task} x --config {{configs}}/transfer/{file.name} "
                  "--train a --test b --print_config",), ("stdout.yaml",))  # fmt: skip
    cases = (
        *(f"probe x --protocol {name}" for name in ("modern", "zhang2016", "splitbrain", "goyal2019", "logistic")),
        "probe x --mode both --fraction 0.01", "knn x --seed 1", "svm x", "svm x --protocol voc07_svm_lowshot",
        "score x --pictures y", "colorize x y --temperature 0.5", "pack x y", "export x y.onnx --format onnx",
        "compare x y", "table x",
    )  # fmt: skip
    for words in cases:
        yield Job("settings", words, (f"{words} --print_config",), ("stdout.yaml",))


STUDY = """
about: Do the numbers move?
settings:
  data.source: "{data}/imagenette-mini/train"
  crop.size: 32
  objective: {stride: 4, prior_pictures: 50}
  training: {steps: 20, batch_size: 16, warmup: 2}
  machine: {workers: 0, device: cpu}
variants:
  random: {network: random}
  L2: {objective.name: regression}
  rebalanced:
baseline: random
seeds: [0, 1]
evaluations:
  probe: {command: probe, size: 32, train: "{data}/imagenette-mini/train", test: "{data}/imagenette-mini/val"}
  neighbors: {command: knn, size: 32, train: "{data}/imagenette-mini/train", test: "{data}/imagenette-mini/val"}
  color: {command: score, pictures: "{data}/imagenette-mini/val", size: 32, most: 60}
places: {data: DATA}
"""

PREPARE = """
import importlib.util, pathlib, sys
import numpy as np, torch
try:
    from transfer.labels.proposals import write_proposals, windows
except ImportError:  # of the first edition
    from transfer.voc.proposals import write_proposals, windows
root, data = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
spec = importlib.util.spec_from_file_location("layouts", root / "tests/pretext/weights/test_importing.py")
layouts = importlib.util.module_from_spec(spec); spec.loader.exec_module(layouts)
for name in ("eccv16", "siggraph17", "vissl_alexnet", "vissl_resnet"):
    torch.manual_seed(0)
    state = getattr(layouts, name)()
    nested = {"classy_state_dict": {"base_model": {"model": {"trunk": state}}}} if "vissl" in name else state
    torch.save(nested, data / f"{name}.pth")
generator = np.random.default_rng(0)
stems = [file.stem for file in (data / "voc-mini/VOCdevkit/VOC2007/JPEGImages").glob("*.jpg")]
boxes = {}
for stem in sorted(stems):
    corner, size = generator.uniform(0, 120, (200, 2)), generator.uniform(20, 200, (200, 2))
    boxes[stem] = np.concatenate((corner, corner + size), 1).astype(np.float32)
write_proposals(data / "proposals.npz", boxes)
"""
"""Run by the first edition: weights in the published layouts, of random values, and proposals."""


def check_out(commit: str, folder: Path) -> None:
    """The tracked files of a commit."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    root = Path(__file__).parents[1]
    archive = subprocess.Popen(["git", "-C", root, "archive", commit], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", folder], stdin=archive.stdout, check=True)
    assert archive.wait() == 0, commit


class Edition:
    """An edition that runs commands. Its process has imported torch and the like, and forks for each command.

    ``cpu_seconds`` is what the last command took, on all cores and with the processes that it started.

    Args:
        code: the folder of its code.
        place: the folder in which its commands run.
        threads: for torch.
    """

    def __init__(self, code: Path, place: Path, threads: int) -> None:
        self.code, self.place, self.cpu_seconds = code, place, 0.0
        place.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
            "PRETINT_CACHE": str(place / "cache"), "COLUMNS": "200",
        }  # fmt: skip
        command = [sys.executable, "-u", "-c", SERVER]
        self._process = subprocess.Popen(
            command, cwd=place, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        """Run a command; return its exit code, its output and its error output.

        Args:
            argv: the words after ``pretint``; or -c and a program in Python, which is run instead.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(argv) + "\n")
        self._process.stdin.flush()
        code, cpu = self._process.stdout.readline().split()
        self.cpu_seconds = float(cpu)
        return int(code), (self.place / "stdout").read_text(), (self.place / "stderr").read_text()

    def close(self) -> None:
        """End its process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


SERVER = """
import json, os, runpy, sys, traceback
import PIL.Image, scipy.stats, sklearn.svm, skimage.data, timm, torch, torchvision  # what takes seconds
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["pretint", *json.loads(line)]
        code = 0
        try:
            if sys.argv[1] == "-c":
                exec(sys.argv[2], {})
            else:
                runpy.run_module("pretint", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status, usage = os.wait4(pid, 0)
    print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime)
"""


def run_job(job: Job, edition: Edition, data: Path, reference: bool) -> Numbers:
    """The numbers of a job; the error alone, where a command fails."""
    place = edition.place
    for words in job.commands:
        command = [
            word.format(data=data, configs=edition.code / "configs", edition="first" if reference else "head")
            for word in shlex.split(words if reference else rename(words))
        ]
        code, shown, errors = edition.run(command)
        for output in job.outputs:
            if output.startswith("stdout"):
                (place / output).write_text(shown)
        if code:
            last = (errors.strip() or shown.strip()).splitlines()[-1:]
            return {"error": f"{shlex.join(command)}: exit {code}: {' '.join(last)}"}
    return read_outputs(job, place, reference)


def read_outputs(job: Job, place: Path, reference: bool) -> Numbers:
    """The numbers that a job has left."""
    numbers: Numbers = {}
    for output in job.outputs:
        read = READERS[Path(output).suffix][0 if reference else 1]
        for file in sorted(place.glob(output)):
            inside = "" if file.suffix == ".json" else f"{file.relative_to(place)} "  # results are named by digests
            numbers |= {f"{inside}{key}": value for key, value in read(file).items()}
    return numbers


def verdict(old: Numbers, new: Numbers) -> str:
    """A line's end: identical, and how many numbers that were; or what is not."""
    for side, numbers in (("first edition", old), ("HEAD", new)):
        if "error" in numbers:
            return f"FAILED, {side}: {numbers['error']}"
    if not old:
        return "FAILED: no numbers were found"
    wrong = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    if not wrong:
        return f"identical: {len(old):,} numbers"
    first = min(wrong)
    return f"DIFFERENT: {len(wrong):,} of {len(old):,}; {first}: {old.get(first)} is now {new.get(first)}"


def prepare(folder: Path, code: Path, source: Path) -> Path:
    """The folder of data that both editions read: links to the images, and files that are made here."""
    data = folder / "data"
    if not (data / "study-head.yaml").exists():
        data.mkdir(exist_ok=True)
        for name in ("imagenette-mini", "imagenet-sample", "voc-mini"):
            if not (data / name).exists():
                (data / name).symlink_to((source / name).resolve())
        environment = {**os.environ, "PYTHONPATH": f"{code}:{code / 'tests'}"}
        subprocess.run([sys.executable, "-c", PREPARE, code, data], env=environment, cwd=code, check=True)
        (data / "study-first.yaml").write_text(STUDY.replace("DATA", str(data)))
        (data / "study-head.yaml").write_text(rename(STUDY).replace("DATA", str(data)))
    return data


def main() -> int:
    """Run all jobs by both editions and compare."""
    jobs = [
        job
        for make in (settings_jobs, pretrain_jobs, evaluation_jobs, finetune_jobs, weights_jobs, other_jobs)
        for job in make()
    ]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_numbers", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of images, see above")
    parser.add_argument("--only", nargs="*", choices=sorted({job.group for job in jobs}), help="groups of jobs")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--commit", default="HEAD", help="what is compared with the first edition")
    parser.add_argument("--keep", type=Path, help="folder in which the first edition's numbers stay")
    settings = parser.parse_args()
    folder = (settings.keep or Path(tempfile.mkdtemp(prefix="same-numbers-"))).resolve()
    commit = subprocess.run(
        ["git", "-C", Path(__file__).parents[1], "rev-parse", "--short", settings.commit],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    sides = {REFERENCE: folder / REFERENCE / "code", commit: folder / commit / "code"}
    for name, code in sides.items():
        check_out(name, code)
    data = prepare(folder, sides[REFERENCE], settings.data)
    wrong = 0
    wanted = set(settings.only or {job.group for job in jobs})
    wanted |= {"pretrain"} if wanted & {"evaluate", "finetune", "scores"} else set()  # which use its networks
    for threads in settings.threads:
        editions = {name: Edition(code, folder / name / f"threads-{threads}", threads) for name, code in sides.items()}
        for job in jobs:
            if job.group not in wanted or (job.group == "settings" and threads != settings.threads[0]):
                continue
            sets: list[Numbers] = []
            for name, edition in editions.items():
                saved = edition.place / f"{job.group}-{job.name.replace(' ', '-').replace('/', '-')}.numbers.json"
                if not saved.exists():
                    write_atomically(saved, json.dumps(run_job(job, edition, data, name == REFERENCE)).encode())
                numbers = json.loads(saved.read_text())
                # Kept in its own words, of which HEAD's may change again.
                sets.append({rename(DIGEST.sub("", key)): rename(value) for key, value in numbers.items()})
            line = verdict(*sets)
            wrong += not line.startswith("identical")
            print(f"{job.group:9} {job.name:40} {threads} threads  {line}", flush=True)
        for edition in editions.values():
            edition.close()
    print(f"{REFERENCE} and {commit}: {'identical' if not wrong else f'{wrong} jobs differ or failed'}")
    if settings.keep is None:
        shutil.rmtree(folder)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
