"""A mirror of a run's journal at Weights & Biases, by ``machine.wandb``. The journal stays the truth.

A run that is resumed goes on in the same run there. What is mirrored already is not sent again: the steps that an
interrupted run lost are computed to the same numbers. What W&B collects by itself (console, code, machine) is left out.
"""

import io
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pretext.errors import UserError, one_line
from pretext.files import write_atomically
from pretext.yaml_reader import read_yaml

_TRIALS = 60


class WandbMirror:
    """A run of W&B; it is online unless WANDB_MODE says otherwise.

    Args:
        project: PROJECT or ENTITY/PROJECT.
        folder: the run's folder; W&B's files go to ``wandb/`` in it, which also names W&B's run.
        resumed: whether the run goes on from a checkpoint; one that begins again is a new run there.

    Raises:
        UserError: the package is not installed; or W&B cannot be reached, or knows no key of this user.
    """

    def __init__(self, project: str, folder: Path, resumed: bool) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError("machine.wandb needs the package wandb: pip install 'pretint[wandb]'") from error
        self._file = folder / "wandb" / "pretint.json"
        self._state: dict[str, Any] = {"id": secrets.token_hex(6), "step": -1}
        if resumed and self._file.exists():
            self._state = json.loads(self._file.read_text())
        entity, _, name = project.rpartition("/")
        options: dict[str, Any] = {
            "project": name,
            "entity": entity or None,
            "id": self._state["id"],
            "name": folder.name,
            "dir": folder,
            "config": read_yaml(folder / "settings.yaml"),
            "resume": "allow",
            "settings": wandb.Settings(
                console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True,
                x_disable_machine_info=True, x_disable_meta=True, x_save_requirements=False,
            ),
        }  # fmt: skip
        for left in reversed(range(_TRIALS)):
            try:
                self._run = wandb.init(**options)
                break
            except Exception as error:  # W&B has several types of error, without a common base
                if left and "in use" in str(error):  # by W&B's own process for a run that was killed a moment ago
                    time.sleep(1)
                    continue
                raise UserError(
                    f"machine.wandb: {one_line(error)}; run wandb login, set WANDB_MODE=offline, or leave "
                    "machine.wandb out"
                ) from error
        self._save()  # whatever ends this run, the next call finds it again
        self._step = self._state["step"]
        """The last step of an earlier call."""
        self._image = wandb.Image

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Send the numbers of a step, by name."""
        if step > self._step:
            self._run.log(dict(numbers), step=step)
            self._state["step"] = step

    def image(self, tag: str, step: int, png: bytes) -> None:
        """Send an image, the bytes of a PNG file."""
        self.write(step, {tag: self._image(Image.open(io.BytesIO(png)))})

    def close(self) -> None:
        """Send what is left, and remember what was sent."""
        self._run.finish()
        self._save()

    def _save(self) -> None:
        write_atomically(self._file, json.dumps(self._state).encode())
