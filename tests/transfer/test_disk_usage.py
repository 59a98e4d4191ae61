"""What is said of the disk beforehand against what real evaluations and fine-tunings then wrote."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluations import QUICK
from shapes import make_devkit
from tiers import one_fast

import transfer.evaluation
from pretext.engine.checkpoint import checkpoint_bytes
from pretext.engine.signals import ExitStatus
from pretext.settings import settings_from
from transfer.disk_usage import finetune_disk, knn_disk, probe_disk, svm_disk
from transfer.finetune import finetune
from transfer.probes.knn import KnnSettings, knn
from transfer.probes.linear import ProbeSettings, probe
from transfer.probes.svm import SvmSettings, svm
from transfer.protocols import PROTOCOLS, SvmProtocol
from transfer.tasks.registry import TASKS
from transfer.tasks.task import FinetuneSettings


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_devkit(tmp_path_factory.mktemp("voc"))


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "modern", QUICK)
    machines = PROTOCOLS["voc07_svm"]
    assert isinstance(machines, SvmProtocol)
    monkeypatch.setitem(PROTOCOLS, "voc07_svm", replace(machines, costs=(0.01, 0.1)))


def taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def asked(kind: Any, sets: Path, place: Path, **changed: Any) -> Any:
    common = {
        "train": str(sets / "train"),
        "test": str(sets / "test"),
        "workers": 0,
        "cache": str(place / "cache"),
        "out": place / "out",
    }
    return kind(**{**common, **changed})


JOBS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "probe": (probe_disk, probe, ProbeSettings, {}),
    "probe, float32": (probe_disk, probe, ProbeSettings, {"storage": "float32", "stages": ["conv1"]}),
    "probe, both": (probe_disk, probe, ProbeSettings, {"mode": "both", "stages": ["conv2"]}),
    "logistic": (probe_disk, probe, ProbeSettings, {"protocol": "logistic"}),
    "knn": (knn_disk, knn, KnnSettings, {}),
    "svm": (svm_disk, svm, SvmSettings, {"stages": ["conv1", "conv3"]}),
}


@pytest.mark.parametrize("job", one_fast("probe", JOBS))
def test_features_and_results(job: str, run: Path, sets: Path, tmp_path: Path) -> None:
    say, do, kind, changed = JOBS[job]
    settings = asked(kind, sets, tmp_path, **changed)
    before = taken(run)
    said = say([str(run), "random:tiny"], settings)
    assert taken(run) == before and sorted(one.name for one in tmp_path.iterdir()) == ["run"]
    results = do([str(run), "random:tiny"], settings)
    columns = [one for one in (tmp_path / "cache").rglob("*.f*") if one.suffix in (".f16", ".f32")]
    assert said.lasting == said.parts[0][1] == sum(one.stat().st_size for one in columns)
    assert said.lasting + said.passing == sum(size for _, size in said.parts)

    again = say([str(run), "random:tiny"], settings)
    assert again.lasting == again.passing == 0 and any("is evaluated" in note for note in again.notes)
    for result in results:
        Path(result.file).unlink()
    assert say([str(run), "random:tiny"], settings).parts == (
        ("features that are not in the cache yet", 0),
        *said.parts[1:],
    )


def test_features_that_are_there_in_part(run: Path, sets: Path, tmp_path: Path) -> None:
    settings = asked(KnnSettings, sets, tmp_path)
    for result in knn([str(run)], settings):
        Path(result.file).unlink()
    file = next((tmp_path / "cache").glob("*/*.conv1.*"))
    whole = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(whole // 2)
    assert knn_disk([str(run)], settings).lasting == whole - whole // 2


@pytest.mark.parametrize("mode", ["cached", "augmented"])
def test_half_trained_classifiers(
    mode: Any, run: Path, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, sizes = asked(ProbeSettings, sets, tmp_path, mode=mode, reference=False), [0]
    said = probe_disk([str(run)], settings)
    monkeypatch.setattr(transfer.evaluation, "SAVED_EVERY", 0.0)

    real = transfer.evaluation.write_state

    def saved(file: Any, state: dict[str, Any]) -> None:
        sizes.append(len(checkpoint_bytes(state)))
        real(file, state)

    monkeypatch.setattr(transfer.evaluation, "write_state", saved)
    probe([str(run)], settings)
    assert max(sizes) * 0.9 < said.passing / 2 < max(sizes) * 1.5


SMALL: dict[str, dict[str, Any]] = {
    "classify": {"size": 48, "crop": {"area": [0.6, 1.0]}},
    "detect": {
        "size": 64,
        "sizes": {"shorter": [48, 64], "longest": 128},
        "head": {
            "neck": "conv4",
            "width": 32,
            "pooled": 3,
            "anchors": [16.0, 32.0],
            "candidates": [64, 64],
            "proposals": [32, 32],
            "rois": 16,
        },
    },
    "segment": {"size": 64, "crops": {"size": 48, "shorter": 64}, "head": {"kind": "fcn8"}},
}


def tuning(task: str, devkit: Path, **changed: Any) -> FinetuneSettings:
    training = {"steps": 6, "batch_size": 4, "warmup": 1, "optimizer": "adamw", "lr": 1e-3, "precision": "fp32"}
    values = {
        "train": f"voc:2007:train:{devkit}",
        "test": f"voc:2007:test:{devkit}",
        "protocol": "small",
        "holdout": 2,
        **SMALL[task],
        "machine": {"workers": 0, "checkpoint_every": 2, "evaluate_every": 3},
        **changed,
        "training": {**training, **changed.get("training", {})},
    }
    return settings_from(TASKS[task].settings, values, "test")


@pytest.mark.parametrize(
    ("task", "changed"),
    one_fast(
        ("classify", {}),
        [
            ("classify", {}),
            ("detect", {}),
            ("segment", {}),
            ("classify", {"freeze_to": "conv3", "training": {"optimizer": "sgd", "ema": 0.9}}),
        ],
    ),
)
def test_fine_tuning(task: str, changed: dict[str, Any], run: Path, devkit: Path) -> None:
    settings, before = tuning(task, devkit, **changed), taken(run)
    said = finetune_disk(task, [str(run)], settings)
    assert taken(run) == before
    done = finetune([str(run)], settings)
    assert done.ending == ExitStatus.COMPLETE
    assert said.lasting == pytest.approx(taken(run) - before, rel=0.1)
    kept = sorted(run.glob("finetuned/*/checkpoints/*.pt"))
    assert said.passing == pytest.approx(kept[-1].stat().st_size, rel=0.01)
    assert sum(size for name, size in said.parts if "two checkpoints" in name) == pytest.approx(
        sum(path.stat().st_size for path in kept), rel=0.01
    )
    assert said.lasting + said.passing == sum(size for _, size in said.parts)
    again = finetune_disk(task, [str(run)], settings)
    assert again.lasting == again.passing == 0 and len([n for n in again.notes if "is done" in n]) == 2
