"""A job is sent unchanged: the same run, by submitit, in a process of its own."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from pretext.engine.journal import read_journal
from pretext.pretraining import pretrain
from pretext.recipe import PretrainSettings
from pretext.settings import settings_from
from slurm import ClusterSettings, submit
from slurm.jobs import AGAIN, Resumable


def test_a_pretraining_as_a_cluster_job(tmp_path: Path) -> None:
    values = {
        "crop": {"size": 16},
        "objective": {"prior_pictures": 20, "stride": 4},
        "training": {"steps": 3, "batch_size": 8, "warmup": 1},
        "machine": {"workers": 0},
    }
    settings = settings_from(PretrainSettings, values, "test")
    local = ClusterSettings(cluster="local", minutes=5)
    job = submit(pretrain, tmp_path / "run", settings, logs=tmp_path / "logs", settings=local)
    assert job.result() == 0
    assert [r["step"] for r in read_journal(tmp_path / "run") if r["kind"] == "step"] == [1, 2, 3]


def test_an_interrupted_job_is_sent_again_as_it_was() -> None:
    job = Resumable(divmod, (7, 3))
    again = job.checkpoint()
    assert again.function() == job() == (2, 1)


class Ended(NamedTuple):
    """What a job returns that has more to say than how it ended."""

    ending: int


def _preempted() -> Ended:
    return Ended(AGAIN)


def test_a_job_says_by_its_ending_that_it_wants_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Resumable(_preempted, ())() == Ended(AGAIN), "here nobody would call it again"
    raised: list[int] = []
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setattr("slurm.jobs.submitit.JobEnvironment", lambda: SimpleNamespace(num_tasks=1))
    monkeypatch.setattr("slurm.jobs.signal.raise_signal", raised.append)
    monkeypatch.setattr("slurm.jobs.time.sleep", lambda seconds: None)
    with pytest.raises(SystemExit):
        Resumable(_preempted, ())()
    assert raised == [signal.SIGUSR2]
