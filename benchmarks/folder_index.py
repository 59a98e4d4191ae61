"""What a folder of ImageNet's size costs: ``python -m benchmarks.folder_index``.

Makes a tree of 1,281,167 empty files in 1,000 class folders, named as ImageNet's, and prints how long the
first scan and opening from the index take, and the memory of every process that has read every name and
label, beyond that of a process which only imports torch. Takes some minutes; removes the tree.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FILES, CLASSES = 1_281_167, 1_000


def make_tree(root: Path, files: int) -> None:
    """Empty files ``n00000000/n00000000_12345.JPEG``, spread evenly over the classes."""
    for label in range(CLASSES):
        name = f"n{1440764 + 9973 * label:08}"
        folder = root / name
        folder.mkdir()
        for number in range(label, files, CLASSES):
            os.close(os.open(folder / f"{name}_{number * 7919 % 100_000}.JPEG", os.O_CREAT | os.O_WRONLY))


def memory() -> tuple[float, float]:
    """Resident (RSS) and proportional (PSS: shared pages count in part) memory of this process, MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    values = {line.split(":")[0]: line.split()[1] for line in lines}
    return int(values["Rss"]) / 1e3, int(values["Pss"]) / 1e3


def only_torch() -> Any:
    """Memory of a process that imports torch."""
    import torch  # noqa: F401

    return memory()


def opened(root: str) -> Any:
    """Seconds to open, pictures, and whether it was a scan."""
    from pretext.pictures.folder import ClassFolder

    scans, scan = [], os.scandir
    os.scandir = lambda path: scans.append(path) or scan(path)  # type: ignore[assignment,func-returns-value]
    began = time.perf_counter()
    source = ClassFolder(root)
    source.digest()
    return time.perf_counter() - began, len(source), len(scans)


def used(root: str, workers: int) -> Any:
    """Memory of this process and of each worker, after it has read all names and labels."""
    from torch.utils.data import DataLoader, Dataset

    from pretext.pictures.folder import ClassFolder

    class Everything(Dataset[tuple[float, float]]):
        def __init__(self, source: ClassFolder) -> None:
            self.source = source

        def __getitem__(self, item: int) -> tuple[float, float]:
            assert sum(len(self.source.key(index)) for index in range(len(self.source)))
            assert self.source.labels.max() < CLASSES
            return memory()

    everything = Everything(ClassFolder(root))
    assert len(everything.source.labels)  # made here, they are shared
    loader = DataLoader(everything, batch_size=None, num_workers=workers, sampler=range(max(1, workers)))
    inside = list(loader)
    return [everything[0], *inside] if workers else inside


def measured(what: str, *arguments: object) -> Any:
    """What a function of this file returns in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.folder_index", what, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2, 8])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = f"{scratch}/cache"
        root = Path(scratch) / "tree"
        root.mkdir()
        began = time.perf_counter()
        make_tree(root, given.files)
        print(f"{given.files:,} empty files made in {time.perf_counter() - began:.0f} s")
        time.sleep(2.5)  # a tree this young would not be indexed
        for how in ("first", "again", "again"):
            seconds, pictures, scans = measured("opened", root)
            print(f"opened {how}: {seconds:.2f} s, {pictures:,} pictures, {scans:,} folders listed")
        size = sum(path.stat().st_size for path in Path(scratch).rglob("*.idx"))
        print(f"index: {size / 1e6:.1f} MB")
        rss, pss = measured("only_torch")
        print(f"import torch: {rss:.0f} MB resident, {pss:.0f} MB proportional; beyond that, after reading every name:")
        for workers in given.workers:
            own, *others = measured("used", root, workers)
            print(f"{workers} workers: main process {own[0] - rss:+.0f} MB resident, {own[1] - pss:+.0f} proportional")
            for worker in others:
                print(f"    worker {worker[0] - rss:+.0f} MB resident, {worker[1] - pss:+.0f} proportional")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("only_torch", "opened", "used"):
        function = {"only_torch": only_torch, "opened": opened, "used": used}[sys.argv[1]]
        print(json.dumps(function(*[int(text) if text.isdecimal() else text for text in sys.argv[2:]])))
    else:
        main()
