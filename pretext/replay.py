"""The job that repeats the step at which a run's loss became NaN or infinite, and finds the module that caused it."""

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pretext.data.batches import batches
from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.device import autocast, choose_compute
from pretext.engine.memory import explain_memory_shortage
from pretext.engine.progress import progress
from pretext.engine.run import read_evidence
from pretext.engine.trainer import MachineSettings, Trainer
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.pretrained import check_contract, check_state
from pretext.recipe import PretrainSettings, build_network, on_place, open_images
from pretext.settings import settings_file


@dataclass
class ReplaySettings:
    """Settings for computing a step again.

    Args:
        machine: as in a pretraining. The values from the run's settings are not used.
    """

    machine: MachineSettings = field(default_factory=MachineSettings)


@dataclass
class Replay:
    """The values inside a step that failed."""

    step: int
    loss: float
    gradient_norm: float
    largest_weight: float
    """The greatest absolute weight before the step."""
    images: list[str]
    """Keys of the images whose own loss is not finite."""
    module: str | None
    """The first module, in the order of computation, whose output is not finite; None if all are."""
    gradients: list[str]
    """The weights whose gradient is not finite."""

    def lines(self) -> list[str]:
        """Return the result as lines for a user."""
        weight, loss, norm = f"{self.largest_weight:.3g}", f"{self.loss:.4g}", f"{self.gradient_norm:.4g}"
        more = f" and {len(self.gradients) - 3} more" if len(self.gradients) > 3 else ""
        return [
            f"step {self.step}: loss {loss}, norm of the gradient {norm}, largest weight before it {weight}",
            f"first output that is not finite: {self.module or 'none'}",
            f"gradients that are not finite: {', '.join(self.gradients[:3]) or 'none'}{more}",
            f"images whose own loss is not finite: {', '.join(self.images[:5]) or 'none'}"
            + (f" and {len(self.images) - 5} more" if len(self.images) > 5 else ""),
        ]


@explain_memory_shortage("lower machine.workers, or compute it where the run was trained")
def replay(folder: Path, settings: ReplaySettings) -> Replay:
    """Train from the saved checkpoint to the step that failed, and check the output of every module in that step.

    One process computes it, with the micro-batches of all processes of the run. The result is also written to
    ``replay.json`` in the folder.

    Args:
        folder: ``RUN/nonfinite/STEP``, see ``pretext.engine.run``.
        settings: see ``ReplaySettings``.

    Raises:
        UserError: there is nothing to replay, or the images are not those of the run.
    """
    evidence = read_evidence(folder)
    recipe = settings_file(PretrainSettings, folder / "settings.yaml")
    state = load_checkpoint(folder / "checkpoint.pt")
    check_state(folder, state, resumed=True)
    check_contract(folder, recipe, state)
    images = open_images(recipe)
    if images.contents != state["data"]:
        raise UserError(f"{images.name}: the images changed since the run; restore them")
    place = choose_compute(settings.machine.device, state["precision"], settings.machine.workers)
    network = on_place(build_network(recipe, state["color"].get("prior"), images.classes), recipe, place)
    training = replace(recipe.training, micro_batch=evidence["micro_batch"])
    trainer = Trainer(network, training, settings.machine, place, recipe.seed)
    trainer.load(state, folder)
    samples = images.samples(recipe, place.workers)
    step, began = evidence["step"], trainer.done
    if not began < step <= training.steps or len(evidence["images"]) != training.batch_size:
        raise UserError(f"{folder}: evidence.json, checkpoint.pt and settings.yaml do not belong to one run")
    with progress("replay", step - began, "steps") as advance:
        for batch in batches(samples, training.batch_size, began, step, place.workers):
            if trainer.done == step - 1:
                break
            trainer.step(batch.rgb, batch.labels)
            advance(1, "")
        largest = max(float(weight.detach().abs().max()) for weight in network.parameters())
        losses = []  # the loss of each image, computed in the step's micro-batches, without updating any statistics
        inputs = (batch.rgb, batch.labels, trainer.numbers())
        network.eval()
        with torch.no_grad():
            for piece in zip(*(part.split(training.micro_batch) for part in inputs), strict=True):
                with autocast(place):
                    losses += network.image_losses(*(part.to(place.device) for part in piece)).tolist()
        network.train()
        not_finite: list[str] = []  # names of modules, in the order of computation

        def watch(name: str, module: nn.Module, inputs: object, output: object) -> None:
            outputs = output.values() if isinstance(output, dict) else [output]
            if any(isinstance(value, Tensor) and not bool(value.isfinite().all()) for value in outputs):
                not_finite.append(name)

        with ExitStack() as hooks:
            for name, module in network.named_modules():
                if name:
                    hooks.enter_context(module.register_forward_hook(partial(watch, name)))
            loss, norm = trainer.step(batch.rgb, batch.labels, optimize=False)
        gradients = [
            name
            for name, weight in network.named_parameters()
            if weight.grad is not None and not bool(weight.grad.isfinite().all())
        ]
        advance(1, "")
    bad = [key for key, value in zip(evidence["images"], losses, strict=True) if not math.isfinite(value)]
    result = Replay(step, float(loss), float(norm), largest, bad, next(iter(not_finite), None), gradients)
    # JSON has no nan.
    record = {name: str(value) if isinstance(value, float) else value for name, value in vars(result).items()}
    write_atomically(folder / "replay.json", json.dumps(record, indent=1).encode())
    return result
