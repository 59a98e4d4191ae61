"""From a study's file to its cells: what they are, and what tells one from another."""

import datetime
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import yaml
from devkits import write_devkit, write_masks
from PIL import Image

from benchmarks.folds import write as write_lists
from pretext.backbones.contract import BackboneSettings
from pretext.data.source import DataSettings
from pretext.data.voc import CLASSES
from pretext.errors import UserError
from pretext.methods import MethodSettings
from pretext.recipe import PretrainSettings
from pretext.scale import ScaleSettings
from pretint.study import identity
from pretint.study.cells import CellStore, StudyPlan, read_plan
from pretint.study.expand import expand
from pretint.study.file import StudySettings, read_study

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "study").glob("*.yaml"))

Change = Callable[[StudySettings], None]


@pytest.fixture
def plan(small: Path, sets: Path, tmp_path: Path) -> Callable[..., StudyPlan]:
    """The cells of the small study, after a change."""

    def make(change: Change = lambda study: None, folder: Path = sets, root: Path = tmp_path / "studies") -> StudyPlan:
        study = read_study(small, {"images": str(folder)})
        change(study)
        return expand(study, CellStore(root))

    return make


def keys(plan: StudyPlan, evaluation: str = "neighbors") -> dict[tuple[str, int], str]:
    return {(cell.variant, cell.seed): cell.key for cell in plan.cells if cell.evaluation == evaluation}


def test_every_variant_seed_and_evaluation_has_its_cell(plan: Callable[..., StudyPlan], tmp_path: Path) -> None:
    found = plan()
    assert [cell.name for cell in found.cells] == [
        *(f"random {seed} neighbors" for seed in (0, 1)),
        *(f"{v} {s}{e}" for v in ("L2", "rebalanced") for s in (0, 1) for e in ("", " neighbors", " color")),
    ], "random weights are not pretrained, and have no colors"
    assert len({cell.key for cell in found.cells}) == len(found.cells)
    by_key = {cell.key: cell for cell in found.cells}
    for cell in found.cells:
        before = by_key.get(cell.after)
        assert (before is None) == (cell.variant == "random" or cell.evaluation == "")
        if before:
            assert (before.variant, before.seed, before.evaluation) == (cell.variant, cell.seed, "")
            network = str(tmp_path / "studies" / before.folder)
            assert before.call["positionals"] == [network] and cell.call["positionals"] == [[network]]
    assert found.against == {"L2": "random", "rebalanced": "random"}
    assert found.differing == {"objective.name": {"L2": "regression", "rebalanced": "rebalanced"}}
    file = tmp_path / "plan.json"
    found.write(file)
    assert read_plan(file) == found


def rename(study: StudySettings) -> None:
    study.variants = {"chance": study.variants["random"], "ours": {}, "theirs": study.variants["L2"]}
    study.baseline, study.about = "chance", "other words"


def machine(study: StudySettings) -> None:
    study.settings["machine"] = {"workers": 1, "cache": 0}
    study.evaluations["neighbors"] |= {"workers": 1, "device": "cpu"}


def oppose(study: StudySettings) -> None:
    study.evaluations["color"]["against"] = "rebalanced"


def widen(study: StudySettings) -> None:
    study.seeds = [2, 0, 1]
    study.variants["plain"] = {"objective.name": "plain"}


def test_names_machines_and_more_of_it_change_no_cell(plan: Callable[..., StudyPlan]) -> None:
    before = keys(plan())
    renamed = keys(plan(rename))
    for old, new in (("random", "chance"), ("rebalanced", "ours"), ("L2", "theirs")):
        assert [before[old, seed] for seed in (0, 1)] == [renamed[new, seed] for seed in (0, 1)]
    assert keys(plan(machine)) == before
    assert keys(plan(oppose)) == before
    assert before.items() <= keys(plan(widen)).items()


def test_moved_images_are_the_same_and_changed_ones_are_not(
    plan: Callable[..., StudyPlan], sets: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(sets, tmp_path / "moved")
    assert keys(plan(folder=moved)) == keys(plan())
    other = shutil.copytree(sets, tmp_path / "other")
    for path in other.rglob("*.png"):  # the same names
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert not set(keys(plan(folder=other)).values()) & set(keys(plan()).values())


def test_random_weights_for_named_channels_depend_on_the_scale() -> None:
    def key(**settings: Any) -> str:
        data = DataSettings("channels:p,q:folder")
        recipe = PretrainSettings(data=data, method=MethodSettings("cross_channel"), **settings)
        return identity.key_of(identity.random_weights(recipe))

    named = BackboneSettings(inputs=["p"])
    keys = [key(backbone=named), key(backbone=named, scale=ScaleSettings(log=True)), key(backbone=BackboneSettings())]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda study: study.settings["training"].update(steps=7),
        lambda study: study.settings.update({"objective.uniform": 0.4}),
        lambda study: study.settings.update({"crop.size": 20}),
    ],
)
def test_science_changes_the_cells(plan: Callable[..., StudyPlan], change: Change) -> None:
    before, after = keys(plan()), keys(plan(change))
    assert before["rebalanced", 0] != after["rebalanced", 0] and before["rebalanced", 1] != after["rebalanced", 1]


def test_an_evaluation_by_other_settings_is_another(plan: Callable[..., StudyPlan]) -> None:
    def change(study: StudySettings) -> None:
        study.evaluations["neighbors"]["fraction"] = 0.5

    before, after = plan(), plan(change)
    assert not set(keys(before).values()) & set(keys(after).values())
    assert keys(before, "") == keys(after, "") and keys(before, "color") == keys(after, "color")


def test_two_variants_that_are_the_same_are_made_once(plan: Callable[..., StudyPlan]) -> None:
    def change(study: StudySettings) -> None:
        study.variants["again"] = {"objective": {"uniform": 0.5}}

    found = plan(change)
    for cell in found.of("again", "") + found.of("again", "neighbors"):
        (twin,) = [one for one in found.of("rebalanced", cell.evaluation) if one.seed == cell.seed]
        assert (cell.key, cell.folder) == (twin.key, twin.folder)


def test_at_every_point_of_a_grid_the_same_point_is_the_baseline(plan: Callable[..., StudyPlan]) -> None:
    def change(study: StudySettings) -> None:
        study.grid = {"objective.uniform": [0.25, 0.5]}
        study.variants["rebalanced"] = {"against": "L2"}
        study.variants["far"] = {"training.steps": 7, "against": "L2 uniform=0.5"}

    assert plan(change).against == {
        **{f"L2 uniform={share}": "random" for share in (0.25, 0.5)},
        **{f"rebalanced uniform={share}": f"L2 uniform={share}" for share in (0.25, 0.5)},
        **{f"far uniform={share}": "L2 uniform=0.5" for share in (0.25, 0.5)},
    }

    def own(study: StudySettings) -> None:
        change(study)
        study.baseline = "L2"

    assert "random" not in plan(own).against, "it is at no point"


def test_what_a_plugin_adds_is_known_by_the_plugin(
    plan: Callable[..., StudyPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "plugin_contents", lambda: (b"first",))
    assert keys(plan(), "") == keys(plan(), "")
    before = keys(plan(), "")
    monkeypatch.setattr(identity.OBJECTIVES, "added", {"regression"})
    first = keys(plan(), "")
    monkeypatch.setattr(identity, "plugin_contents", lambda: (b"second",))
    second = keys(plan(), "")
    for seed in (0, 1):
        assert len({before["L2", seed], first["L2", seed], second["L2", seed]}) == 3
        assert before["rebalanced", seed] == first["rebalanced", seed] == second["rebalanced", seed]


BAD = {
    "no such setting": ({"variants": {"a": {"objective.nam": "plain"}}}, "variant a: no setting is called"),
    "no such value": (
        {"variants": {"a": {"objective.name": "plane"}}},
        "variant a: objective.name is plane: did you mean plain?",
    ),
    "no such network": ({"variants": {"a": {"network": "resnet18"}}}, "variant a: network is resnet18"),
    "a published network is not trained": (
        {"variants": {"a": {"network": "timm:resnet18:random", "training.steps": 3}}},
        "is not trained",
    ),
    "a published model that is not": ({"variants": {"a": {"network": "timm:nosuch"}}}, "variant a: "),
    "a published network without a name": ({"variants": {"a": {"network": "timm:"}}}, "take random, timm:MODEL"),
    "no such weights": ({"variants": {"a": {"network": "timm:resnet18:/no.pth"}}}, "variant a: /no.pth: no such file"),
    "a recipe for what is not trained": (
        {"variants": {"a": {"network": "timm:resnet18:random", "config": "/nowhere.yaml"}}},
        "takes no config",
    ),
    "settings for random weights": (
        {"variants": {"a": {"network": "random", "objective.uniform": 0.9}}},
        "variant a: objective.uniform has no effect if network is random",
    ),
    "a setting in two ways": (
        {"variants": {"a": {"objective": {"uniform": 0.9}, "objective.uniform": 0.3}}},
        "objective.uniform is set twice",
    ),
    "an option that is no setting": ({"variants": {"a": {"print_config": ""}}}, "no setting is called print_config"),
    "a job that asks for what is not": ({"variants": {"a": {"ask": {"gpus": 4}}}}, "variant a: ask: "),
    "an evaluation that does": (
        {"evaluations": {"e": {"command": "knn", "ask": {"bogus": 4}, "train": "{sets}/train", "test": "{sets}/test"}}},
        "evaluation e: ask: ",
    ),
    "no such row": (
        {
            "evaluations": {
                "e": {"command": "knn", "row": "conv9, k=20", "train": "{sets}/train", "test": "{sets}/test"}
            }
        },
        "random has no stage conv9",
    ),
    "no command": ({"evaluations": {"e": {}}}, "evaluation e: command is missing"),
    "no such command": ({"evaluations": {"e": {"command": "prob"}}}, "evaluation e: command is prob"),
    "no images": ({"evaluations": {"e": {"command": "score"}}}, "evaluation e: images is missing"),
    "no such images": (
        {"evaluations": {"e": {"command": "score", "images": "/nowhere"}}},
        "evaluation e: /nowhere",
    ),
    "out is the study's": (
        {"evaluations": {"e": {"command": "knn", "out": "x"}}},
        "out cannot be set for one evaluation",
    ),
    "k-NN against somebody": (
        {"evaluations": {"e": {"command": "knn", "against": "L2"}}},
        "evaluation e: against is only for score",
    ),
    "rescaled for a probe": ({"evaluations": {"e": {"command": "knn", "rescaled": True}}}, "rescaled is True"),
    "no such recipe": ({"config": "/nowhere.yaml"}, "/nowhere.yaml: cannot read"),
    "a seed by the way": ({"variants": {"a": {"seed": 7}}}, "variant a: seed is set by seeds"),
    "no such backbone": ({"variants": {"a": {"backbone.name": "resnet18x"}}}, "variant a: "),
    "no such prior": ({"variants": {"a": {"objective.prior": "/no.npy"}}}, "variant a: /no.npy: no such file"),
    "a date": ({"variants": {"a": {"data.source": datetime.date(2026, 11, 20)}}}, "put it in quotes"),
    "bundled images unasked": ({"evaluations": {"e": {"command": "knn"}}}, "evaluation e: train is missing"),
    "no such protocol": (
        {"evaluations": {"e": {"command": "svm", "protocol": "voc7", "train": "{sets}/train", "test": "{sets}/test"}}},
        "did you mean voc07_svm?",
    ),
    "no such stage": (
        {"evaluations": {"e": {"command": "knn", "stages": ["conv9"], "train": "{sets}/train", "test": "{sets}/test"}}},
        "random has no stage conv9; it has conv1",
    ),
    "two modes at once": (
        {"evaluations": {"e": {"command": "probe", "mode": "both", "train": "{sets}/train", "test": "{sets}/test"}}},
        "make two evaluations",
    ),
    "a network called as a baseline": (
        {"variants": {"gray": {}}, "evaluations": {"e": {"command": "score", "images": "{sets}/test"}}},
        "variant gray colors",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line(case: str, plan: Callable[..., StudyPlan], sets: Path) -> None:
    changes, part = BAD[case]
    if "evaluations" in changes:
        filled = json.loads(json.dumps(changes["evaluations"]).replace("{sets}", str(sets)))
        changes = {"variants": {"random": {"network": "random"}, "L2": {}}, **changes, "evaluations": filled}

    def change(study: StudySettings) -> None:
        study.baseline = ""
        for name, value in changes.items():
            setattr(study, name, value)

    with pytest.raises(UserError) as error:
        plan(change)
    assert part in str(error.value) and "\n" not in str(error.value), error.value


def mat_cells(values: Iterable[object]) -> np.ndarray:
    """A cell array as MATLAB writes it."""
    listed = list(values)
    made = np.empty((len(listed), 1), object)
    made[:, 0] = listed
    return made


@pytest.fixture(scope="module")
def everything(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder or a file for every place that a shipped study names, with very little in it."""
    voc, named = (tmp_path_factory.mktemp(name) for name in ("voc", "named"))
    shutil.copytree(sets / "train", named / "train")
    shutil.copytree(sets / "test", named / "val")
    places = {"images": named, "imagenet": named, "shards": named / "train", "test": named / "val", "voc": voc}
    boxes = np.array([[1.0, 1, 20, 20], [3, 3, 30, 30]])
    classes = sorted(CLASSES)
    for part, right in (("trainval", 30), ("test", 50)):  # no image is in both
        marked = {f"{part}{at}": [(name, (5, 5, right, 30), 0)] for at, name in enumerate(classes)}
        write_devkit(voc, marked, "2007", part)
        places[f"{part}_boxes"] = named / f"{part}.mat"
        proposed = {"images": mat_cells(marked), "boxes": mat_cells(boxes for _ in marked)}
        scipy.io.savemat(named / f"{part}.mat", proposed)
    write_devkit(voc, {f"both{at}": [(name, (5, 5, 40, 30), 0)] for at, name in enumerate(classes)}, "2012", "trainval")
    masks = {f"{part}{at}": np.full((40, 60), at + 1, np.uint8) for part in ("train", "val") for at in range(20)}
    for at in range(20):
        masks[f"val{at}"][:8] = 0
    for part in ("train", "val", "all"):
        of_part = {stem: mask for stem, mask in masks.items() if stem.startswith(part)}
        write_masks(voc / "VOC2012", of_part or {"extra": masks["train1"]}, part)
    write_lists(str(named / "train"), named / "lists", 2, [5, 9, 20, 80, 90, 900])
    places |= {"aerial": named / "train", "photographs": named / "val", "lists": named / "lists" / "fold0"}
    places |= {"of_satellite": named / "train", "of_bands": named / "train", "of_xray": sets}
    places["sbd"] = named / "sbd"
    (named / "sbd" / "cls").mkdir(parents=True)
    scipy.io.savemat(named / "sbd" / "cls" / "extra.mat", {"GTcls": {"Segmentation": masks["train1"]}})
    return {name: str(place) for name, place in places.items()}


@pytest.mark.slow
@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_studies_are_right(file: Path, everything: dict[str, str], tmp_path: Path) -> None:
    text = file.read_text()
    places = {name: everything[name] for name in yaml.safe_load(text)["places"]}
    if file.stem == "voc_small":
        places["images"] = everything["shards"]
    elif f"of_{file.stem}" in everything:
        places["images"] = everything[f"of_{file.stem}"]
    study = read_study(file, places)
    found = expand(study, CellStore(tmp_path))
    assert {cell.variant for cell in found.cells} == set(found.variants)
    wanted = set(study.evaluations)
    assert {cell.evaluation for cell in found.cells if cell.evaluation} == wanted
    assert max(map(len, text.splitlines())) <= 120
    assert f"pretint study configs/study/{file.name}" in text, "every recipe begins with its command"


def test_evaluations_of_the_study_of_backbones_ask_for_one_gpu(everything: dict[str, str], tmp_path: Path) -> None:
    (file,) = (one for one in SHIPPED if one.stem == "backbones")
    places = {name: everything[name] for name in ("shards", "imagenet", "voc")}
    for cell in expand(read_study(file, places), CellStore(tmp_path)).cells:
        asked = (cell.ask.get("nodes"), cell.ask.get("tasks_per_node"), cell.ask.get("gpus_per_node"))
        assert asked == ((1, 1, 1) if cell.evaluation else (None, None, None)), cell.name


def test_the_example_of_the_documentation_is_right(everything: dict[str, str], tmp_path: Path) -> None:
    """But for weights that are nobody's."""
    configs = SHIPPED[0].parents[1]
    example = (configs.parent / "docs" / "studies.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    for name in ("pretext", "transfer"):
        (tmp_path / name).symlink_to(configs / name)
    file = tmp_path / "study" / "example.yaml"
    file.parent.mkdir()
    file.write_text(example.replace("resnet18.safetensors", "random"))
    study = read_study(file, {name: everything[name] for name in ("images", "voc")})
    found = expand(study, CellStore(tmp_path / "studies"))
    assert {cell.evaluation for cell in found.of("published", "k-NN")} == set()
    assert len(found.of("published", "linear probe")) == len(found.of("L2", "k-NN")) == 3
    assert len(found.of("rebalanced", "detection")) == 3


def test_labels_that_are_learned_belong_to_the_images(
    plan: Callable[..., StudyPlan], sets: Path, tmp_path: Path
) -> None:
    def supervised(study: StudySettings) -> None:
        study.variants["rebalanced"] = {"method.name": "supervised"}

    other = shutil.copytree(sets, tmp_path / "other")
    before = keys(plan(supervised), "")
    assert keys(plan(supervised, folder=other), "") == before
    for part in ("train", "test"):
        (other / part / "class0").rename(other / part / "class9")
    assert keys(plan(supervised, folder=other), "")["rebalanced", 0] != before["rebalanced", 0]


def test_a_setting_that_is_the_default_changes_no_cell(plan: Callable[..., StudyPlan]) -> None:
    """So that one which a later version adds does not either."""

    def change(study: StudySettings) -> None:
        study.settings["objective"] |= {"uniform": 0.5, "neighbors": 10}
        study.evaluations["neighbors"] |= {"fraction": 1.0, "storage": "float16"}

    assert keys(plan(change)) == keys(plan()) and keys(plan(change), "") == keys(plan(), "")
