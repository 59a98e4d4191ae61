"""A job is sent unchanged: the same run, by submitit, in a process of its own."""

from pathlib import Path

from pretext.engine.journal import read_journal
from pretext.pretraining import pretrain
from pretext.recipe import PretrainSettings
from pretext.settings import settings_from
from slurm import ClusterSettings, submit
from slurm.jobs import Resumable


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
