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
from collections.abc import Callable
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
            os.close(os.open(folder / f"{name}_{number // CLASSES * 17 + 7}.JPEG", os.O_CREAT | os.O_WRONLY))


def memory() -> tuple[float, float]:
    """Resident (RSS) and proportional (PSS: shared pages count in part) memory of this process, MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    values = {line.split(":")[0]: line.split()[1] for line in lines}
    return int(values["Rss"]) / 1e3, int(values["Pss"]) / 1e3


def opened(root: str) -> Any:
    """Seconds to open, images, how many folders were listed, and MB resident that opening added."""
    from pretext.data.folder import ClassFolder

    scans, scan = [], os.scandir
    os.scandir = lambda path: scans.append(path) or scan(path)  # type: ignore[assignment,func-returns-value]
    before, began = memory()[0], time.perf_counter()
    source = ClassFolder(root)
    source.digest()
    return time.perf_counter() - began, len(source), len(scans), memory()[0] - before


def used(root: str, workers: int) -> Any:
    """Memory of this process and of each worker after all names and labels are read; without a root, of torch alone."""
    import warnings

    from torch.utils.data import DataLoader, Dataset

    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)

    class Everything(Dataset[tuple[float, float]]):
        def __init__(self) -> None:
            if root:
                from pretext.data.folder import ClassFolder

                self.source = ClassFolder(root)
                assert len(self.source.labels)  # made here, they are shared

        def __getitem__(self, item: int) -> tuple[float, float]:
            if root:
                assert sum(len(self.source.key(index)) for index in range(len(self.source)))
                assert self.source.labels.max() < CLASSES
            return memory()

    everything = Everything()
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
            seconds, images, scans, added = measured("opened", root)
            did = f"{scans:,} folders listed, {added:+.0f} MB resident"
            print(f"opened {how}: {seconds:.2f} s, {images:,} images, {did}")
        size = sum(path.stat().st_size for path in Path(scratch).rglob("folders/*"))
        print(f"index: {size / 1e6:.1f} MB")
        print(
            "MB beyond a process that only imports torch, after reading every name and label, resident (proportional):"
        )
        for workers in given.workers:
            plain, full = measured("used", "", workers), measured("used", root, workers)
            added = [(rss - a, pss - b) for (rss, pss), (a, b) in zip(full, plain, strict=True)]
            shown = [f"{rss:+.0f} ({pss:+.0f})" for rss, pss in added]
            print(
                f"{workers} workers: main process {shown[0]}" + (f"; workers {', '.join(shown[1:])}" if workers else "")
            )


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("opened", "used"):
        functions: dict[str, Callable[..., object]] = {"opened": opened, "used": used}
        print(json.dumps(functions[sys.argv[1]](*[int(text) if text.isdecimal() else text for text in sys.argv[2:]])))
    else:
        main()
