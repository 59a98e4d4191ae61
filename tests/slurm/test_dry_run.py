"""submit --dry-run on a machine that has no Slurm."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_jobs import SETTINGS, write_cluster_file

import pretint.cli

Submit = Callable[..., tuple[int, str, str]]


@pytest.fixture
def submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Submit:
    """pretint submit without any command of Slurm on the path; gives the exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    def call(*words: str, **asked: object) -> tuple[int, str, str]:
        code = pretint.cli.main(["submit", "--on", write_cluster_file(**asked), *words])
        return code, *capsys.readouterr()

    return call


def test_it_shows_the_script_and_says_what_it_could_not_check(submit: Submit, tmp_path: Path) -> None:
    code, out, err = submit(
        "--dry-run", "--after", "123", "pretrain", "runs/x", *SETTINGS, partition="gpu", minutes=99999
    )
    assert code == 0, err
    assert "#SBATCH --partition=gpu" in out and "#SBATCH --time=99999" in out and "afterok:123" in out
    (line,) = [line for line in out.splitlines() if line.startswith("not checked")]
    assert "sbatch is not on this machine" in line and "partition" in line and "limits of time" in line
    assert "GPU-hours: at most" in out and "disk: " in out
    assert not Path("jobs").exists() and not Path("runs").exists(), "nothing is left behind"


def test_a_list_of_jobs(submit: Submit) -> None:
    entries = [{"name": f"job-{number}", "command": "table runs"} for number in range(3)]
    Path("jobs.yaml").write_text(json.dumps(entries))
    code, out, err = submit("--dry-run", "--jobs", "jobs.yaml")
    assert code == 0 and "and 2 more that ask for the same" in out and out.count("not checked") == 1, err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--folder", "jobs%j", "report", "x"], "Slurm cannot write logs to such a path"),
        (["--after", "nobody", "report", "x"], "waits for nobody"),
        (["--memory_gb", "0.0001", "report", "x"], "memory_gb is 0.0001"),
        (["pretrain", "x", "--training.lrr", "1"], "training.lrr"),
    ],
)
def test_what_this_machine_knows_is_checked_all_the_same(words: list[str], reason: str, submit: Submit) -> None:
    code, out, err = submit("--dry-run", *words)
    assert code == 2 and not out and reason in err and err.count("\n") == 1


def test_sending_still_needs_slurm(submit: Submit) -> None:
    code, out, err = submit("report", "x")
    assert code == 2 and not out and err.startswith("pretint: sbatch: no such command here")


@pytest.mark.parametrize("executor", ["local", "debug"])
def test_this_machine_needs_no_slurm(executor: str, submit: Submit, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = submit("--dry-run", "report", "x", executor=executor)
    assert code == 0 and "not checked" not in out and "jobs: 1" in out, err
    assert pretint.cli.main(["jobs"]) == 0
    assert "Traceback" not in "".join(capsys.readouterr())
