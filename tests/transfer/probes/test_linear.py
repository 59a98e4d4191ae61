"""Linear probes end to end: against torch's layers and scikit-learn, the reference, crops, the choice of a penalty."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from evaluations import MODERN, QUICK, SIDE, write_class_images
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

import transfer.probes.linear
from pretext.backbones.contract import FromRgb
from pretext.data.order import mix, permutation
from pretext.engine.device import choose_compute
from pretext.engine.run import lock_run, write_checkpoint
from pretext.errors import UserError
from pretext.pretrained import color_contract, load_pretrained
from pretext.recipe import build_colorizer
from pretext.settings import to_plain
from transfer.evaluation import EvaluationTask
from transfer.features import View, calibrate_batch_norm
from transfer.metrics import Row
from transfer.networks import open_network
from transfer.probes.heads import Linear
from transfer.probes.linear import ProbeSettings, choose_logistic, fit_linear, probe
from transfer.probes.sweep import Fed, ProbeSweep, grid, positions, rate_factor, score, steps_of
from transfer.protocols import PROTOCOLS, LinearProtocol, LogisticProtocol
from transfer.result_format import unpack_array
from transfer.targets import open_targets

BUNDLED = ("bundled:train", "bundled:test")
LOGISTIC = cast(LogisticProtocol, PROTOCOLS["logistic"])


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, in which the results of these tests stand."""
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("probe") / "run"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def take(monkeypatch: pytest.MonkeyPatch, protocol: Any) -> None:
    """A protocol in the place of the one of its name."""
    monkeypatch.setitem(PROTOCOLS, protocol.name, protocol)


def test_a_result_is_complete_and_can_be_recomputed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, QUICK)
    results = probe([str(run)], ProbeSettings(*BUNDLED, workers=0))
    assert [(result.network.name, result.network.kind) for result in results] == [
        ("random", "random"),
        ("run", "pretrained"),
    ]
    for result in results:
        found = json.loads(Path(result.file).read_text())
        assert [row["stage"] for row in found["rows"]] == ["conv1", "conv2", "conv3", "conv4", "conv5"]
        assert (found["n_train"], found["n_test"], found["n_fit"] + found["n_holdout"]) == (504, 432, 504)
        assert found["view_size"] == result.view_size and found["settings"]["rates"] == list(QUICK.rates)
        for row, (outcome,) in zip(found["rows"], found["outcomes"], strict=True):
            correct = unpack_array(found["objects"][found["objects"][outcome]["correct"]])
            assert len(correct) == 432 and row["score"]["value"] == pytest.approx(correct.mean())
            assert row["score"]["low"] <= row["score"]["value"] <= row["score"]["high"]
            assert row["pooling"] in QUICK.poolings and row["chosen"]["lr"] > 0
        best = max(found["rows"], key=lambda row: row["holdout"])
        assert found["best"] == best["stage"] == result.best
        assert found["cost"]["seconds"] > found["cost"]["extraction_seconds"] > 0
        assert max(row.score.value for row in result.rows) > 1.5 / len(result.classes)


def test_random_is_the_initialization_of_the_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has learned nothing but its batch-norm statistics is worth exactly as much as at random."""
    take(monkeypatch, QUICK)
    settings = load_pretrained(run).settings
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    with lock_run(tmp_path / "first", to_plain(settings)):
        pass
    colorizer = build_colorizer(settings, prior)
    network = open_network(f"random:{run}")
    assert isinstance(network.module, FromRgb)
    for name, value in colorizer.backbone.state_dict().items():
        assert torch.equal(value, network.module.backbone.state_dict()[name])
    targets = open_targets("bundled:train", "bundled:test")
    view = View(network.fit_size(round(network.view_size * QUICK.ratio)), QUICK.ratio)
    calibrate_batch_norm(network, targets.train, view, choose_compute("cpu", workers=0))
    colorizer.backbone.load_state_dict(network.module.backbone.state_dict())
    state = {"settings": to_plain(settings), "color": color_contract(settings, prior)}
    write_checkpoint(tmp_path / "first", {**state, "step": 0, "model": colorizer.state_dict()})
    random, first = probe([str(tmp_path / "first")], ProbeSettings(*BUNDLED, workers=0))
    assert (random.network.kind, first.network.kind) == ("random", "pretrained")
    for row, other in zip(random.rows, first.rows, strict=True):
        assert row == other and np.array_equal(_correct(row), _correct(other))


def _correct(row: Any) -> Any:
    (outcome,) = row.outcomes
    return outcome.correct


def _alone(
    task: EvaluationTask, protocol: LinearProtocol, stage: str
) -> list[tuple[str, float, float, tuple[float, Tensor]]]:
    """Every classifier of a stage as anybody would train it: pooling, setting, (held-out score, test answers)."""
    fit, held = task.split.fit, task.split.held
    labels, asked = (torch.from_numpy(part.labels) for part in (task.targets.train, task.targets.test))
    steps, batch_size = steps_of(protocol, len(fit))
    found = []
    for rule in protocol.poolings:
        x, test = (torch.from_numpy(np.array(part.matrix(stage, rule), np.float32)) for part in (task.train, task.test))
        mean, scale = x[fit].mean(0), x[fit].std(0, correction=0)
        scale[scale < 1e-6] = 1
        x, test = (x - mean) / scale, (test - mean) / scale
        for setting in grid(protocol, batch_size):
            linear = nn.Linear(x.shape[1], len(task.targets.classes))
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
            groups = [
                {"params": [linear.weight], "weight_decay": setting.weight_decay},
                {"params": [linear.bias], "weight_decay": 0.0},
            ]
            optimizer = torch.optim.SGD(groups, lr=setting.lr, momentum=0.9)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(protocol, step, steps))
            for step in range(steps):
                chosen = fit[
                    positions(step, batch_size, len(fit), lambda epoch: permutation(len(fit), mix(task.seed, epoch)))
                ]
                optimizer.zero_grad()
                F.cross_entropy(linear(x[chosen]), labels[chosen]).backward()
                optimizer.step()
                schedule.step()
            with torch.no_grad():
                score = float((linear(x[held]).argmax(1) == labels[held]).double().mean())
                found.append((rule, *setting, (score, linear(test).argmax(1) == asked)))
    return found


@pytest.mark.slow
def test_on_real_images_it_is_torch_and_scikit_learn(
    run: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = replace(MODERN, rates=(1e-3, 1e-2, 1e-1), least_steps=100, epochs=4)
    tasks: list[EvaluationTask] = []
    judge = transfer.probes.linear._row

    def row(task: EvaluationTask, winner: Any) -> Any:
        tasks.append(task)
        return judge(task, winner)

    monkeypatch.setattr(transfer.probes.linear, "_row", row)
    mini = shared_data / "imagenette-mini"
    settings = ProbeSettings(
        str(mini / "train"), str(mini / "val"), stages=["conv2"], reference=False, workers=0, size=24
    )
    found: list[Row] = []
    for rungs in ((), protocol.rungs):
        take(monkeypatch, replace(protocol, rungs=rungs))
        found += probe([str(run)], settings)[0].rows
    alone = {(rule, *chosen): numbers for rule, *chosen, numbers in _alone(tasks[0], protocol, "conv2")}
    score = max(score for score, _ in alone.values())
    assert found[0].holdout == pytest.approx(score)
    whole = next(one for one, numbers in alone.items() if numbers[0] == score)
    assert (found[0].pooling, *found[0].chosen.values()) == whole
    for mine in found:  # who survives the rungs has learned what it learns alone
        holdout, correct = alone[mine.pooling, mine.chosen["lr"], mine.chosen["weight_decay"]]
        assert mine.holdout == pytest.approx(holdout)
        assert abs(mine.score.value - float(correct.double().mean())) <= 0.002 + 1e-9

    logistic = cast(LogisticProtocol, PROTOCOLS["logistic"])
    take(monkeypatch, replace(logistic, penalties=(0.1,), poolings=("mean",), iterations=500))
    (result,) = probe([str(run)], replace(settings, protocol="logistic"))
    (mine,), task = result.rows, tasks[-1]
    x, test = (np.array(part.matrix("conv2", "mean"), np.float64) for part in (task.train, task.test))
    mean, scale = x.mean(0), x.std(0)
    x, test = (x - mean) / scale, (test - mean) / scale
    labels, asked = task.targets.train.labels, task.targets.test.labels

    def theirs(chosen: Any, penalty: float) -> LogisticRegression:
        model = LogisticRegression(C=1 / (len(chosen) * penalty), tol=1e-6, max_iter=2000)
        return model.fit(x[chosen], labels[chosen])

    held = task.split.held
    share = theirs(task.split.fit, 0.1).score(x[held], labels[held])
    assert mine.chosen == {"penalty": 0.1} and mine.holdout == pytest.approx(share, abs=0.011)  # one of 100 images
    share = theirs(np.arange(len(x)), 0.1).score(test, asked)
    assert abs(mine.score.value - share) <= 0.002 + 1e-9  # one of 500 images


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[Tensor, Tensor]]]:
    """Of every training: the features of one cell and the targets, step by step."""
    trainings: list[list[tuple[Tensor, Tensor]]] = []
    real = ProbeSweep.run

    def watched(sweep: ProbeSweep, feed: Iterator[Fed], after: Any) -> Any:
        trainings.append([])

        def kept() -> Iterator[Fed]:
            for features, targets in feed:
                trainings[-1].append((next(iter(features.values())), targets))
                yield features, targets

        return real(sweep, kept(), after)

    monkeypatch.setattr(ProbeSweep, "run", watched)
    return trainings


def test_fresh_crops_that_show_what_the_views_show_teach_the_same(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[list[tuple[Tensor, Tensor]]]
) -> None:
    """Also to the random network, whose batch norm must have seen the same images in both modes."""
    size = open_network(str(run)).fit_size(SIDE)
    train, test = (
        str(write_class_images(tmp_path / name, seed, side=size)) for name, seed in (("train", 1), ("test", 2))
    )
    take(monkeypatch, replace(QUICK, ratio=1.0, area=(1.0, 1.0), aspect=(1.0, 1.0), square=True, flip=0.0))
    settings = ProbeSettings(
        train, test, mode="both", size=size, workers=0, stages=["conv3"], storage="float32", precision="fp32"
    )
    results = probe([str(run)], settings)
    assert [(one.network.kind, one.mode) for one in results] == [
        (kind, mode) for mode in ("cached", "augmented") for kind in ("random", "pretrained")
    ]
    for kept, fresh in ((0, 2), (1, 3)):
        for (features, targets), (others, same) in zip(seen[kept], seen[fresh], strict=True):
            assert torch.equal(targets, same)
            torch.testing.assert_close(features, others, atol=1e-4, rtol=1e-4)
        for row, other in zip(results[kept].rows, results[fresh].rows, strict=True):
            assert (row.chosen, row.holdout, row.pooling) == (other.chosen, other.holdout, other.pooling)
            assert np.array_equal(_correct(row), _correct(other))
    half = probe([str(run)], replace(settings, storage="float16"))
    for one, two in zip(half, results, strict=True):
        for row, other in zip(one.rows, two.rows, strict=True):
            assert (row.chosen, row.pooling) == (other.chosen, other.pooling)
            assert (_correct(row) != _correct(other)).sum() <= 1


def test_fresh_crops_are_of_the_same_images_in_the_same_order(
    run: Path, monkeypatch: pytest.MonkeyPatch, seen: list[list[tuple[Tensor, Tensor]]]
) -> None:
    take(monkeypatch, replace(QUICK, batch_size=227, least_steps=4, epochs=1, rungs=(), area=(0.7, 1.0)))
    probe([str(run)], ProbeSettings(*BUNDLED, mode="both", workers=0, stages=["conv1"], reference=False))
    kept, fresh = seen
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(kept, fresh, strict=True))
    views, crops = ([torch.cat([one for one, _ in part[at : at + 2]]) for at in (0, 2)] for part in (kept, fresh))
    order = [torch.from_numpy(permutation(454, mix(0, epoch))).argsort() for epoch in (0, 1)]
    assert torch.equal(views[0][order[0]], views[1][order[1]])
    assert not torch.isclose(crops[0][order[0]], crops[1][order[1]]).all(1).any()
    # A crop is more like the view of its own image than like those of others.
    nearest = torch.cdist(crops[0], views[0]).argmin(1)
    assert (nearest == torch.arange(454)).float().mean() > 0.2


@pytest.mark.parametrize("name", ["zhang2016", "splitbrain", "goyal2019"])
def test_published_protocols_choose_nothing(name: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = cast(LinearProtocol, PROTOCOLS[name])
    take(monkeypatch, replace(protocol, epochs=2))
    (result,) = probe([str(run)], ProbeSettings(*BUNDLED, protocol=name, workers=0, stages=["conv3"], reference=False))
    assert result.best is None and result.n_holdout == 0 and result.n_fit == 504
    assert [(row.holdout, row.chosen["weight_decay"]) for row in result.rows] == [(None, 5e-4)]


@pytest.mark.parametrize(("mode", "advice"), [("cached", "take protocol zhang2016"), ("augmented", "by --stages")])
def test_classifiers_that_do_not_fit_are_refused_before_they_are_trained(
    mode: Any, advice: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, QUICK)
    monkeypatch.setattr(transfer.probes.linear, "available_memory", lambda device: 1_000)
    settings = ProbeSettings(*BUNDLED, workers=0, mode=mode, reference=False, out=str(tmp_path))  # no finished results
    with pytest.raises(UserError, match=f"classifiers of 8 classes need .* GB are free; .*{advice}"):
        probe([str(run)], settings)


def test_several_labels_an_image(run: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, QUICK)
    voc = shared_data / "voc-mini"
    settings = ProbeSettings(
        f"voc:2007:trainval:{voc}",
        f"voc:2007:test:{voc}",
        classes=["person", "car"],
        stages=["conv2"],
        reference=False,
        workers=0,
    )
    (result,) = probe([str(run)], settings)
    (row,) = result.rows
    assert result.metric == "mAP" and result.classes == ("person", "car")
    (outcome,) = row.outcomes
    assert outcome.scores is not None and outcome.scores.shape == (result.n_test, 2)
    assert row.score.value == pytest.approx(outcome.value) and row.holdout is not None


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centers = np.random.default_rng(0).normal(size=(3, 12))
    features = centers[labels] + 1.5 * rng.normal(size=(count, 12))
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def zero(classes: int, dims: int) -> Linear:
    return Linear(torch.zeros(classes, dims), torch.zeros(classes), torch.zeros(dims), torch.ones(dims))


@pytest.mark.parametrize("penalty", [0.1, 0.001])
def test_equals_scikit_learn(penalty: float) -> None:
    x, y = data(400, 1)
    mine = fit_linear(x, y, zero(3, 12), penalty, iterations=500, tolerance=1e-7)
    theirs = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-8, max_iter=5000).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(mine.scores(x).softmax(1), theirs.predict_proba(x.numpy()), atol=2e-3)


def test_several_labels_equal_scikit_learn_class_by_class_without_those_that_are_not_counted() -> None:
    x, labels = data(400, 1)
    y = torch.nn.functional.one_hot(labels, 3).to(torch.int8)
    y[::7, 1] = -1
    mine = fit_linear(x, y, zero(3, 12), 0.01, iterations=500, tolerance=1e-7)
    for one in range(3):
        counted = (y[:, one] >= 0).numpy()
        theirs = LogisticRegression(C=1 / (len(x) * 0.01), tol=1e-8, max_iter=5000)
        theirs.fit(x.numpy()[counted], y.numpy()[counted, one])
        np.testing.assert_allclose(mine.scores(x)[:, one], theirs.decision_function(x.numpy()), atol=5e-3)


def test_the_penalty_is_chosen_on_the_held_out_part() -> None:
    (x, y), (held_x, held_y) = data(60, 1), data(40, 2)
    noise = torch.randn(100, 300, generator=torch.Generator().manual_seed(0))
    x, held_x = torch.cat((x, noise[:60]), 1), torch.cat((held_x, noise[60:]), 1)
    protocol = replace(LOGISTIC, penalties=(3.0, 1.0, 1e-6))
    classifier, penalty, found = choose_logistic((x, y), (held_x, held_y), 3, protocol)
    mean, scale = x.mean(0), 1 / x.std(0, correction=0)
    tried, shares = zero(3, 312), []
    for one in protocol.penalties:
        tried = fit_linear((x - mean) * scale, y, tried, one, protocol.iterations)
        shares.append(score(tried.scores((held_x - mean) * scale), held_y))
    assert found == pytest.approx(max(shares)) and penalty == protocol.penalties[int(np.argmax(shares))]
    every = torch.cat((x, held_x))
    mean, scale = every.mean(0), 1 / every.std(0, correction=0)
    again = fit_linear((every - mean) * scale, torch.cat((y, held_y)), zero(3, 312), penalty, 500, 1e-7)
    right = (classifier.scores(every).argmax(1) == again.scores((every - mean) * scale).argmax(1)).float().mean()
    assert right > 0.97  # fitted again to all
