"""Several hosts on one machine: each a network, process, mount, name and IPC namespace with an sshd of its own.

The hosts hang on a bridge that is attached to nothing: no packet can leave. All see the same files, as on a cluster
with a shared file system. ``power_off`` kills every process of a host at once; ``pull`` takes its cable out. SLURM
(munge, slurmctld on the first host, a slurmd on each) can be started inside. Needs root, and Debian's iproute2 and
openssh-server; pdsh, openmpi-bin, and slurm-wlm with munge for those launchers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

NET = "10.77.0"
SSHD = """Port 22
ListenAddress {ip}
HostKey {room}/{name}.key
PidFile /run/sshd.pid
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
AuthorizedKeysFile {room}/id.pub
MaxStartups 64
"""
SSH = """Host *
  IdentityFile {room}/id
  IdentitiesOnly yes
  StrictHostKeyChecking yes
  UserKnownHostsFile {room}/known_hosts
  BatchMode yes
  ConnectTimeout 5
  LogLevel ERROR
  ServerAliveInterval 5
  ServerAliveCountMax 3
"""
INIT = """#!/bin/bash
hostname {name}
mount --bind {room}/hosts /etc/hosts
mount --bind {room}/ssh_config /etc/ssh/ssh_config
mount -t tmpfs tmpfs /run && mkdir -p /run/sshd /run/munge /run/slurm
mount -t tmpfs tmpfs /dev/shm
/usr/sbin/sshd -f {room}/{name}.sshd -E {room}/{name}.log
touch {room}/{name}.up
while :; do wait -n 2>/dev/null; sleep 0.5; done
"""
SLURM = """ClusterName=lab
SlurmctldHost={first}({net}.11)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmctldPidFile=/run/slurm/ctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
StateSaveLocation={room}/slurm/state
SlurmdSpoolDir=/run/slurm/spool
SlurmctldLogFile={room}/slurm/ctld.log
SlurmdLogFile={room}/slurm/slurmd-%n.log
SlurmctldTimeout=10
SlurmdTimeout=20
InactiveLimit=0
KillWait=20
MinJobAge=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=2,batch_sched_delay=0,sched_interval=2
PropagateResourceLimits=NONE
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def lacking(*programs: str) -> str:
    """Why the laboratory cannot be set up here; "" where it can. ``programs``: further ones that a test needs."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    for program in ("ip", "/usr/sbin/sshd", "ssh-keygen", "unshare", "nsenter", *programs):
        if not shutil.which(program):
            return f"{program} is not installed"
    probe = subprocess.run(["unshare", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "namespaces are not allowed here"


def call(*command: object, **options: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    return str(done.stdout)


class Lab:
    """A context manager. ``names``: its hosts, ``node1``, ``node2``, ..."""

    def __init__(self, hosts: int, programs: Mapping[str, str] | None = None) -> None:
        self.names = [f"node{i + 1}" for i in range(hosts)]
        self.variables = dict(programs or {})
        self.prefix = f"sd{os.getpid() % 10000}"
        self.started: dict[str, tuple[subprocess.Popen[bytes], int]] = {}

    def __enter__(self) -> Lab:
        self.room = Path(tempfile.mkdtemp(prefix="lab-"))
        try:
            self.set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def set_up(self) -> None:
        room = self.room
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", room / "id")
        lines = [f"{NET}.{11 + i} {name}" for i, name in enumerate(self.names)]
        (room / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")
        (room / "ssh_config").write_text(SSH.format(room=room))
        known = []
        for line in lines:
            ip, name = line.split()
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", room / f"{name}.key")
            known.append(f"{name},{ip} " + " ".join((room / f"{name}.key.pub").read_text().split()[:2]))
        (room / "known_hosts").write_text("\n".join(known) + "\n")
        call("ip", "netns", "add", self.netns("switch"))
        call("ip", "-n", self.netns("switch"), "link", "add", "br0", "type", "bridge")
        call("ip", "-n", self.netns("switch"), "link", "set", "br0", "up")
        for line in lines:
            self.start(*reversed(line.split()))

    def netns(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def start(self, name: str, ip: str) -> None:
        space, switch, room = self.netns(name), self.netns("switch"), self.room
        call("ip", "netns", "add", space)
        call("ip", "-n", space, "link", "set", "lo", "up")
        call("ip", "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", f"v-{name}", "netns", switch)
        call("ip", "-n", space, "addr", "add", f"{ip}/24", "dev", "eth0")
        call("ip", "-n", space, "link", "set", "eth0", "up")
        call("ip", "-n", switch, "link", "set", f"v-{name}", "master", "br0", "up")
        (room / f"{name}.sshd").write_text(SSHD.format(ip=ip, room=room, name=name))
        init = room / f"{name}.init"
        init.write_text(INIT.format(room=room, name=name))
        init.chmod(0o755)
        outer = subprocess.Popen(
            ["ip", "netns", "exec", space, "unshare", "--pid", "--mount", "--uts", "--ipc", "--fork", "--mount-proc",
             "--propagation", "private", str(init)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True)  # fmt: skip
        self.wait_for(lambda: (room / f"{name}.up").exists(), f"{name} does not start")
        inner = int(call("pgrep", "-P", outer.pid).split()[0])
        self.started[name] = (outer, inner)

    @staticmethod
    def wait_for(ready, what: str, seconds: float = 120.0) -> None:  # noqa: ANN001 (a predicate)
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, what
            time.sleep(0.05)

    # ---- what a test does with it

    def command(self, host: str, words: Sequence[object]) -> list[str]:
        """``words`` as a command of this machine that runs them on ``host``, in the same directory."""
        inner = self.started[host][1]
        return ["nsenter", "-t", str(inner), "--net", "--mount", "--uts", "--ipc", "--pid", f"--wd={os.getcwd()}",
                *map(str, words)]  # fmt: skip

    def run(self, host: str, *words: object, timeout: float = 60, check: bool = True,
            cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.at(host, words, cwd), capture_output=True, text=True, timeout=timeout,
                              env=os.environ | self.variables, check=False)
        assert not check or done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done

    def begin(self, host: str, *words: object, log: Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start something on ``host``, its output in ``log``."""
        with open(log, "ab") as file:
            return subprocess.Popen(self.at(host, words, cwd), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                    env=os.environ | self.variables)

    def at(self, host: str, words: Sequence[object], cwd: Path | None) -> list[str]:
        command = self.command(host, words)
        return [f"--wd={cwd}" if cwd and word.startswith("--wd=") else word for word in command]

    def power_off(self, host: str) -> None:
        """Every process of the host dies at once; its network falls silent."""
        self.pull(host)
        os.kill(self.started[host][1], signal.SIGKILL)

    def pull(self, host: str) -> None:
        call("ip", "-n", self.netns("switch"), "link", "set", f"v-{host}", "down")

    def plug(self, host: str) -> None:
        call("ip", "-n", self.netns("switch"), "link", "set", f"v-{host}", "up")

    @contextlib.contextmanager
    def slurm(self, cpus: int = 2) -> Iterator[None]:
        """A cluster of the hosts, with partitions ``low`` (preempted) and ``high``."""
        room = self.room / "slurm"
        (room / "state").mkdir(parents=True)
        (self.room / "munge.key").write_bytes(os.urandom(1024))
        (self.room / "munge.key").chmod(0o400)
        nodes = "\n".join(f"NodeName={name} NodeAddr={NET}.{11 + i} CPUs={cpus} RealMemory=4000 State=UNKNOWN"
                          for i, name in enumerate(self.names))
        (room / "slurm.conf").write_text(SLURM.format(first=self.names[0], net=NET, room=self.room, nodes=nodes))
        (room / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nIgnoreSystemd=yes\n")
        for name in self.names:
            self.run(name, "sh", "-c", "mkdir -p /run/slurm/spool /run/munge /etc/slurm && "
                     f"mount --bind {room} /etc/slurm && munged --force --key-file={self.room}/munge.key "
                     "--pid-file=/run/munge/munged.pid --socket=/run/munge/munge.socket.2 "
                     f"--log-file={self.room}/{name}.munge --seed-file=/run/munge/seed")
        self.run(self.names[0], "slurmctld", "-c")
        for name in self.names:
            self.run(name, "slurmd", "-N", name)

        def idle() -> bool:
            done = self.run(self.names[0], "sinfo", "-h", "-o", "%t", "-p", "low", check=False)
            return done.stdout.split() == ["idle"]

        self.wait_for(idle, "SLURM does not come up", 180)
        yield

    def __exit__(self, *_: object) -> None:
        for outer, inner in self.started.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(inner, signal.SIGKILL)
            outer.wait(timeout=20)
        for line in call("ip", "netns", "list").splitlines():
            if line.startswith(self.prefix + "-"):
                call("ip", "netns", "del", line.split()[0])
        shutil.rmtree(self.room, ignore_errors=True)
