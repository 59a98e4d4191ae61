"""A study on a real Slurm: its cells as jobs, each after the one that it needs."""

import getpass
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluations import read_study_numbers, write_class_images
from slurm_jobs import count_restarts, describe_jobs, wait_for, write_cluster_file
from waits import PATIENCE

import pretint.cli
from slurm import cancel, states

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

STUDY = """
settings:
  data.source: images/train
  crop.size: 16
  objective: {stride: 4, prior_images: 20}
  training: {steps: 6, batch_size: 8, warmup: 1}
  machine: {workers: 0, device: cpu}
variants:
  random: {network: random}
  rebalanced: {ask: {cpus_per_task: 2}}
  broken: {objective.prior: prior.npy}
baseline: random
evaluations:
  neighbors: {command: knn, train: images/train, test: images/test}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    write_class_images(tmp_path / "images" / "train", 1)
    write_class_images(tmp_path / "images" / "test", 2)
    (tmp_path / "asked.yaml").write_text(STUDY)
    (tmp_path / "prior.npy").write_text("no prior")
    yield tmp_path
    monkeypatch.undo()
    subprocess.run(["scancel", "--user", getpass.getuser()], check=True, timeout=PATIENCE)


def words() -> dict[str, str]:
    """How the jobs stand, by variant and command."""
    return {
        " ".join([state.sent.name.partition("-")[0], state.sent.line.split()[1]]): state.word for state in states(JOBS)
    }


JOBS = Path("studies/jobs")


def test_cells_are_jobs(folder: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["study", "asked.yaml", "--on", write_cluster_file(memory_gb=1.5)]
    assert pretint.cli.main(call) == 1, describe_jobs()
    out, err = capsys.readouterr()
    wait_for(
        lambda: not any(state.live for state in states(JOBS)), "ended"
    )  # what it leaves may be there a moment before
    assert words() == {
        "random knn": "complete",
        "rebalanced pretrain": "complete",
        "rebalanced knn": "complete",
        "broken pretrain": "failed",
        "broken knn": "not run",
    }, describe_jobs()
    assert "failed: broken 0: " in out and "prior.npy" in out and "3 of 5 cells are finished" in out
    assert "rebalanced 0 neighbors: finished" in err
    asked = {state.sent.name.partition("-")[0]: state.sent.asked["cpus_per_task"] for state in states(JOBS)}
    assert asked == {"random": 1, "rebalanced": 1, "broken": 1}, "the newest of each is the evaluation"
    pretraining = next(
        one for one in states(JOBS) if one.sent.line.startswith("pretint pretrain") and one.word == "complete"
    )
    assert pretraining.sent.asked["cpus_per_task"] == 2

    jobs = [state.sent.id for state in states(JOBS)]
    assert pretint.cli.main(call) == 1
    assert [state.sent.id for state in states(JOBS)] == jobs, "nothing is sent again unasked"

    (folder / "prior.npy").unlink()
    shutil.copy(shared_data / "colour-bins" / "prior_probs.npy", folder / "prior.npy")
    capsys.readouterr()
    # The prior is told by its content: another one makes another cell.
    assert pretint.cli.main([*call, "--retry"]) == 0, describe_jobs()
    assert "rebalanced 0: started" not in capsys.readouterr().err
    assert (folder / "studies" / "asked" / "report.md").exists()


def test_jobs_go_on_when_the_study_is_left(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = STUDY.replace("steps: 6", "steps: 100000").replace("  broken: {objective.prior: prior.npy}\n", "")
    (folder / "asked.yaml").write_text(text)
    call = ["study", "asked.yaml", "--on", write_cluster_file(memory_gb=1.5), "--wait", "false"]
    assert pretint.cli.main(call) == 0
    out, _ = capsys.readouterr()
    assert "3 jobs sent" in out
    numbers = {state.sent.id for state in states(JOBS)}
    assert pretint.cli.main(call) == 0
    assert {state.sent.id for state in states(JOBS)} == numbers, "they are in the queue already"
    cancel(JOBS, ["all"])
    assert pretint.cli.main(call) == 1
    assert "canceled" in capsys.readouterr().out


METHODS = (
    STUDY.split("variants:")[0].replace("steps: 6", "steps: 400")
    + """
variants:
  colorization: {objective.name: plain}
  SimCLR: {method.name: simclr, backbone.inputs: rgb}
baseline: colorization
evaluations:
  neighbors: {command: knn, train: images/train, test: images/test}
"""
)


def test_methods_that_are_preempted_end_as_those_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "methods.yaml").write_text(METHODS)
    call = ["study", "methods.yaml", "--on", write_cluster_file(memory_gb=1.5), "--wait", "false"]
    assert pretint.cli.main(call) == 0
    pretrainings = {state.sent.id for state in states(JOBS) if state.sent.line.startswith("pretint pretrain")}
    assert len(pretrainings) == 2

    def preempt() -> bool:
        """Requeue each pretraining once, when its command is at work; whether all were."""
        for state in states(JOBS):
            if state.sent.id in pretrainings and (Path(state.sent.folder) / "progress.json").exists():
                subprocess.run(["scontrol", "requeue", state.sent.id], check=True, timeout=PATIENCE)
                pretrainings.discard(state.sent.id)
        return not pretrainings

    wait_for(preempt, "preempted", 2 * PATIENCE)
    wait_for(lambda: not any(state.live for state in states(JOBS)), "ended", 2 * PATIENCE)
    assert {count_restarts(state.sent) for state in states(JOBS) if " pretrain" in state.sent.line} == {1}
    assert pretint.cli.main(call) == 0, describe_jobs()
    assert "4 cells, 4 of them finished already" in capsys.readouterr().err
    assert pretint.cli.main(["study", "methods.yaml", "--folder", "alone"]) == 0
    preempted, alone = (read_study_numbers(folder / at / "methods") for at in ("studies", "alone"))
    assert preempted == alone and len(alone) > 4
