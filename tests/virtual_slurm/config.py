"""What a virtual cluster is made of: its options, the packages it needs, and the files its daemons read."""

import os
import pwd
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
"""Where programs are looked for: an ordinary user's PATH has no daemons."""

_PACKAGES = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",  # mariadb-install-db calls it
}
_PLUGIN, _PLUGIN_PACKAGE = "*/slurm-wlm/accounting_storage_mysql.so", "slurm-wlm-mysql-plugin"
_LONGEST = 60  # characters of a folder: Slurm and munge make sockets in it, whose paths end at 108


class VirtualClusterError(Exception):
    """Why the cluster cannot do what it was asked, in one line that says what to do."""


@dataclass(frozen=True)
class VirtualOptions:
    """What the nodes claim to have. Slurm shares it out, and nothing holds a job to it.

    Args:
        nodes: how many, named n1, n2, ...
        cpus: of each.
        memory: MB of each.
        gpus: pretended ones of each: a job is given CUDA_VISIBLE_DEVICES, and no device.
        port: the first of the ports used: this and the two after it, and ``nodes`` from ``port + 10`` on.

    Raises:
        VirtualClusterError: a number that makes no cluster.
    """

    nodes: int = 2
    cpus: int = 4
    memory: int = 8000
    gpus: int = 0
    port: int = 16900

    def __post_init__(self) -> None:
        if min(self.nodes, self.cpus, self.memory) < 1 or self.gpus < 0:
            raise VirtualClusterError("a cluster needs --nodes, --cpus and --memory of 1 or more, --gpus of 0 or more")
        if not 1024 <= self.port <= 65535 - 10 - self.nodes:
            raise VirtualClusterError(f"--port {self.port}: give one from 1024 to {65535 - 10 - self.nodes}")

    @property
    def names(self) -> list[str]:
        """Of the nodes."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def ports(self) -> list[int]:
        """Of slurmctld, slurmdbd, MariaDB, and of each node."""
        return [self.port, self.port + 1, self.port + 2, *range(self.port + 10, self.port + 10 + self.nodes)]


def missing_packages() -> list[str]:
    """The Debian packages that are not installed, of those a virtual cluster needs."""
    missing = [package for name, package in _PACKAGES.items() if shutil.which(name, path=PROGRAMS) is None]
    return missing if any(Path("/usr/lib").glob(_PLUGIN)) else [*missing, _PLUGIN_PACKAGE]


def check_folder(folder: Path) -> None:
    """Raise ``VirtualClusterError`` for a path that the daemons' own files cannot say."""
    if len(str(folder)) > _LONGEST or any(character in str(folder) for character in " \t#,[]%\\'\""):
        raise VirtualClusterError(
            f"{folder}: the folder of a virtual cluster needs a path of at most {_LONGEST} plain characters; "
            "give another with --folder"
        )


def write_config(folder: Path, options: VirtualOptions, password: str) -> None:
    """Write everything the daemons read: slurm.conf, gres.conf, slurmdbd.conf, and MariaDB's first words.

    Args:
        folder: of the cluster; its sub-folders are there.
        options: what the nodes claim.
        password: of slurmdbd at MariaDB, letters and digits.
    """
    (folder / "slurm.conf").write_text(_slurm(folder, options))
    devices = ",".join(str(folder / "gpu" / f"nvidia{number}") for number in range(options.gpus))
    (folder / "gres.conf").write_text(f"Name=gpu Count={options.gpus} File={devices}\n" if options.gpus else "")
    for number in range(options.gpus):
        device = folder / "gpu" / f"nvidia{number}"
        if not device.is_symlink():
            device.symlink_to("/dev/null")  # for a plain file Slurm would not set CUDA_VISIBLE_DEVICES
    for name, text in {"slurmdbd.conf": _slurmdbd(folder, options, password), "init.sql": _sql(password)}.items():
        path = folder / name
        path.touch(mode=0o600)  # slurmdbd refuses one that others can read
        path.write_text(text)


def _slurm(folder: Path, options: VirtualOptions) -> str:
    user, host = pwd.getpwuid(os.geteuid()).pw_name, socket.gethostname().partition(".")[0]
    gres = f" Gres=gpu:{options.gpus}" if options.gpus else ""
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={options.cpus} RealMemory={options.memory}{gres}"
        for name, port in zip(options.names, options.ports[3:], strict=True)
    )
    # Numbers go up with time, also in a new folder: whoever finds the files of an earlier job by its number
    # must not take them for a new one's. Slurm ends at 67 million.
    first = int(time.time()) % 60_000_000 + 1
    return f"""\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={options.port}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
# How long a requeued job waits; of 5 or less Slurm makes 120.
AuthInfo=socket={folder}/munge/socket,cred_expire=6

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={options.port + 1}
# The same socket again: AuthInfo does not hold here.
AccountingStoragePass={folder}/munge/socket
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5

# No cgroups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true

StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log

# Nobody waits long here. A node that was down is used again as soon as it answers.
SlurmdTimeout=10
SlurmctldTimeout=30
KillWait=5
ReturnToService=2
MinJobAge=600
FirstJobId={first}
MaxArraySize=100001
MaxJobCount=100000
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
JobRequeue=1
EnforcePartLimits=ALL

# A job of partition low makes way for one of high: it gets its --signal, after GraceTime seconds it is requeued.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal

# Nodes may claim more than this machine has.
SlurmdParameters=config_overrides
{"GresTypes=gpu" if options.gpus else ""}
{nodes}
PartitionName=DEFAULT Nodes=ALL MaxNodes=UNLIMITED MaxTime=INFINITE DefaultTime=10 PreemptMode=OFF
PartitionName=main PriorityTier=5 Default=YES
PartitionName=short PriorityTier=5 MaxTime=5 DefaultTime=5
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high PriorityTier=9
"""


def _slurmdbd(folder: Path, options: VirtualOptions, password: str) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={options.port + 1}
SlurmUser={pwd.getpwuid(os.geteuid()).pw_name}
CommunicationParameters=NoInAddrAny
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={options.port + 2}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""


def _sql(password: str) -> str:
    return f"""\
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE OR REPLACE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
"""
