"""What judging a frozen network cannot be faster than: the bare network, and the bare products of matrices.

The bare network is the backbone at the place's precision on one batch that lies on the device decoded, with nothing
pooled or kept, as often as there are batches. The bare products are those of one step of all classifiers: features
with the weights, and the errors with the features, on numbers that lie there.
"""

from collections.abc import Iterable

import torch

from benchmarks.paired import Job, Row, paired, seconds, spread, times_as_fast
from pretext.data.batches import EvalDataset, stream
from pretext.engine.device import ComputeConfig
from transfer.evaluation import EvaluationTask
from transfer.features.extraction import _AT_ONCE, run_network
from transfer.networks import Network

_FEW = 3  # batches


def bare_network(network: Network, task: EvaluationTask, place: ComputeConfig) -> float:
    """Seconds that the network alone takes for all images of a task, as many batches as there are."""
    size = min(_AT_ONCE, len(task.targets.train))
    batch = next(iter(stream(EvalDataset(task.targets.train, *task.view), range(size), size, 0)))
    rgb = batch.rgb.to(place.device).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def job() -> None:
        run_network(network, rgb, place)

    job()
    images = len(task.targets.train) + len(task.targets.test)
    return seconds(job, place.device, _FEW) * images / len(rgb)


def extraction(setting: str, extracted: list[float], bare: list[float], remark: str) -> Row:
    """Its row: seconds of reading, decoding, network, pooling and keeping, against the network's."""
    ratio = spread([less / more for less, more in zip(bare, extracted, strict=True)])
    return Row(
        "features of all stages", setting, "bare network", "s", spread(extracted), spread(bare), ratio, None, remark
    )


def products(
    setting: str, step: Job, shapes: Iterable[tuple[int, int]], batch: int, device: torch.device, rounds: int
) -> Row:
    """A step of all classifiers against its products.

    Args:
        setting: the row's.
        step: ours.
        shapes: of every stack of classifiers: heads * classes, dims.
        batch: images a step.
        device: where.
        rounds: how often.
    """
    stacks = [
        [torch.randn(size, device=device) for size in ((batch, dims), (rows, dims), (batch, rows))]
        for rows, dims in shapes
    ]

    def bare() -> None:
        for features, weight, errors in stacks:
            torch.mm(features, weight.T)
            torch.mm(errors.T, features)

    return times_as_fast(
        "a step of all classifiers", setting, "its matrix products alone", *paired(step, bare, device, rounds)
    )
