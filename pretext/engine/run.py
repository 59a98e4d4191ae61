"""A run: a directory with everything that a job wrote. The job can be resumed from it.

settings.yaml            all settings, resolved
journal.jsonl            losses, validations and events, one record per line
tensorboard/             the same as curves
checkpoints/00001500.pt  the state after step 1500; the newest two are kept
samples/00001500.png     held-out images: gray, colored, original
nonfinite/00001500/      if the loss became NaN at step 1500: the files to compute that step again
"""

import functools
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pretext.data.batches import AugmentedDataset
from pretext.engine import distributed
from pretext.engine.checkpoint import DamagedFileError, check_zip, is_zip, save_checkpoint
from pretext.engine.progress import say_once
from pretext.engine.trainer import TrainingSettings
from pretext.errors import OldFormatError, UserError
from pretext.files import write_atomically
from pretext.store import LOCK, lock, seal, unseal
from pretext.yaml_reader import read_yaml

_KEPT = 2
_DAMAGED = ".damaged"
Settings = dict[str, Any]


@contextmanager
def lock_run(
    folder: Path, settings: Settings, free: Collection[str] = (), defaults: Settings | None = None
) -> Iterator[None]:
    """Create a run or open it again, and lock it: no other process can write to it meanwhile.

    Args:
        folder: the run's folder; created if it does not exist.
        settings: the settings as nested plain values. If the run has a checkpoint, they must be the settings that
            the run began with, except for ``free``.
        free: names, with dots, of settings and groups that may change.
        defaults: values of the settings that did not exist yet when the run began.

    Raises:
        UserError: the folder is not a run, the run began with other settings, or another process uses it.
    """
    path = folder / "settings.yaml"
    if (
        folder.exists()
        and not path.exists()  # a failed start of a run may leave hidden files
        and not (folder.is_dir() and all(entry.name.startswith(".") for entry in folder.iterdir()))
    ):
        raise UserError(f"{folder}: exists, but is no run of Pretint; choose a new folder for the run")
    with lock(folder / LOCK, "working on this run"):
        if path.exists() and newest_checkpoint(folder):  # without a checkpoint nothing depends on the old settings
            different = _differences(_completed(run_settings(folder), defaults or {}), settings, free)
            if different:
                more = f"; and {len(different) - 5} more" if len(different) > 5 else ""
                raise UserError(
                    f"{folder}: this run began with other settings ({'; '.join(different[:5])}{more}); "
                    "use those to resume it, or choose a new folder"
                )
        write_atomically(path, yaml.safe_dump(settings, sort_keys=False).encode())
        yield


def run_settings(folder: Path, needed: Mapping[str, type | tuple[type, ...]] | None = None) -> Settings:
    """Return the settings of a run.

    Args:
        folder: the run's folder.
        needed: the settings that the caller reads, by GROUP.NAME, with the type (or types) that each must have.

    Raises:
        UserError: there is no run in ``folder``, or one of the needed settings is missing.
    """
    try:
        settings = read_yaml(folder / "settings.yaml")
    except UserError as error:
        raise UserError(
            f"{folder}: not a run (it has no readable settings.yaml); start one with pretint pretrain"
        ) from error
    if not isinstance(settings, dict):
        raise UserError(f"{folder}: settings.yaml holds no settings; restore the file if it was edited")
    objective = settings.get("objective")
    if "colour" in settings or (isinstance(objective, dict) and "prior_pictures" in objective):  # a fine-tuning
        raise OldFormatError(
            f"{folder}: a run of Pretint 0.1.0; this version cannot read its settings and checkpoints; train it "
            "again, or use 0.1.0"
        )
    for name, kind in (needed or {}).items():
        group, _, key = name.partition(".")
        values = settings.get(group)
        if not isinstance(values, dict) or not isinstance(values.get(key), kind):
            raise UserError(f"{folder}: settings.yaml holds no {name}; restore the file if it was edited")
    return settings


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run, if it has any, without checking whether it is damaged."""
    return max(_checkpoints(folder), default=None)


def newest_undamaged_checkpoint(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint of a run, if it has any, and print a line for each damaged one.

    Raises:
        UserError: all of them are damaged.
    """
    damages: list[str] = []
    for path in sorted(_checkpoints(folder), reverse=True):
        try:
            damage = checkpoint_damage(path)
        except FileNotFoundError:  # the run is still training, and has removed it
            continue
        if not damage:
            for line in damages:
                say_once(f"{line}; {path.name}, the checkpoint before it, is used")
            return path
        damages.append(damage)
    if damages:
        raise UserError(
            f"{damages[0]}; {folder} has no other undamaged checkpoint: restore one from a copy, or train again in "
            "a new folder"
        )
    return None


def checkpoint_to_resume(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint, and rename newer damaged ones.

    Only the process that locked the run may call this. The renamed files end in .damaged. They are removed when the
    run has written a checkpoint of their step again. Raises as ``newest_undamaged_checkpoint``.
    """
    undamaged = newest_undamaged_checkpoint(folder)
    for path in _checkpoints(folder):
        if undamaged is not None and path.name > undamaged.name:
            path.rename(path.with_suffix(_DAMAGED))
    return undamaged


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint for a path: the file itself, or the newest undamaged checkpoint of a run.

    Raises:
        UserError: there is no checkpoint.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    checkpoint = newest_undamaged_checkpoint(path)
    if checkpoint is None:
        raise UserError(f"{path}: has no checkpoint; train first: pretint pretrain {path} --data.source FOLDER")
    return checkpoint


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint with the name of the state's ``step``, and remove all but the newest two."""
    newest = folder / "checkpoints" / f"{state['step']:08d}.pt"
    save_checkpoint(newest, state)
    damaged = [path for path in newest.parent.glob(f"*{_DAMAGED}") if path.stem <= newest.stem]
    for old in [*sorted(_checkpoints(folder))[:-_KEPT], *damaged]:
        old.unlink()


def checkpoint_damage(path: Path) -> str:
    """Return a message on the damage of a checkpoint's bytes, or "". A file is read again only if it changed.

    Raises:
        FileNotFoundError: the file no longer exists.
    """
    status = path.stat()
    return _damage(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _damage(path: Path, size: int, changed: int) -> str:
    try:
        if not is_zip(path):
            return f"{path}: damaged (it does not begin like a checkpoint)"
        check_zip(path)
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    except DamagedFileError as error:
        return str(error).rpartition("; ")[0]
    return ""


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that ``write_checkpoint`` wrote; copies under other names are not used and not removed."""
    return [path for path in (folder / "checkpoints").glob("*.pt") if re.fullmatch(r"[0-9]{8,}\.pt", path.name)]


def _completed(settings: Settings, defaults: Settings) -> Settings:
    """Return the settings; a missing one has its default."""
    both = {key: (settings.get(key), default) for key, default in defaults.items()}
    nested = {k: _completed(a, b) for k, (a, b) in both.items() if isinstance(a, dict) and isinstance(b, dict)}
    return {**defaults, **settings, **nested}


def _differences(old: Settings, new: Settings, free: Collection[str], prefix: str = "") -> list[str]:
    differences = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}{key}"
        was, now = old.get(key), new.get(key)
        if name in free and type(was) is type(now):  # one place of images is not several
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            differences += _differences(was, now, free, f"{name}.")
        elif was != now:
            differences.append(f"{name} was {was}, is now {now}")
    return differences


Evidence = dict[str, Any]


def write_evidence(
    run: Path, step: int, loss: float, norm: float, training: TrainingSettings, samples: AugmentedDataset, settings: Any
) -> Path:
    """Write ``nonfinite/STEP`` in the run.

    evidence.json    the step, its samples and their images, and how the processes shared them
    settings.yaml    the run's settings
    checkpoint.pt    the newest checkpoint before that step

    Returns:
        The folder.
    """
    folder = run / "nonfinite" / f"{step:08d}"
    first = (step - 1) * training.batch_size
    sample_places = [samples.locate(t) for t in range(first, first + training.batch_size)]
    pieces = training.micro_batch or training.share(distributed.world_size())
    evidence: Evidence = {
        "step": step,
        "loss": str(loss),
        "gradient_norm": str(norm),
        "samples": [first, first + training.batch_size],
        "images": [samples.parts[part].key(index) for part, index in sample_places],
        "processes": distributed.world_size(),
        "micro_batch": pieces * distributed.world_size() if training.batch_norm == "synchronized" else pieces,
    }
    write_atomically(folder / "evidence.json", seal(evidence))
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
    """Read the evidence.json that ``write_evidence`` wrote.

    Raises:
        UserError: there is no such file.
    """
    try:
        return unseal((folder / "evidence.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: nothing to replay (it has no undamaged evidence.json); give RUN/nonfinite/STEP"
        ) from error
