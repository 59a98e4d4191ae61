"""On a real Slurm: whatever ends a job early, it is requeued once and computes what it would have computed."""

import json
import shlex
from pathlib import Path

import pytest
from slurm_jobs import (
    SETTINGS,
    InterruptedJob,
    count_restarts,
    describe_jobs,
    is_out_of_time,
    read_losses,
    read_state,
    requeue,
    send,
    send_signal,
    wait_for,
    wait_until_complete,
)
from virtual_slurm.cluster import VirtualCluster
from waits import PATIENCE

from slurm.records import attempts

STEPS = ["--training.steps", "300"]


@pytest.mark.slow
def test_every_interrupt_and_every_kind_of_worker(
    cluster: VirtualCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # The limit reaches a job as USR2 does; one kind of worker is enough for it.
    short = ["--name", "limit", "pretrain", "runs/limit", *SETTINGS, *STEPS, "--machine.workers", "2"]
    assert send(*short, "--machine.worker_start", "spawn", minutes=2, grace=10) == 0
    watched = [InterruptedJob("limit", "runs/limit", [is_out_of_time])]
    interrupts = {
        "fork": [send_signal("USR2"), send_signal("TERM"), requeue],
        "spawn": [send_signal("TERM")],
        "forkserver": [send_signal("USR2")],
    }
    entries = []
    for start in interrupts:
        workers = ["--machine.workers", "2", "--machine.worker_start", start]
        command = shlex.join(["pretrain", f"runs/{start}", *SETTINGS, *STEPS, *workers])
        entries.append({"name": start, "command": command})
        watched.append(InterruptedJob(start, f"runs/{start}", interrupts[start]))
    Path("jobs.yaml").write_text(json.dumps(entries))
    assert send("--jobs", "jobs.yaml") == 0
    assert {one.sent.id.partition("_")[2] for one in watched[1:]} == {"0", "1", "2"}, "they are one array"
    assert send("--name", "alone", "pretrain", "runs/alone", *SETTINGS, *STEPS) == 0
    counts = {one.name: len(one.left) for one in watched}
    wait_for(lambda: sum(one.look() for one in watched) == len(watched), "interrupts", 2 * PATIENCE)
    wait_until_complete("alone", *(one.name for one in watched))
    alone = read_losses("runs/alone")
    assert [step for step, _ in alone] == list(range(1, 301))
    for one in watched:
        assert read_losses(one.run) == alone, f"{one.name}\n{describe_jobs()}"
        noted = attempts(Path(one.sent.folder))
        # On a machine that has other things to do the rest may take longer than the limit once more.
        expected = sum(record.get("how") == "requeued" for record in noted) if one.name == "limit" else counts[one.name]
        assert count_restarts(one.sent) == expected >= counts[one.name], f"{one.name}: not once for each interrupt"
        starts = [record for record in noted if record["kind"] == "start"]
        assert len(starts) == expected + 1
        log = read_state(one.name).sent.log.read_text()
        assert log.count("--- 20") == len(starts), "the logs of all restarts are one"
