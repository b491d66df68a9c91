"""A whole Slurm on this machine, in a folder of its own: munged, slurmctld and one slurmd."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
# No cgroups, no accounting: what a container has. No limit that a slow machine could reach. cred_expire is
# also how long a requeued job waits: it starts again when a test says so (`start_again`).
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=3600
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
KillWait=3600
BatchStartTimeout=3600
MessageTimeout=90
SlurmdTimeout=3600
TCPTimeout=60
UnkillableStepTimeout=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed here (apt-get install slurm-wlm munge)."""
    return [program for program in PROGRAMS if not _path(program)]


def _path(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@dataclass(frozen=True)
class Slurm:
    """A Slurm that runs; its commands find it by `environment`."""

    daemons: list[subprocess.Popen[bytes]]
    environment: dict[str, str]

    def call(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def wait_until(self, command: list[str], answer: str) -> None:
        """Ask until the answer is this; the daemons must live as long."""
        while True:
            done = subprocess.run(command, capture_output=True, text=True, env=self.environment)
            if done.returncode == 0 and done.stdout.strip() == answer:
                return
            dead = [daemon.args for daemon in self.daemons if daemon.poll() is not None]
            assert not dead, (dead, done.stdout, done.stderr)
            time.sleep(0.1)

    def set_node(self, state: str) -> None:
        """`drain`: no job starts on it; `resume`: jobs start again."""
        self.call("scontrol", "update", f"nodename={_host()}", f"state={state}", "reason=test")

    def start_again(self, job: str) -> None:
        """A requeued job, which would wait for long."""
        self.call("scontrol", "update", f"jobid={job}", "starttime=now")


@contextmanager
def cluster(folder: Path) -> Iterator["Slurm"]:
    """Start it, and wait until its node is idle."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    ports = _free_ports(2)
    conf.write_text(
        CONF.format(
            folder=folder,
            host=_host(),
            user=getpass.getuser(),
            ctld_port=ports[0],
            slurmd_port=ports[1],
            cpus=os.cpu_count(),
        )
    )
    environment = {"SLURM_CONF": str(conf)}
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munged = [f"--{option}={folder}/munge.{end}" for option, end in files.items()]
    daemons: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={key}", *munged],
            ["slurmctld", "-D", "-f", str(conf)],
            ["slurmd", "-D", "-f", str(conf)],
        ):
            daemons.append(stack.enter_context(_daemon(command, folder, environment)))
        slurm = Slurm(daemons, os.environ | environment)
        slurm.wait_until(["sinfo", "--noheader", "--format=%T"], "idle")
        try:
            yield slurm
        finally:  # where a test has failed, its jobs would outlive their Slurm
            slurm.call("scancel", f"--user={getpass.getuser()}")
            slurm.wait_until(["squeue", "--noheader"], "")


@contextmanager
def _daemon(
    command: list[str], folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    program = _path(command[0])
    assert program
    with (folder / f"{command[0]}.out").open("wb") as output:
        process = subprocess.Popen(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | environment,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
