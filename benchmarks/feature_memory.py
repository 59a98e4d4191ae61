"""What memory extraction takes as images grow in number: ``python -m benchmarks.feature_memory``.

For each number of images a process of its own extracts the five stages of the smallest backbone from
generated images, to a scratch folder, and says the most memory that it and its worker had resident.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIDE = 32
RULE = "average:2048"


class Generated:
    """So many images, made when they are read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, shorter: int | None = None) -> Any:
        import numpy as np
        from PIL import Image

        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))

    def key(self, index: int) -> str:
        return f"{index:09}.png"

    def digest(self) -> str:
        from pretext.data.source import digest_of_keys

        return digest_of_keys(self)


def used(count: int) -> dict[str, float]:
    """MB that features take on disk, and the most that this process, and a worker, had resident."""
    import torch

    from pretext.engine.device import ComputeConfig
    from transfer.features import CacheSettings, View, extract
    from transfer.networks import open_network

    with tempfile.TemporaryDirectory() as scratch:
        source, view = Generated(count), View(SIDE)
        [features] = extract(
            [open_network("random:tiny")],
            source,
            view,
            [RULE],
            ComputeConfig(torch.device("cpu"), "fp32", workers=1),
            CacheSettings(Path(scratch)),
            (source, view),
            f"{count:,} images",
        )
    own, worker = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"disk": features.nbytes / 1e6, "own": own * 1024 / 1e6, "worker": worker * 1024 / 1e6}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="*", default=[5_000, 20_000])
    given = parser.parse_args()
    print(f"{'images':>10} {'features, MB':>13} {'peak resident, MB':>18} {'of a worker, MB':>16}")
    for count in given.images:
        command = [sys.executable, "-m", "benchmarks.feature_memory", "used", str(count)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        print(f"{count:>10,} {found['disk']:>13,.0f} {found['own']:>18,.0f} {found['worker']:>16,.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["used"]:
        print(json.dumps(used(int(sys.argv[2]))))
    else:
        main()
