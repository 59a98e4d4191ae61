"""Fine-tuning as a whole: three tasks, killed, stopped, by two processes, frozen, and given what no one should give."""

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from detections import coco_ap, devkit_ap
from devkits import write_proposals
from finetunings import SMALL, STEPS, asked, folder_of, tuned
from PIL import Image
from processes import Launcher, TrainedRun
from shapes import make_devkit
from sklearn.metrics import average_precision_score, jaccard_score

import pretint.cli
from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint
from pretext.engine.signals import ExitStatus
from pretext.errors import UserError
from transfer.compare import compare_paths
from transfer.labels.boxes import objects_of
from transfer.labels.masks import mask_of
from transfer.metrics import AveragePrecision, BoxAP, MeanIoU
from transfer.networks import open_network
from transfer.results import Result, read_result
from transfer.tasks.registry import TASKS
from transfer.tasks.task import Task, predictions


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_devkit(tmp_path_factory.mktemp("voc"))


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a pretrained run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def numbers(results: Sequence[Result]) -> list[tuple[str, str, float, float]]:
    return [(one.network.name, row.name, row.score.value, row.score.low) for one in results for row in one.rows]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_network_beside_itself_at_random(
    task: str, run: Path, devkit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random, trained = results = tuned([run], task, devkit)
    assert (random.network.kind, trained.network.kind) == ("random", "pretrained")
    metric, rows = {
        "classify": ("mAP", ["all"]),
        "detect": ("AP", ["all, 11 points", "all, all points", "all, COCO"]),
        "segment": ("mIoU", ["all"]),
    }[task]
    for result in results:
        assert result.metric == metric and result.mode == "fine-tuned" and [row.name for row in result.rows] == rows
        assert (result.n_train, result.n_fit, result.n_holdout, result.n_test) == (16, 15, 1, 16)
        assert result.best is None, "nothing is chosen"
        folder = folder_of(result)
        records = read_journal(folder)
        assert [record["step"] for record in records if record["kind"] == "step"] == list(range(1, STEPS + 1))
        assert [record["step"] for record in records if record["kind"] == "health"] == [0, 3, 6]
        assert (folder / "samples" / "test.png").is_file()
        assert yaml.safe_load((folder / "settings.yaml").read_text())["task"] == task
    files = [Path(result.file) for result in results]
    before = [file.stat().st_mtime_ns for file in files]
    assert numbers(tuned([run], task, devkit)) == numbers(results)
    assert [file.stat().st_mtime_ns for file in files] == before, "it is read back"
    assert pretint.cli.main(["table", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "16 test images" in printed and "all" in printed


@pytest.mark.slow
def test_results_say_what_was_trained_in_one_table(run: Path, devkit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("conv5", "conv2", ""):
        tuned([run], "segment", devkit, freeze_to=stage)
    assert pretint.cli.main(["table", str(run)]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if "[" in line and "95%" not in line]
    assert [row[0] if row[0] == "all" else " ".join(row) for row in rows] == ["above conv5", "above conv2", "all"]


def test_test_images_at_their_own_size(run: Path, devkit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (result,) = tuned([run], "segment", devkit, reference=False, size=0)
    assert result.view_size == 0 and "at the size that an image has" in result.about
    assert pretint.cli.main(["table", str(run)]) == 0
    assert "seen at the images' own size" in capsys.readouterr().out


@pytest.mark.parametrize("batch_norm", ["train", "frozen", "absorbed"])
def test_what_is_frozen_stays(batch_norm: str, run: Path, devkit: Path) -> None:
    changed = {"freeze_to": "conv3", "batch_norm": batch_norm, "reference": False}
    (result,) = tuned([run], "classify", devkit, **changed)
    state = torch.load(newest_checkpoint(folder_of(result)), weights_only=True)["model"]  # type: ignore[arg-type]
    backbone = {key.partition("blocks.")[2]: value for key, value in state.items() if "blocks." in key}
    original = {key.partition("blocks.")[2]: value for key, value in open_network(str(run)).module.state_dict().items()}
    moved = {
        key.partition(".")[0] for key in backbone if not torch.equal(backbone[key], original.get(key, backbone[key]))
    }
    if batch_norm == "absorbed":
        assert {"conv4", "conv5"} <= moved
    else:
        assert moved == {"conv4", "conv5"}


@pytest.mark.slow
def test_last_stages_that_look_at_regions(run: Path, devkit: Path) -> None:
    head = {**SMALL["detect"]["head"], "form": "fast", "box": "stage", "neck": "conv3", "pooled": 8, "pooling": "max"}
    changed = {"reference": False, "batch_norm": "frozen", "head": head, "head_rate": 2.0}
    original = open_network(str(run)).module.state_dict()
    places = {"head.boxes.box_head.0": "conv4", "head.boxes.box_head.1": "conv5"}
    places |= {f"features.features.backbone.blocks.{name}": name for name in ("conv1", "conv2", "conv3")}
    for frozen, learned in (("", [*places.values()]), ("conv4", ["conv5"])):
        (result,) = tuned([run], "detect", devkit, freeze_to=frozen, **changed)
        state = torch.load(newest_checkpoint(folder_of(result)), weights_only=True)["model"]  # type: ignore[arg-type]
        moved = set()
        for prefix, name in places.items():
            own = {key: value for key, value in state.items() if key.startswith(f"{prefix}.")}
            assert own
            for key, value in own.items():
                before = original[key.replace(prefix, f"backbone.blocks.{name}")]
                moved |= set() if torch.equal(value, before) else {name}
                assert "running" not in key or torch.equal(value, before), "statistics stay"
        assert moved == set(learned)


def test_rescaled_networks_are_others(run: Path, devkit: Path) -> None:
    results = tuned([run, f"rescaled:{run}"], "classify", devkit)
    assert [result.network.name for result in results] == ["random", "run", "rescaled random", "rescaled run"]
    assert len({result.network.group for result in results}) == len({result.network.weights for result in results}) == 4
    for first, second, names in (
        (f"random:{run}", str(run), ["random", "run"]),
        (f"rescaled:random:{run}", f"rescaled:{run}", ["rescaled random", "rescaled run"]),
        (str(run), f"rescaled:{run}", ["run", "rescaled run"]),
    ):
        (pair,) = compare_paths([first, second]).pairs
        assert [one.first.network.name for one in (pair.first, pair.second)] == names


def test_one_random_network_stands_beside_runs_of_one_seed(run: Path, devkit: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    newest = newest_checkpoint(other)
    assert newest is not None
    state = torch.load(newest, weights_only=True)
    state["model"]["backbone.blocks.conv1.0.weight"] += 1
    torch.save(state, newest)
    results = tuned([run, other], "classify", devkit)
    assert [result.network.name for result in results] == ["random", "run", "other"]


def test_moving_averages_are_judged_and_color_is_let_in(run: Path, devkit: Path) -> None:
    (gray,) = tuned([run], "classify", devkit, reference=False, training={"ema": 0.9})
    (color,) = tuned([run], "classify", devkit, reference=False, training={"ema": 0.9}, color=True)
    assert gray.settings["color"] is False and color.settings["color"] is True
    state = torch.load(newest_checkpoint(folder_of(color)), weights_only=True)  # type: ignore[arg-type]
    assert "average" in state
    (ab,) = [value for key, value in state["model"].items() if value.ndim == 4 and value.shape[1] == 2]
    assert ab.abs().max() < 1e-6, "the images are gray, so there is nothing to learn from their ab"


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_killed_and_called_again_it_is_as_if_nothing_had_happened(
    task: str, run: Path, devkit: Path, launcher: Launcher, tmp_path: Path
) -> None:
    values = asked(task, devkit, training={"steps": 12, "micro_batch": 2}, machine={"workers": 1})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    other = Path(shutil.copytree(run, tmp_path / "other" / "run"))
    words = ("--config", tmp_path / "recipe.yaml", "--reference", "false")
    whole = launcher.start("finetune", task, run, *words)
    assert whole.wait() == 0, whole.output
    (result,) = (run / "results").glob("*.json")
    place = other / "finetuned" / result.stem
    for step in (0, 4, 8):
        killed = launcher.start("finetune", task, other, *words, hold_at=step + 2)
        TrainedRun(place).wait_for_step(step, killed)
        if step == 4:
            killed.signal(signal.SIGUSR2)
            assert killed.wait() == ExitStatus.PREEMPTED, killed.output
        else:
            killed.kill()
            killed.wait()
    again = launcher.start("finetune", task, other, *words)
    assert again.wait() == 0, again.output
    TrainedRun(place).same_as(TrainedRun(run / "finetuned" / result.stem))
    assert numbers([read_result(other / "results" / result.name)]) == numbers([read_result(result)])


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_do_what_one_does(task: str, run: Path, devkit: Path, launcher: Launcher, tmp_path: Path) -> None:
    values = asked(task, devkit, training={"micro_batch": 2}, batch_norm="frozen")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    other = Path(shutil.copytree(run, tmp_path / "other" / "run"))
    words = ("--config", tmp_path / "recipe.yaml")
    pair = launcher.start_ranks(2, "finetune", task, other, *words)
    alone = launcher.start("finetune", task, run, *words)
    assert [one.wait() for one in (*pair, alone)] == [0, 0, 0], pair[0].output + pair[1].output + alone.output
    files = sorted((run / "results").glob("*.json"))
    assert len(files) == 2, "at random, with statistics that every process must have, and pretrained"
    for file in files:
        both = [TrainedRun(one / "finetuned" / file.stem) for one in (run, other)]
        losses = [[loss for _, loss in one.losses] for one in both]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        one, two = read_result(file), read_result(other / "results" / file.name)
        assert one.n_test == two.n_test == 16


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["detekt"], "did you mean detect?"),
        (["detect", "RUN"], "give images to learn from and to test on"),
        (["detect", "RUN", "DATA", "--freeze-to", "conv9"], "it has conv1, conv2, conv3, conv4, conv5"),
        (["detect", "RUN", "DATA", "--head.neck", "conv9"], "conv9"),
        (["segment", "RUN", "DATA", "--sbd", "/nowhere"], "masks of SBD are of images of VOC2012"),
        (["detect", "RUN", "DATA", "--head.form", "fast", "--proposals", "/nowhere.mat"], "/nowhere.mat"),
        (["classify", "RUN", "DATA", "--size", "0"], "size is 0"),
        (["classify", "/nowhere", "DATA"], "no such network"),
        (["classify", "RUN", "DATA", "--test", "voc:2007:train:DEVKIT"], "same images"),
        (["segment", "RUN", "DATA", "--test", "voc:2007:train:DEVKIT"], "all 16 test images are also"),
        (["detect", "RUN", "DATA", "--test", "voc:2007:train:DEVKIT"], "all 16 test images are also"),
        (["detect", "RUN", "DATA", "--test", "voc:2008:test:DEVKIT"], "2008"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], said: str, run: Path, devkit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = run.parent / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(asked(words[0], devkit) if "DATA" in words else {}))
    data = ["--config", str(recipe)]
    arguments: list[str] = []
    for word in words:
        arguments += data if word == "DATA" else [word.replace("RUN", str(run)).replace("DEVKIT", str(devkit))]
    assert pretint.cli.main(["finetune", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error


def test_other_data_is_another_run(run: Path, devkit: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(devkit, tmp_path / "VOCdevkit"))
    (before,) = tuned([run], "segment", copied, reference=False)
    mask = copied / "VOC2007" / "SegmentationClass" / "000000.png"
    painted = Image.open(mask).convert("L")
    painted.putpixel((0, 0), 7)
    painted.save(mask)
    (after,) = tuned([run], "segment", copied, reference=False)
    assert after.train_digest != before.train_digest and folder_of(after) != folder_of(before)


def test_masks_that_are_of_no_use_are_listed(run: Path, devkit: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(devkit, tmp_path / "VOCdevkit"))
    masks = copied / "VOC2007" / "SegmentationClass"
    (masks / "000003.png").write_bytes(b"no image")
    (masks / "000030.png").write_bytes(b"no image")
    (result,) = tuned([run], "segment", copied, reference=False, training={"steps": 12})
    listed = dict(result.skipped)
    assert any("000030" in key for key in listed) and result.n_test == 15
    assert any("000003" in key for key in listed), listed


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Task, dict[int, Any]]]:
    """What the networks say of the test images, as they say it."""
    kept: list[tuple[Task, dict[int, Any]]] = []

    def noted(task: Task, *others: Any) -> Any:
        found, skipped = predictions(task, *others)
        if others[1] is task.test:
            kept.append((task, found))
        return found, skipped

    monkeypatch.setattr("transfer.finetune.predictions", noted)
    return kept


def real(shared_data: Path, **training: Any) -> dict[str, Any]:
    devkit = shared_data / "voc-mini" / "VOCdevkit"
    return {"devkit": devkit, "reference": False, "training": {"batch_size": 8, "lr": 2e-3, **training}}


@pytest.mark.slow
def test_average_precision_of_real_boxes_is_that_of_the_references(
    run: Path, shared_data: Path, answers: list[tuple[Task, dict[int, Any]]]
) -> None:
    (result,) = tuned([run], "detect", **real(shared_data, steps=60))
    ((task, found),) = answers
    truth = [objects_of(task.test, index) for index in sorted(found)]
    said = [found[index] for index in sorted(found)]
    assert len(said) == 250 and sum(len(boxes) for boxes, _, _ in said) > 1000
    by_name = {row.variant: row.outcomes[0] for row in result.rows}
    coco = coco_ap(said, truth, 20)
    assert np.nanmax(coco) > 0, "something is found"
    for points, wanted in (
        ("COCO", coco),
        ("11 points", [devkit_ap(said, truth, label, eleven=True) for label in range(20)]),
        ("all points", [devkit_ap(said, truth, label, eleven=False) for label in range(20)]),
    ):
        outcome = by_name[points]
        assert isinstance(outcome, BoxAP)
        np.testing.assert_allclose(outcome.per_class(), wanted, rtol=0, atol=1e-6, err_msg=points)


@pytest.mark.slow
def test_overlap_of_real_masks_is_that_of_scikit_learn(
    run: Path, shared_data: Path, answers: list[tuple[Task, dict[int, Any]]]
) -> None:
    (result,) = tuned([run], "segment", **real(shared_data, steps=60))
    ((task, found),) = answers
    masks = [mask_of(task.test, index) for index in sorted(found)]
    said = np.concatenate([found[index].mask.ravel() for index in sorted(found)])
    truth = np.concatenate([mask.ravel() for mask in masks])
    counted = truth != 255
    present = np.union1d(truth[counted], said[counted])
    wanted = jaccard_score(truth[counted], said[counted], labels=present, average=None)
    (row,) = result.rows
    outcome = row.outcomes[0]
    assert isinstance(outcome, MeanIoU) and len(present) > 2
    np.testing.assert_allclose(outcome.per_class()[present], wanted, rtol=0, atol=1e-6)
    assert row.score.value == pytest.approx(wanted.mean(), abs=1e-6)


@pytest.mark.slow
def test_ranks_of_real_images_are_those_of_scikit_learn(
    run: Path, shared_data: Path, answers: list[tuple[Task, dict[int, Any]]]
) -> None:
    (result,) = tuned([run], "classify", **real(shared_data, steps=60))
    ((task, found),) = answers
    labels, scores = task.test.labels, np.stack([found[index] for index in sorted(found)])  # type: ignore[attr-defined]
    wanted = [
        average_precision_score(known[known >= 0], score[known >= 0]) if (known == 1).any() else np.nan
        for known, score in zip(labels.T, scores.T, strict=True)
    ]
    (row,) = result.rows
    assert isinstance(row.outcomes[0], AveragePrecision)
    np.testing.assert_allclose(row.outcomes[0].per_class(), wanted, rtol=0, atol=1e-6)


def test_notes_are_said(run: Path, devkit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned([f"rescaled:{run}"], "classify", devkit, reference=False)
    assert "rescaled run: ratios of gradient to weights" in capsys.readouterr().err


def test_other_proposals_are_another_run(run: Path, devkit: Path, tmp_path: Path) -> None:
    file, names = tmp_path / "boxes.npz", [f"{number:06}" for number in range(40)]
    found = []
    for boxes in ([[0.0, 0, 30, 30], [20, 20, 60, 60]], [[0.0, 0, 60, 60], [1, 2, 20, 20]]):
        write_proposals(file, dict.fromkeys(names, np.array(boxes, np.float32)))
        changed = {"head": {**SMALL["detect"]["head"], "form": "fast"}, "proposals": str(file), "reference": False}
        found += tuned([run], "detect", devkit, **changed)
    assert found[0].train_digest != found[1].train_digest and found[0].file != found[1].file


def test_the_same_images_elsewhere_are_the_same_run(run: Path, devkit: Path, tmp_path: Path) -> None:
    (first,) = tuned([run], "segment", devkit, reference=False)
    (tmp_path / "link").symlink_to(devkit, target_is_directory=True)
    (again,) = tuned([run], "segment", tmp_path / "link", reference=False)
    assert again.file == first.file and again.test == first.test, "it is read back"


def test_masks_changed_after_the_test_are_noticed(run: Path, devkit: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(devkit, tmp_path / "VOCdevkit"))
    (first,) = tuned([run], "segment", copied, reference=False)
    masks = copied / "VOC2007" / "SegmentationClass"
    (masks / "000031.png").write_bytes((masks / "000030.png").read_bytes())
    (again,) = tuned([run], "segment", copied, reference=False)
    assert again.test_digest != first.test_digest


def test_networks_are_refused_before_any_is_trained(
    run: Path, devkit: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(asked("detect", devkit)))
    words = ["finetune", "detect", str(run), "timm:resnet18:random", "--config", str(tmp_path / "recipe.yaml")]
    assert pretint.cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("pretint: timm:resnet18:random: ") and error.count("\n") == 1, error
    assert not (run / "finetuned").exists()


def test_what_is_never_answered_by_a_number_is_refused(run: Path, devkit: Path, tmp_path: Path) -> None:
    wild = {"steps": 1, "warmup": 0, "optimizer": "sgd", "lr": 1e30, "clip": 1e30}
    for task in ("segment", "detect", "classify"):
        with pytest.raises(UserError, match="not finite"):
            tuned([run], task, devkit, reference=False, training=wild)
    copied = Path(shutil.copytree(devkit, tmp_path / "VOCdevkit"))
    for number in range(24, 40):
        mask = copied / "VOC2007" / "SegmentationClass" / f"{number:06}.png"
        Image.new("L", Image.open(mask).size, 255).save(mask)
        xml = copied / "VOC2007" / "Annotations" / f"{number:06}.xml"
        xml.write_text("<annotation></annotation>")
    with pytest.raises(UserError, match="no test image to evaluate the network on"):
        tuned([run], "segment", copied, reference=False)
    with pytest.raises(UserError, match="no object to find"):
        tuned([run], "detect", copied, reference=False)


@pytest.mark.parametrize("name", ["rescaled:", "rescaled:rescaled:RUN"])
def test_one_network_is_rescaled_once(name: str, run: Path, devkit: Path) -> None:
    with pytest.raises(UserError, match="name exactly one network after rescaled:"):
        tuned([name.replace("RUN", str(run))], "classify", devkit)


def test_other_commands_refuse_a_fine_tuned_network(
    run: Path, devkit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (result,) = tuned([run], "classify", devkit, reference=False)
    capsys.readouterr()
    folder = str(folder_of(result))
    for words in (["colorize", folder, str(devkit)], ["export", folder, str(tmp_path / "x.safetensors")]):
        assert pretint.cli.main(words) == 2
        error = capsys.readouterr().err
        assert "a fine-tuned network" in error and error.count("\n") == 1, error
    assert pretint.cli.main(["pretrain", folder, "--data.source", "bundled", "--training.steps", "200"]) == 2
    error = capsys.readouterr().err
    assert "began with other settings" in error and len(error) < 1200, error


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    run: Path, devkit: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = tuned([run], "classify", devkit, reference=False)
    newest = newest_checkpoint(folder_of(first[0]))
    assert newest is not None
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    Path(first[0].file).unlink()
    again = tuned([run], "classify", devkit, reference=False)
    assert "the checkpoint before it, is used" in capfd.readouterr().err
    assert numbers(again) == numbers(first)


def test_memory_that_runs_out_in_a_step(run: Path, devkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator really refuses: no machine has so much."""
    monkeypatch.setattr("pretext.engine.trainer._Loss.forward", lambda *_: torch.ones(2**50))
    with pytest.raises(UserError, match=r"GB more were needed; .* lower training\.micro_batch") as error:
        tuned([run], "classify", devkit)
    assert "\n" not in str(error.value)
