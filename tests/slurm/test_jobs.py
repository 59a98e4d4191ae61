"""Jobs on a real Slurm: many processes, a node that dies, lists with dependencies, what goes wrong."""

import getpass
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from processes import Launcher
from slurm_jobs import (
    JOBS,
    SETTINGS,
    InterruptedJob,
    child_of,
    count_restarts,
    describe_jobs,
    read_losses,
    read_state,
    send,
    send_signal,
    wait_for,
    wait_until_complete,
    write_cluster_file,
)
from virtual_slurm.cluster import VirtualCluster
from waits import PATIENCE

import pretint.cli
from pretext.data import Bundled
from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint
from slurm import states
from slurm.records import JobRecord, SentJob, attempts

ROOT = Path(pretint.__file__).parents[1]
pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    monkeypatch.undo()
    subprocess.run(
        ["scancel", "--user", getpass.getuser()], check=True, timeout=PATIENCE
    )  # what a test that failed has left


@pytest.mark.slow
def test_two_nodes_of_two_tasks_compute_what_four_processes_do(launcher: Launcher, folder: Path) -> None:
    words = ["pretrain", f"{folder}/runs/{{}}", *SETTINGS, "--training.steps", "40", "--machine.workers", "1"]
    for name in ("slurm", "hit"):
        assert send(*(word.format(name) for word in words), nodes=2, tasks_per_node=2) == 0
    hit = InterruptedJob("pretrain-hit", "runs/hit", [send_signal("USR2")])
    wait_for(hit.look, "interrupted")
    here = launcher.start_ranks(4, *(word.format("here") for word in words))
    assert [one.wait() for one in here] == [0] * 4, here[0].output
    wait_until_complete("pretrain-slurm", "pretrain-hit")
    assert read_losses("runs/slurm") == read_losses("runs/here")
    # All four stopped after the same step, and were started again together. After a restart four processes may add
    # in another order.
    assert [step for step, _ in read_losses("runs/hit")] == list(range(1, 41))
    assert [loss for _, loss in read_losses("runs/hit")] == pytest.approx(
        [loss for _, loss in read_losses("runs/here")], abs=1e-4
    )
    assert count_restarts(hit.sent) == 1
    [start] = [one for one in read_journal(Path("runs/slurm")) if one["kind"] == "start"]
    assert start["processes"] == 4
    assert {path.name.split("_")[1] for path in (JOBS / "logs").glob("*_log.out")} == {"0", "1", "2", "3"}


@pytest.mark.slow
def test_the_code_is_that_of_the_day_it_was_sent(folder: Path) -> None:
    """From a checkout, which is edited while the job waits, as is its recipe."""
    tree = folder / "tree"
    for name in ("pretint", "pretext", "transfer", "slurm", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    recipe = tree / "mine.yaml"
    recipe.write_text("training: {steps: 15, warmup: 5}\n")
    asked = folder / write_cluster_file(options={"hold": True})
    command = [sys.executable, "-m", "pretint", "submit", "--on", str(asked), "pretrain", "runs/x", *SETTINGS]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*command, "--config", "mine.yaml"], cwd=tree, env=env, check=True, timeout=PATIENCE)
    recipe.write_text("training: {steps: nonsense}\n")
    for name in ("pretint", "pretext", "slurm"):
        (tree / name / "__init__.py").write_text("raise SystemExit('edited')\n")
    [found] = states(tree / JOBS)
    subprocess.run(["scontrol", "release", found.sent.id], check=True, timeout=PATIENCE)
    wait_for(lambda: not states(tree / JOBS)[0].live, "ended")
    assert states(tree / JOBS)[0].word == "complete", found.sent.log.read_text()
    assert len(read_losses(tree / "runs" / "x")) == 15


@pytest.mark.slow
def test_a_container_without_commands_of_slurm(folder: Path) -> None:
    words = ["pretrain", "runs/x", *SETTINGS, "--training.steps", "200", "--machine.workers", "1"]
    inside = folder / "nothing"
    inside.mkdir()
    assert send(*words, python=f"env PATH={inside} {sys.executable}") == 0
    job = InterruptedJob("pretrain-x", "runs/x", [send_signal("USR2")])
    wait_for(job.look, "interrupted")
    wait_until_complete("pretrain-x")
    assert count_restarts(job.sent) == 1
    assert [step for step, _ in read_losses("runs/x")] == list(range(1, 201))


def test_what_would_be_sent_and_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "runs/x", *SETTINGS, "--training.steps", "100"]
    asked = {"minutes": 120, "cpus_per_task": 2, "gpus_per_node": 2, "nodes": 2, "setup": ["module load 'x y'"]}
    assert send("--dry-run", *words, **asked) == 0
    said = capsys.readouterr().out
    for line in (
        "#SBATCH --time=120",
        "#SBATCH --nodes=2",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --signal=USR2@60",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "module load 'x y'",
        "GPU-hours: at most 8.0",
        "disk: ",
    ):
        assert any(one.startswith(line) for one in said.splitlines()), f"{line}\n{said}"
    assert not list(JOBS.glob("[0-9]*")) and not states(JOBS)
    assert send("--dry-run", "--partition", "mian", *words) == 2


@pytest.mark.slow
def test_a_node_that_dies(cluster: VirtualCluster) -> None:
    words = ["pretrain", "runs/{}", *SETTINGS, "--training.steps", "800", "--machine.workers", "1"]
    assert send(*(word.format("hit") for word in words)) == 0
    wait_for(lambda: Path("runs/hit/journal.jsonl").exists() and len(read_losses("runs/hit")) > 60, "steps")
    node = read_state("pretrain-hit").node
    cluster.crash(int(node[1:]))
    kept = newest_checkpoint(Path("runs/hit"))
    assert kept is not None and len(read_losses("runs/hit")) < 800, "it must be hit in the middle"
    try:
        assert send(*(word.format("alone") for word in words)) == 0
        wait_until_complete("pretrain-alone")
        wait_until_complete("pretrain-hit")
    finally:
        cluster.start(int(node[1:]))
    begun = [one["step"] for one in read_journal(Path("runs/hit")) if one["kind"] == "start"]
    assert begun == [0, int(kept.stem)], "it lost more than the steps since its last checkpoint"
    assert read_losses("runs/hit") == read_losses("runs/alone")
    hit = read_state("pretrain-hit")
    assert hit.node != node and count_restarts(hit.sent) == hit.restarts == 1


@pytest.mark.slow
def test_a_list_in_which_some_fail_is_sent_again_and_does_only_what_is_missing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two", "test"):
        (folder / name).mkdir()
    tiles = Bundled("train")
    for index in range(60):
        for name in ("one/a", "one/b", "test/a", "test/b"):
            (folder / name).mkdir(exist_ok=True)
        tiles.read(index).save(folder / "one" / "ab"[index % 2] / f"{index}.png")
        tiles.read(index + 60).save(folder / "test" / "ab"[index % 2] / f"{index}.png")
    small = " ".join([*SETTINGS, "--training.steps", "30", "--data.holdout", "4", "--machine.workers", "0"])
    judged = "--test test --protocol logistic --reference false --workers 0"
    entries = [{"name": f"train-{name}", "command": f"pretrain runs/{name} {small} --data.source {name}"}
               for name in ("one", "two")]  # fmt: skip
    for name in ("one", "two"):
        for seed in range(2):
            data = "late" if (name, seed) == ("one", 1) else "one"
            command = f"probe runs/{name} --train {data} {judged} --size 32 --seed {seed}"
            entries.append({"name": f"probe-{name}-{seed}", "command": command, "after": f"train-{name}"})
    Path("jobs.yaml").write_text(yaml.safe_dump(entries))
    assert send("--jobs", "jobs.yaml") == 0
    wait_for(lambda: not any(one.live for one in states(JOBS)), "all have ended")
    found = {one.sent.name: one.word for one in states(JOBS)}
    assert found == {
        "train-one": "complete",
        "train-two": "failed",  # its folder has no images
        "probe-one-0": "complete",
        "probe-one-1": "failed",  # its images are not there yet
        **{f"probe-two-{seed}": "not run" for seed in range(2)},
    }, describe_jobs()
    capsys.readouterr()
    assert pretint.cli.main(["jobs"]) == 0
    said = capsys.readouterr().out
    assert "train-two failed: pretint: two: " in said and "probe-one-1 failed: pretint: late: " in said
    assert "probe-two-0 not run: waited for train-two" in said
    assert "6 jobs: " in said and "2 complete" in said
    (folder / "two").rmdir()
    (folder / "two").symlink_to("one")
    (folder / "late").symlink_to("one")
    assert send("--jobs", "jobs.yaml") == 0
    said = capsys.readouterr().out
    again = [line.partition(":")[0] for line in said.splitlines() if ": job " in line]
    assert sorted(again) == ["probe-one-1", "probe-two-0", "probe-two-1", "train-two"], said
    assert said.count("complete already") == 2
    wait_until_complete(*(entry["name"] for entry in entries))


@pytest.mark.slow
def test_jobs_are_canceled_and_stay_so(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "runs/x", *SETTINGS, "--training.steps", "100000", "--machine.workers", "0"]
    assert send(*words) == 0
    wait_for(lambda: Path("runs/x/journal.jsonl").exists() and read_losses("runs/x"), "steps")
    wait_for(lambda: read_state("pretrain-x").done > 0, "progress")
    running = read_state("pretrain-x")
    assert running.word == "running" and running.done > 0 and "loss" in running.remark and running.left
    capsys.readouterr()
    assert send(*words) == 0
    assert "in the queue already" in capsys.readouterr().out
    assert send("--name", "other", *words) == 2
    assert "works on this run" in capsys.readouterr().err
    assert pretint.cli.main(["jobs", "cancel", "pretrain-x"]) == 0
    number = running.sent.id
    wait_for(
        lambda: not subprocess.run(["squeue", "-h", "-j", f"{number},1"], capture_output=True).stdout, "left the queue"
    )
    assert read_state("pretrain-x").word == "canceled"
    log = running.sent.log.read_text()
    assert "pretint pretrain" in log and "requeued" not in log
    assert count_restarts(running.sent) == 0
    assert pretint.cli.main(["jobs", "cancel", "pretrain-x"]) == 2


@pytest.mark.slow
def test_a_job_that_makes_no_step_gives_up(folder: Path) -> None:
    words = ["pretrain", "runs/x", *SETTINGS, "--training.steps", "100000", "--machine.workers", "0"]
    # It stands still, as if its images were on a disk that is gone; also when Slurm wakes it to end it.
    still = [
        "import os, signal, sys",
        "while 'run' in sys.argv:",
        "    os.kill(os.getpid(), signal.SIGSTOP)",
    ]
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text("\n".join(still))
    assert send(*words, patience=1, environment={"PYTHONPATH": str(folder / "hook")}) == 0
    sent = read_state("pretrain-x").sent
    requeues = 0

    def gave_up() -> bool:
        nonlocal requeues
        if len(starts(sent)) > requeues and stopped(sent):  # each start that stands still, however many there are
            subprocess.run(["scontrol", "requeue", sent.id], check=True, timeout=PATIENCE)
            requeues += 1
        return not read_state("pretrain-x").live

    wait_for(gave_up, "gave up")
    last = read_state("pretrain-x")
    assert last.word == "failed" and "gave up: 1 restarts in a row made no step" in last.why
    assert requeues == 2 and len(starts(sent)) == 3


def starts(sent: SentJob) -> list[JobRecord]:
    return [one for one in attempts(Path(sent.folder)) if one["kind"] == "start"]


def stopped(sent: SentJob) -> bool:
    """Whether the job's command stands still."""
    try:
        return Path(f"/proc/{child_of(starts(sent)[-1]['pid'])}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, AssertionError):  # not yet there
        return False


@pytest.mark.slow
def test_pretended_gpus_are_given_out(capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("two", "2"), ("one", "1")):
        assert send("--name", name, "--gpus-per-node", count, "table", "nothing") == 0
        wait_for(lambda name=name: not read_state(name).live, "ended")  # type: ignore[misc]
    assert ", GPU 0,1, first start" in read_state("two").sent.log.read_text()
    assert ", GPU 0, first start" in read_state("one").sent.log.read_text()
    assert send("--name", "many", "--gpus-per-node", "3", "table", "nothing") == 2
    assert "many: Slurm refuses it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--partition", "mian"], "partition: this cluster has none called mian; did you mean main?"),
        (["--partition", "short", "--minutes", "60"], "minutes is 60, more than the 5 that partition short allows"),
        (["--constraint", "a100"], "Slurm refuses it"),
        (["--folder", "/proc/nothing"], "cannot write logs there"),
        (["--nodes", "9"], "Slurm refuses it"),
        (["--after", "nobody"], "waits for nobody"),
        (["--name", "two words"], "use letters"),
        (["--grace", "100000"], "grace is 100000 seconds"),
        (["--minutes", "0"], "minutes is 0"),
        (["--minutes", "9999999"], "a year"),
        (["--memory_gb", ".inf"], "memory_gb is inf"),
        (["--memory_gb", "0.0001"], "memory_gb is 0.0001"),
        (["--after", "99999999"], "waits for job 99999999, which Slurm does not know"),
        (["--after", "१२"], "waits for १२"),
        (["--name", "all"], "jobs cancel all cancels every job"),
        (["--options", "{wait: true}"], "options: wait is not allowed here"),
        (["--options", "{'mail-type\\n#SBATCH --x': y}"], "cannot be an option of sbatch"),
        (["--environment", "{'A B': x}"], "environment: 'A B' cannot be the name of a variable"),
        (["--folder", "jobs%j"], "Slurm cannot write logs to such a path"),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_is_sent(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send(*options, "pretrain", "runs/x", "--data.source", "bundled") == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not list(JOBS.glob("[0-9]*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {name: a, command: report --help}", "a: this command only prints help"),
        ("- {name: a, command: finetune}", "a: this command only prints help"),
        ("- {name: a, command: report x, name: b}", "name is set twice"),
        ("- {name: a, command: report x}\n- {name: a, command: report y}", "a: two jobs of the list have this name"),
        ("- {name: a, command: report x, after: b}\n- {name: b, command: report y}", "a: waits for b"),
        ("- {name: a, command: submit report x}", "a: submit is not a command that can be sent"),
        ("- &a {name: a, command: report x, ask: *a}", "contains itself"),
        ("- {name: a, command: 'report \"x'}", "job 1: command: No closing quotation"),
        ("- {name: a, command: report x, ask: {minutes: -1}}", "a: ask: minutes is -1"),
        ("- {name: a, command: report x, ask: {minuets: 1}}", "a: ask: no setting is called minuets"),
        ("[]", "holds no list of jobs"),
        ("{", "not valid YAML"),
        ("", "holds no list of jobs"),
    ],
)
def test_a_list_that_cannot_be_sent(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("jobs.yaml").write_text(text)
    assert send("--jobs", "jobs.yaml") == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not list(JOBS.glob("[0-9]*"))


def test_a_list_that_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    for name, said in (("/dev/zero", "not a file"), ("nothing.yaml", "No such file"), (".", "not a file")):
        assert send("--jobs", name) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_two_who_send_at_the_same_time(folder: Path) -> None:
    command = [sys.executable, "-m", "pretint", "submit", "--on", write_cluster_file(options={"hold": True}), "--name"]
    words = ["pretrain", "runs/x", *SETTINGS]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([*command, name, *words], env=env, stderr=subprocess.PIPE, text=True) for name in ("a", "b")
    ]
    said = [one.communicate(timeout=PATIENCE)[1] for one in both]
    assert sorted(one.returncode for one in both) == [0, 2] and "works on this run" in "".join(said)
    [sent] = states(JOBS)
    assert pretint.cli.main(["jobs", "cancel", sent.sent.name]) == 0


@pytest.mark.slow
def test_variables_of_the_user_do_not_take_what_a_job_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SBATCH_ARRAY_INX": "1-3",
        "SBATCH_EXPORT": "NONE",
        "SBATCH_NO_REQUEUE": "1",
        "SBATCH_OUTPUT": "/dev/null",
        "SBATCH_PARTITION": "short",
        "SBATCH_SIGNAL": "USR1@1",
        "SBATCH_TIMELIMIT": "1",
        "SLURM_NTASKS": "7",
    }.items():
        monkeypatch.setenv(name, value)
    assert send("report", "x", partition="main", options={"hold": True}) == 0
    [found] = states(JOBS)
    told = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", found.sent.id], capture_output=True, text=True, check=True
    ).stdout
    log = found.sent.log.absolute()
    for word in ("Partition=main", "TimeLimit=00:30:00", "Requeue=1", f"StdOut={log}", "NumTasks=1"):
        assert f" {word} " in told, word
    subprocess.run(["scontrol", "release", found.sent.id], check=True, timeout=PATIENCE)
    wait_for(lambda: not states(JOBS)[0].live, "ended")
    assert states(JOBS)[0].word == "failed" and states(JOBS)[0].why.startswith("pretint: x: ")


@pytest.mark.slow
def test_a_setup_that_ends_the_job_and_a_slurm_that_is_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send("--name", "early", "report", "x", setup=["exit 0"]) == 0
    assert send("--name", "broken", "report", "y", setup=["echo no such module >&2; false"]) == 0
    wait_for(lambda: not any(one.live for one in states(JOBS)), "ended")
    assert read_state("early").word == "failed" and "without starting the command" in read_state("early").why
    assert read_state("broken").why == "Slurm: failed; last in its log: no such module"
    monkeypatch.setenv("PATH", str(folder))
    assert pretint.cli.main(["jobs"]) == 2
    said = capsys.readouterr()
    assert "broken failed: " in said.out and said.err == "pretint: squeue: no such command here\n"


def test_an_unknown_key_and_a_missing_slurm(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wrong.yaml").write_text("partitoin: main\n")
    assert pretint.cli.main(["submit", "--on", "wrong.yaml", "pretrain", "runs/x"]) == 2
    assert "wrong.yaml: no setting is called partitoin; the nearest is partition" in capsys.readouterr().err
    name = write_cluster_file()
    monkeypatch.setenv("PATH", str(folder))
    assert pretint.cli.main(["submit", "--on", name, "pretrain", "runs/x", "--data.source", "bundled"]) == 2
    assert "sbatch: no such command here" in capsys.readouterr().err


@pytest.mark.slow
def test_fifty_jobs_are_sent_as_one_array(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [{"name": f"job-{number}", "command": "table runs"} for number in range(50)]
    Path("jobs.yaml").write_text(json.dumps(entries))
    began = time.perf_counter()
    assert send("--jobs", "jobs.yaml", options={"hold": True}) == 0
    with capsys.disabled():
        sys.stdout.write(f"\npretint submit: {(time.perf_counter() - began) / 50:.3f} seconds for each of 50 jobs\n")
    found = states(JOBS)
    assert len({one.sent.id.partition("_")[0] for one in found}) == 1 and len(found) == 50
    assert pretint.cli.main(["jobs", "cancel", "all"]) == 0
    assert {one.word for one in states(JOBS)} == {"canceled"}
