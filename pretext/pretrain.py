"""The job that trains: features from unlabeled images, by colorization; or, to compare, from labeled ones."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pretext.color import rgb_to_lightness
from pretext.contact_sheet import contact_sheet
from pretext.data import open_labeled
from pretext.engine import distributed
from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.device import Place, pick_place
from pretext.engine.journal import Journal
from pretext.engine.loop import train
from pretext.engine.memory import explain_memory_shortage
from pretext.engine.run import held_run, resumed_checkpoint
from pretext.engine.signals import WARNINGS, Ending, stop_requests
from pretext.engine.trainer import Learner
from pretext.errors import UserError
from pretext.files import write_png
from pretext.methods.classifier import Classifier, label_health
from pretext.methods.colorizer import Colorizer, join
from pretext.methods.diagnostics import color_health
from pretext.online import OnlineProbe
from pretext.pretrained import check_contract, check_state
from pretext.recipe import PretrainSettings, build_network
from pretext.settings import plain
from pretext.setup import (
    Images,
    check_sizes,
    fill_source,
    find_prior,
    held_views,
    on_place,
    open_images,
    prepare_network,
    stored,
)
from pretext.versions import versions

_SHOWN = 12
_AT_ONCE = 32


@explain_memory_shortage(
    "set machine.checkpoint_activations, or lower training.micro_batch, training.batch_size, crop.size, "
    "machine.workers or machine.cache"
)
def pretrain(run: Path, settings: PretrainSettings) -> Ending:
    """Train a colorizer (of objective.name labels: a classifier), or go on with a run that was interrupted.

    Called again with the same settings it goes on from the newest checkpoint, and computes what an
    uninterrupted run would have computed, to the bit on the same machine's CPU. Several processes
    (see ``pretext.engine.distributed``) that all call it share the work.

    Args:
        run: the run's directory, see ``pretext.engine.run``.
        settings: the recipe. Its data.source may be left out only where the run exists: its own is taken then.

    Returns:
        Whether it is complete, or by what it was stopped and can go on.

    Raises:
        UserError: see the message.
    """
    asked = pick_place(settings.machine.device, settings.training.precision, settings.machine.workers)
    # From here on a cluster's warning waits for the first step, after which all is saved.
    with stop_requests(*WARNINGS) as warned, distributed.joined(asked.device), ExitStack() as held:
        source = distributed.from_first(lambda: fill_source(run, settings).data.source)
        settings = replace(settings, data=replace(settings.data, source=source))
        distributed.on_first(lambda: settings.training.share(distributed.world()))
        # The first process opens everything alone: it makes the indices that the others then read.
        images = distributed.on_first(lambda: open_images(settings)) or open_images(settings)
        if settings.online.source:  # a mistake there is said before anything takes long
            distributed.on_first(lambda: open_labeled(settings.online.source))
        distributed.on_first(lambda: check_sizes(settings))
        distributed.on_first(lambda: held.enter_context(held_run(run, plain(settings), plain(PretrainSettings()))))
        begun = distributed.from_first(lambda: resumed_checkpoint(run))
        state = None if begun is None else _restored(run, begun, settings, images)
        place = asked if state is None else asked._replace(precision=state["precision"])
        if state is None:
            prior = (
                None if settings.objective.supervised else distributed.from_first(lambda: find_prior(images, settings))
            )
            network = prepare_network(images, settings, prior, place)
        else:
            prior = state["color"].get("prior")
            network = on_place(build_network(settings, prior, images.classes), settings, place)
        learner = Learner(network, settings.training, settings.machine, place, settings.seed)
        if state is not None:
            learner.load(state, run)
            del state  # as large as the network and its optimizer

        watch = distributed.on_first(lambda: _Watch(run, settings, images, learner, prior))
        return train(
            run,
            learner,
            images.samples(settings, place.workers),
            watch or (lambda journal: None),
            warned,
            facts={
                "versions": versions(),
                "precision": place.precision,
                "workers": place.workers,
                "held_out": sum(map(len, images.held)),
            },
            stored=stored(images, settings, prior, place.precision),
            skipped=watch.skipped if watch else [],
        )


def _restored(run: Path, checkpoint: Path, settings: PretrainSettings, images: Images) -> dict[str, Any]:
    """The state to go on from.

    Raises:
        UserError: it is damaged, of other colors, or of other images.
    """
    state = load_checkpoint(checkpoint)
    check_state(run, state, resumed=True)
    check_contract(run, settings, state)
    moved = state["settings"]["data"].get("source") != plain(settings)["data"]["source"]
    if not images.same_as(state["data"]) or (moved and "seen" not in state["data"]):
        same = images.same_as({**state["data"], "labels": images.contents.get("labels")})
        what = "labels" if same else "images"
        raise UserError(
            f"{images.name}: the {what} changed since the run {run} began ({state['data']['images']} "
            f"then, {images.contents['images']} now); bring them back, or name a new folder for the run"
        )
    return state


class _Watch:
    """What is looked at now and then: how held-out images are colored or named, and what the features know."""

    def __init__(
        self, run: Path, settings: PretrainSettings, images: Images, learner: Learner, prior: Tensor | None
    ) -> None:
        self.run, self.learner, self.prior = run, learner, prior
        size = self._judged.backbone.fit_size(settings.view_size)
        self.views, self.labels, self.skipped, _ = held_views(images, settings.data.holdout, size)
        self.probe = None
        if settings.online.source:
            self.probe = OnlineProbe(open_labeled(settings.online.source), settings.online, size, settings.seed)
            self.skipped += self.probe.skipped

    @property
    def _judged(self) -> Colorizer | Classifier:
        judged = self.learner.judged
        assert isinstance(judged, (Colorizer, Classifier))
        return judged

    def __call__(self, journal: Journal) -> None:
        step, place, network = self.learner.done, self.learner.place, self._judged.eval()
        if isinstance(network, Classifier):
            journal.write("health", step, **label_health(network, self.views, self.labels, place))
        else:
            assert self.prior is not None
            path = self.run / "samples" / f"{step:08d}.png"
            sheet = sample_sheet(network, self.views, place)
            write_png(path, sheet)
            journal.image("samples", step, path.read_bytes(), *sheet.size)
            journal.write("health", step, **color_health(network, self.views.split(_AT_ONCE), self.prior, place))
        if self.probe is not None:
            journal.write("online", step, **self.probe(network.backbone, place))
        self.learner.network.train()


def sample_sheet(colorizer: Colorizer, views: Tensor, place: Place) -> Image.Image:
    """The first twelve of some images, uint8 (N, 3, H, W), side by side: gray, colored by the network, original."""
    rgb = views[:_SHOWN]
    lightness = rgb_to_lightness(rgb.to(place.device))
    ab = colorizer.colorize(lightness)
    gray, colored = (join(lightness, color).cpu() for color in (torch.zeros_like(ab), ab))
    rows = [[_image(one) for one in row] for row in zip(gray, colored, rgb / 255, strict=True)]
    return contact_sheet(rows, ("gray", "colored", "original"), cell=max(96, rgb.shape[-1]), across=3)


def _image(rgb: Tensor) -> Image.Image:
    return Image.fromarray((rgb * 255).round().byte().permute(1, 2, 0).numpy())
