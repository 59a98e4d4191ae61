"""A real Slurm on this machine: jobs run on its nodes, accounting answers, nodes die and come back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from virtual_slurm import names, processes
from virtual_slurm.__main__ import main
from virtual_slurm.cluster import VirtualCluster
from virtual_slurm.config import VirtualClusterError, VirtualOptions, write_config
from waits import PATIENCE, wait_until


def _said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


def test_a_job_runs_on_both_nodes(cluster: VirtualCluster) -> None:
    lines = _said("srun", "-N2", "--label", "printenv", "SLURMD_NODENAME").splitlines()
    assert sorted(lines) == ["0: n1", "1: n2"]


def test_a_job_is_given_gpus(cluster: VirtualCluster) -> None:
    job = ["srun", "printenv", "CUDA_VISIBLE_DEVICES"]
    assert _said(job[0], "--gpus-per-node=2", *job[1:]) == "0,1\n"
    assert _said(job[0], "--gpus-per-node=1", *job[1:]) == "0\n"


@pytest.mark.slow
def test_accounting_answers(cluster: VirtualCluster) -> None:
    job = _said("sbatch", "--parsable", "--output=/dev/null", "--wrap=exit 3").strip()
    asked = ["sacct", "-X", "--noheader", "--parsable2", "--format=State,ExitCode", "-j", job]
    wait_until(lambda: _said(*asked) == "FAILED|3:0\n", "accounting knows the job", every=0.2)


def test_a_job_longer_than_its_partition_allows_is_refused(cluster: VirtualCluster) -> None:
    done = subprocess.run(["sbatch", "-pshort", "-t6", "--wrap=true"], capture_output=True, text=True, check=False)
    assert done.returncode and "time limit" in done.stderr


def test_up_again_leaves_everything_as_it_is(cluster: VirtualCluster) -> None:
    before = cluster.lines()
    cluster.up()
    assert cluster.lines()[:6] == before[:6], "the same processes"
    with pytest.raises(VirtualClusterError, match="other options"):
        VirtualCluster(cluster.folder, VirtualOptions(gpus=1)).up()
    with pytest.raises(VirtualClusterError, match="no node 3"):
        cluster.crash(3)


def test_a_port_that_is_taken(cluster: VirtualCluster) -> None:
    other = VirtualCluster(cluster.folder / "x", cluster.options)
    with pytest.raises(VirtualClusterError, match=f"port {cluster.options.port} is taken"):
        other.up()


@pytest.mark.slow
def test_a_node_crashes_and_comes_back(cluster: VirtualCluster, tmp_path: Path) -> None:
    script = f"import os, time; print(os.getpid(), file=open('{tmp_path}/pid', 'w'), flush=True); time.sleep(3600)"
    shell = f'{sys.executable} -c "{script}" & wait'
    job = _said("sbatch", "--parsable", "--nodelist=n1", "--output=/dev/null", f"--wrap={shell}").strip()
    try:
        pid = tmp_path / "pid"
        wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"), "the job runs")
        stat = Path("/proc", pid.read_text().strip(), "stat")
        cluster.crash(1)
        wait_until(
            lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z", "the job is killed"
        )
        wait_until(lambda: cluster.states()["n1"].startswith("down"), "the node is down", every=0.2)
        assert cluster.states()["n2"] == "idle"
        cluster.start(1)
        assert cluster.works()
        reason = _said("squeue", "--noheader", "--format=%T", "-j", job).strip()
        assert reason in ("PENDING", "RUNNING"), "requeued"
    finally:
        _said("scancel", job)


def test_missing_packages_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("virtual_slurm.config.PROGRAMS", str(tmp_path))
    assert main(["up", "--folder", "/tmp/ps-none"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "apt-get install" in said and "slurmctld slurmd slurm-client" in said
    assert not Path("/tmp/ps-none").exists()


def test_what_cannot_be_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["up", "--nodes=0"],
        ["up", "--port=80"],
        ["up", "--folder=/tmp/a b"],
        ["env", f"--folder=/{'x' * 80}"],
    ):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_shell_is_told_where_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETINT_SLURM", "/tmp/ps-none")
    assert main(["env"]) == 0
    assert capsys.readouterr().out == "export SLURM_CONF=/tmp/ps-none/slurm.conf\n"
    assert main(["down"]) == 0
    assert main(["status"]) == 1
    assert main(["kill", "1"]) == 2


def test_only_what_is_ours_leaves_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts, link = tmp_path / "hosts", tmp_path / "link"
    hosts.write_text("127.0.0.1 localhost\n127.0.0.1 n1 n2 # another's")
    monkeypatch.setattr(names, "HOSTS", hosts)
    monkeypatch.setattr(names, "LINK", link)
    link.symlink_to(tmp_path / "gone")
    for folder in (tmp_path, tmp_path, Path("/x")):
        (tmp_path / "slurm.conf").touch()
        names.add_names(folder, ["n1"])
    assert hosts.read_text().splitlines()[2:] == [
        f"127.0.0.1 n1 # virtual Slurm in {name}" for name in (tmp_path, "/x")
    ]
    assert link.readlink() == tmp_path / "slurm.conf"
    names.remove_names(Path("/x"))
    assert link.is_symlink()
    names.remove_names(tmp_path)
    assert hosts.read_text() == "127.0.0.1 localhost\n127.0.0.1 n1 n2 # another's\n" and not link.is_symlink()


def test_a_pid_file_may_name_a_strangers_process(tmp_path: Path) -> None:
    file = tmp_path / "slurmd-n1.pid"
    name = Path("/proc/self/comm").read_text().strip()
    file.write_text(f"{os.getpid()}\n")
    assert processes.daemon(name, file, tmp_path) is None
    processes.stop(name, file, tmp_path)
    assert not file.exists()


def test_passwords_are_not_for_others(tmp_path: Path) -> None:
    write_config(tmp_path, VirtualOptions(), "secret")
    holding = [path for path in tmp_path.iterdir() if "secret" in path.read_text()]
    assert sorted(path.name for path in holding) == ["init.sql", "slurmdbd.conf"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in holding)
