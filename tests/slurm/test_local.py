"""Jobs on this machine, without Slurm: in the background and in the foreground."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_jobs import JOBS, SETTINGS, describe_jobs, read_losses, read_state, wait_for, write_cluster_file
from waits import PATIENCE

import pretint.cli
from pretext.backbones import BACKBONES
from slurm import states
from slurm.records import attempts

WORDS = ["pretrain", "runs/x", *SETTINGS, "--machine.workers", "0", "--training.steps"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def send(*words: str, executor: str = "local", **asked: object) -> int:
    file = Path("here.yaml")
    file.write_text(json.dumps({"executor": executor, "environment": {"OMP_NUM_THREADS": "1"}, **asked}))
    return pretint.cli.main(["submit", "--on", str(file), *words])


def ended(name: str) -> str:
    wait_for(lambda: not read_state(name).live, "ended")
    return read_state(name).word


@pytest.mark.slow
def test_a_job_in_the_background_is_canceled_and_goes_on_when_sent_again(folder: Path) -> None:
    setup = ["export SAID=before", f'echo "$SAID $CUDA_VISIBLE_DEVICES" > {folder}/said']
    send(setup=setup, executor="local")
    command = [sys.executable, "-m", "pretint", "submit", "--on", "here.yaml", *WORDS, "100000"]
    env = {**os.environ, "PYTHONPATH": str(Path(pretint.__file__).parents[1]), "CUDA_VISIBLE_DEVICES": "7"}
    said = subprocess.run(command, capture_output=True, text=True, env=env, timeout=PATIENCE, check=True).stdout
    assert "pretrain-x: job " in said and read_state("pretrain-x").live, "nobody waits for it"
    wait_for(lambda: Path("runs/x/journal.jsonl").exists() and len(read_losses("runs/x")) > 5, "steps")
    assert read_state("pretrain-x").word == "running" and Path("said").read_text() == "before 7\n"
    sent = read_state("pretrain-x").sent
    assert pretint.cli.main(["jobs", "cancel", "pretrain-x"]) == 0
    assert read_state("pretrain-x").word == "canceled"
    wait_for(lambda: not Path(f"/proc/{sent.id}").exists() or "defunct" in _command(sent.id), "gone")
    done = read_losses("runs/x")
    kinds = [one["kind"] for one in attempts(Path(sent.folder))]
    assert kinds.count("start") == 1, describe_jobs()
    assert send(*WORDS, "100000") == 0
    wait_for(lambda: len(read_losses("runs/x")) > len(done), "steps")
    assert pretint.cli.main(["jobs", "cancel", "all"]) == 0
    assert ended("pretrain-x") == "canceled"


def _command(pid: str) -> str:
    return subprocess.run(["ps", "-o", "args=", "-p", pid], capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
def test_what_failed_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert send("table", "nothing") == 0
    assert ended("table-nothing") == "failed"
    assert "nothing" in read_state("table-nothing").why
    assert send("--name", "broken", "table", "nothing", setup=["false"]) == 0
    assert ended("broken") == "lost" and "its log may show why" in read_state("broken").why
    entries = [{"name": f"job-{number}", "command": f"table {number}"} for number in range(3)]
    Path("jobs.yaml").write_text(json.dumps(entries))
    assert send("--jobs", "jobs.yaml", at_once=2) == 2
    assert "3 jobs would run at the same time, more than at_once, 2" in capsys.readouterr().err
    assert send("--after", "job-0", "table", "nothing") == 2


@pytest.mark.slow
def test_two_processes_in_the_background() -> None:
    assert send(*WORDS, "20", tasks_per_node=2) == 0
    assert ended("pretrain-x") == "complete", describe_jobs()
    assert len(read_losses("runs/x")) == 20


@pytest.mark.slow
def test_a_job_in_the_foreground_is_told_to_stop(folder: Path) -> None:
    send(executor="debug")
    command = [sys.executable, "-m", "pretint", "submit", "--on", "here.yaml", *WORDS, "100000"]
    env = {**os.environ, "PYTHONPATH": str(Path(pretint.__file__).parents[1])}
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        before = len(read_losses("runs/x")) if Path("runs/x").exists() else 0
        process = subprocess.Popen(command, env=env, start_new_session=True, stderr=subprocess.DEVNULL)
        wait_for(lambda before=before: Path("runs/x").exists() and len(read_losses("runs/x")) > before, "steps")  # type: ignore[misc]
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
            assert process.wait(PATIENCE) == code
            assert read_state("pretrain-x").word == "stopped"
        else:
            assert pretint.cli.main(["jobs", "cancel", "pretrain-x"]) == 0
            assert process.wait(PATIENCE) == code


@pytest.mark.slow
def test_a_job_in_the_foreground(folder: Path) -> None:
    file = write_cluster_file(executor="debug")
    words = [sys.executable, "-m", "pretint", "submit", "--on", str(folder / file)]
    env = {**os.environ, "PYTHONPATH": str(Path(pretint.__file__).parents[1])}

    def run(*more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*words, *more], capture_output=True, text=True, env=env, check=False)

    done = run(*WORDS, "12")
    assert done.returncode == 0, done.stderr
    assert "report: runs/x" in done.stdout, "it speaks on this terminal"
    assert read_state("pretrain-x").word == "complete"
    failed = run("table", "nothing")
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("pretint: table-nothing: its command failed with exit code 2")
    assert read_state("table-nothing").word == "failed" and len(states(JOBS)) == 2


@pytest.mark.slow
def test_a_job_runs_a_copy_of_the_plugins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = folder / "own_net.py"
    plugin.write_text("from pretext.backbones import *\n\nBACKBONES['own_net'] = Tiny\n")
    monkeypatch.setenv("PRETINT_PLUGINS", plugin.name)
    try:
        assert send(*WORDS, "12", "--backbone.name", "own_net") == 0
        plugin.write_text("raise RuntimeError('what is edited afterwards does not change the job')\n")
        assert ended("pretrain-x") == "complete", describe_jobs()
        (copy,) = (JOBS / ".given").glob("own_net-*.py")
        assert "BACKBONES" in copy.read_text()
    finally:
        sys.modules.pop("own_net", None)
        BACKBONES.pop("own_net", None)
