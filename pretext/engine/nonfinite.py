"""What is kept of a run whose loss is no longer a number: enough to compute that step again."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from pretext.data.batches import Examples
from pretext.engine import distributed
from pretext.engine.run import newest_checkpoint
from pretext.engine.settings import TrainingSettings
from pretext.errors import UserError
from pretext.files import write_atomically

Evidence = dict[str, Any]


def keep_evidence(
    run: Path, step: int, loss: float, norm: float, training: TrainingSettings, samples: Examples, settings: Any
) -> Path:
    """Write ``nonfinite/STEP`` in the run.

    evidence.json    the step, its samples and their images, and how they were shared out
    settings.yaml    the run's
    checkpoint.pt    the newest checkpoint before that step

    Returns:
        The folder.
    """
    folder = run / "nonfinite" / f"{step:08d}"
    first = (step - 1) * training.batch_size
    seen = [samples.locate(t) for t in range(first, first + training.batch_size)]
    pieces = training.micro_batch or training.share(distributed.world())
    evidence: Evidence = {
        "step": step,
        "loss": str(loss),
        "gradient_norm": str(norm),
        "samples": [first, first + training.batch_size],
        "images": [samples.parts[part].key(index) for part, index in seen],
        "processes": distributed.world(),
        "micro_batch": pieces * distributed.world() if training.batch_norm == "synchronized" else pieces,
    }
    write_atomically(folder / "evidence.json", json.dumps(evidence, indent=1).encode())
    write_atomically(folder / "settings.yaml", yaml.safe_dump(settings, sort_keys=False).encode())
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None, "a run has a checkpoint before its first step"
    copy = folder / "checkpoint.pt"
    copy.unlink(missing_ok=True)
    try:
        os.link(checkpoint, copy)  # no second copy on the disk; it stays when the run drops its own
    except OSError:  # a file system without links
        write_atomically(copy, checkpoint.read_bytes())
    return folder


def read_evidence(folder: Path) -> Evidence:
    """What ``keep_evidence`` wrote.

    Raises:
        UserError: there is none.
    """
    path = folder / "evidence.json"
    try:
        evidence = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(evidence["step"], int) and isinstance(evidence["micro_batch"], int)
        assert isinstance(evidence["images"], list) and evidence["step"] > 0
        assert evidence["micro_batch"] > 0 and len(evidence["images"]) % evidence["micro_batch"] == 0
        assert evidence["samples"][1] == evidence["step"] * len(evidence["images"])
    except OSError as error:
        raise UserError(f"{folder}: nothing to replay (no readable evidence.json); name RUN/nonfinite/STEP") from error
    except (ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
        raise UserError(f"{path}: not what a run writes; has the file been edited?") from error
    return dict(evidence)
