"""A whole Slurm on this machine, in a folder of its own: munged, slurmctld and one slurmd."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
# No cgroups, no accounting: what a container has. cred_expire is also how long a requeued job waits, KillWait
# how long a job may take after its SIGTERM.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
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
KillWait=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed here (apt-get install slurm-wlm munge)."""
    return [program for program in PROGRAMS if not _path(program)]


def _path(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start it; yields the environment variables by which its commands find it."""
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
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            ctld_port=ports[0],
            slurmd_port=ports[1],
            cpus=os.cpu_count(),
        )
    )
    environment = {"SLURM_CONF": str(conf)}
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munged = [f"--{option}={folder}/munge.{end}" for option, end in files.items()]
    with ExitStack() as stack:
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={key}", *munged],
            ["slurmctld", "-D", "-f", str(conf)],
            ["slurmd", "-D", "-f", str(conf)],
        ):
            stack.enter_context(_daemon(command, folder, environment))
        _wait_for(["sinfo", "--noheader", "--format=%T"], "idle", environment)
        try:
            yield environment
        finally:  # where a test has failed, its jobs would outlive their Slurm
            subprocess.run(
                ["scancel", f"--user={getpass.getuser()}"], env=os.environ | environment, check=True
            )
            _wait_for(["squeue", "--noheader"], "", environment)


@contextmanager
def _daemon(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
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
            yield
        finally:
            process.terminate()
            process.wait()


def _wait_for(command: list[str], answer: str, environment: dict[str, str]) -> None:
    for _ in range(600):
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
        if done.returncode == 0 and done.stdout.strip() == answer:
            return
        time.sleep(0.1)
    raise RuntimeError(f"{' '.join(command)} does not come to say {answer!r}: {done.stdout}{done.stderr}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
