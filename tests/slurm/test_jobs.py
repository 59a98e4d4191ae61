"""Jobs on a real Slurm: many processes, a node that dies, lists with dependencies, what goes wrong."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from launching import Launcher
from sending import JOBS, SETTINGS, cluster_file, finished, losses, overview, restarts, send, state, until

import pretint
from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint
from pretext.pictures import Bundled
from slurm import states
from slurm.virtual import VirtualCluster

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_nodes_of_two_tasks_compute_what_four_processes_do(launcher: Launcher, folder: Path) -> None:
    words = ["pretrain", f"{folder}/runs/{{}}", *SETTINGS, "--training.steps", "40", "--machine.workers", "1"]
    assert send(*(word.format("slurm") for word in words), nodes=2, tasks_per_node=2) == 0
    here = launcher.together(4, *(word.format("here") for word in words))
    assert [one.wait() for one in here] == [0] * 4, here[0].said
    finished("pretrain-slurm")
    assert losses("runs/slurm") == losses("runs/here")
    [start] = [one for one in read_journal(Path("runs/slurm")) if one["kind"] == "start"]
    assert start["processes"] == 4
    assert {path.name.split("_")[1] for path in (JOBS / "logs").glob("*_log.out")} == {"0", "1", "2", "3"}


def test_a_node_that_dies(cluster: VirtualCluster) -> None:
    words = ["pretrain", "runs/{}", *SETTINGS, "--training.steps", "1500", "--machine.workers", "1"]
    assert send(*(word.format("hit") for word in words)) == 0
    until(lambda: Path("runs/hit/journal.jsonl").exists() and len(losses("runs/hit")) > 120, "steps")
    node = state("pretrain-hit").node
    cluster.crash(int(node[1:]))
    kept = newest_checkpoint(Path("runs/hit"))
    assert kept is not None and len(losses("runs/hit")) < 1500, "it must be hit in the middle"
    try:
        assert send(*(word.format("alone") for word in words)) == 0
        finished("pretrain-alone")
        finished("pretrain-hit")
    finally:
        cluster.start(int(node[1:]))
    begun = [one["step"] for one in read_journal(Path("runs/hit")) if one["kind"] == "start"]
    assert begun == [0, int(kept.stem)], "it lost more than the steps since its last checkpoint"
    assert losses("runs/hit") == losses("runs/alone")
    hit = state("pretrain-hit")
    assert hit.node != node and restarts(hit.sent) == hit.restarts == 1


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
    entries = [{"name": f"train-{name}", "command": f"pretrain runs/{name} --data.source {name} {small}"}
               for name in ("one", "two")]  # fmt: skip
    for name in ("one", "two"):
        for seed in range(3):
            data = "late" if (name, seed) == ("one", 2) else "one"
            command = f"probe runs/{name} --train {data} {judged} --size 32 --seed {seed}"
            entries.append({"name": f"probe-{name}-{seed}", "command": command, "after": f"train-{name}"})
    Path("jobs.yaml").write_text(yaml.safe_dump(entries))
    assert send("--jobs", "jobs.yaml") == 0
    until(lambda: not any(one.live for one in states(JOBS)), "all have ended")
    found = {one.sent.name: one.word for one in states(JOBS)}
    assert found == {
        "train-one": "complete",
        "train-two": "failed",  # its folder has no pictures
        "probe-one-0": "complete",
        "probe-one-1": "complete",
        "probe-one-2": "failed",  # its pictures are not there yet
        **{f"probe-two-{seed}": "not run" for seed in range(3)},
    }, overview()
    capsys.readouterr()
    assert pretint.main(["jobs"]) == 0
    said = capsys.readouterr().out
    assert "train-two failed: pretint: two: " in said and "probe-one-2 failed: pretint: late: " in said
    assert "probe-two-0 not run: waited for train-two" in said
    assert "8 jobs: " in said and "3 complete" in said
    (folder / "two").rmdir()
    (folder / "two").symlink_to("one")
    (folder / "late").symlink_to("one")
    assert send("--jobs", "jobs.yaml") == 0
    said = capsys.readouterr().out
    again = [line.partition(":")[0] for line in said.splitlines() if ": job " in line]
    assert sorted(again) == ["probe-one-2", "probe-two-0", "probe-two-1", "probe-two-2", "train-two"], said
    assert said.count("complete already") == 3
    finished(*(entry["name"] for entry in entries))


def test_jobs_are_cancelled_and_stay_so(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "runs/x", *SETTINGS, "--training.steps", "100000", "--machine.workers", "0"]
    assert send(*words) == 0
    until(lambda: Path("runs/x/journal.jsonl").exists() and losses("runs/x"), "steps")
    until(lambda: state("pretrain-x").done > 0, "progress")
    running = state("pretrain-x")
    assert running.word == "running" and running.done > 0 and "loss" in running.remark and running.left
    capsys.readouterr()
    assert send(*words) == 0
    assert "in the queue already" in capsys.readouterr().out
    assert send("--name", "other", *words) == 2
    assert "works on this run" in capsys.readouterr().err
    assert pretint.main(["jobs", "cancel", "pretrain-x"]) == 0
    number = running.sent.id
    until(
        lambda: not subprocess.run(["squeue", "-h", "-j", f"{number},1"], capture_output=True).stdout, "left the queue"
    )
    assert state("pretrain-x").word == "cancelled"
    log = running.sent.log.read_text()
    assert "Slurm has decided" in log or "requeued" not in log
    assert restarts(running.sent) == 0
    assert pretint.main(["jobs", "cancel", "pretrain-x"]) == 2


def test_a_job_that_makes_no_step_gives_up() -> None:
    # A command that always asks to be called again, as one whose partner dies each time.
    words = ["pretrain", "runs/x", *SETTINGS, "--training.steps", "100000", "--machine.workers", "0"]
    assert send(*words, patience=1, environment={"OMP_NUM_THREADS": "1", "PYTHONSTARTUP": ""}) == 0
    sent = state("pretrain-x").sent
    for restart in range(2):  # each time before its first checkpoint

        def begun(restart: int = restart) -> bool:
            return (
                state("pretrain-x").word == "running"
                and len((JOBS / sent.id / "attempts.jsonl").read_text().splitlines()) > restart
            )

        until(begun, "started")
        subprocess.run(["scontrol", "requeue", sent.id], check=True, timeout=30)
        time.sleep(2)
    until(lambda: not state("pretrain-x").live, "gave up")
    found = state("pretrain-x")
    assert found.word == "failed" and "gave up: 1 restarts in a row made no step" in found.why


def test_pretended_gpus_are_given_out() -> None:
    assert send("--name", "two", "--gpus-per-node", "2", "table", "nothing", tasks_per_node=1) == 0
    assert send("--name", "many", "--gpus-per-node", "3", "table", "nothing") == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--partition", "mian"], "partition: this cluster has none called mian; did you mean main?"),
        (["--partition", "short", "--minutes", "60"], "minutes is 60, more than the 5 that partition short allows"),
        (["--constraint", "a100"], "Slurm will not take it"),
        (["--folder", "/proc/nothing"], "cannot write logs there"),
        (["--nodes", "9"], "Slurm will not take it"),
        (["--after", "nobody"], "waits for nobody"),
        (["--name", "two words"], "take letters"),
        (["--grace", "100000"], "grace is 100000 seconds"),
        (["--minutes", "0"], "minutes is 0"),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_is_sent(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send(*options, "pretrain", "runs/x") == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not list(JOBS.glob("[0-9]*"))


def test_an_unknown_key_and_a_missing_slurm(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wrong.yaml").write_text("partitoin: main\n")
    assert pretint.main(["submit", "--on", "wrong.yaml", "pretrain", "runs/x"]) == 2
    assert "wrong.yaml: no setting is called partitoin; the nearest is partition" in capsys.readouterr().err
    name = cluster_file()
    monkeypatch.setenv("PATH", str(folder))
    assert pretint.main(["submit", "--on", name, "pretrain", "runs/x"]) == 2
    assert "sbatch: no such command here" in capsys.readouterr().err


def test_fifty_jobs_are_sent_as_one_array(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [{"name": f"job-{number}", "command": "table runs"} for number in range(50)]
    Path("jobs.yaml").write_text(json.dumps(entries))
    began = time.perf_counter()
    assert send("--jobs", "jobs.yaml", options={"hold": True}) == 0
    sys.stderr.write(f"{(time.perf_counter() - began) / 50:.3f} seconds for each of 50 jobs\n")
    found = states(JOBS)
    assert len({one.sent.id.partition("_")[0] for one in found}) == 1 and len(found) == 50
    assert pretint.main(["jobs", "cancel", "all"]) == 0
    assert {one.word for one in states(JOBS)} == {"cancelled"}
