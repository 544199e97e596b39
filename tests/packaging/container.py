"""A minimal Debian under its own systemd, in systemd-nspawn: made once, copied per run, without a network.

Commands enter it with nsenter, so neither machined nor D-Bus is needed on the host. Never waits by sleeping for an
outcome: `until` asks again until a deadline.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ROOTFS = REPOSITORY / ".peers" / "debian-12-systemd.tar"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
}


class Failed(Exception):
    """A promise that was not kept."""


def until(what, ask, seconds=30, every=0.1):
    """The first true answer of `ask`; it may raise Failed or CalledProcessError meanwhile. Fails at the deadline."""
    deadline, last = time.monotonic() + seconds, None
    while True:
        try:
            answer = ask()
            if answer:
                return answer
            last = answer
        except (Failed, subprocess.CalledProcessError, OSError) as error:
            last = f"{error} {getattr(error, 'stderr', '') or ''}".strip()
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds} s; last: {last}")
        time.sleep(every)


def make_rootfs():
    """The tree that every run copies, made by debootstrap once."""
    if ROOTFS.exists():
        return
    ROOTFS.parent.mkdir(exist_ok=True)
    tree, part = ROOTFS.with_suffix(".new"), ROOTFS.with_suffix(".part")
    shutil.rmtree(tree, ignore_errors=True)
    log = ROOTFS.with_suffix(".log")
    with open(log, "w") as out:
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=systemd-sysv,dbus,ca-certificates", "bookworm", str(tree)],
            stdout=out, stderr=out)
    if made.returncode != 0:
        raise Failed(f"debootstrap failed, see {log}:\n" + log.read_text()[-2000:])
    for path in (tree / "var/cache/apt/archives").glob("*.deb"):
        path.unlink()
    (tree / "etc/machine-id").write_text("")
    subprocess.run(["tar", "-C", str(tree), "-cf", str(part), "."], check=True)
    part.rename(ROOTFS)
    shutil.rmtree(tree)


class Container:
    """Boots on entry, is powered off and deleted on exit."""

    def __init__(self, directory):
        self.root = pathlib.Path(directory) / "root"
        self.console = pathlib.Path(directory) / "console.log"
        self.process = self.leader = None

    def __enter__(self):
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        subprocess.run(["tar", "-C", str(self.root), "-xpf", str(ROOTFS)], check=True)
        # Without a service manager on the host there is nobody to ask for a scope.
        keep = [] if os.path.isdir("/run/systemd/system") else ["--keep-unit"]
        with open(self.console, "w") as out:
            self.process = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", f"--machine=brooklet-{os.getpid()}",
                 "--private-network", "--register=no", "--link-journal=no", "--console=pipe", *keep],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            self.leader = until("the container's first process", self.find_leader)
            until("the container's boot", lambda: self.output("systemctl", "is-system-running", check=False)
                  in ("running", "degraded"), 120)
        except Failed as error:
            self.stop()
            raise Failed(f"systemd-nspawn does not work here (it needs root, namespaces and a cgroup file system): "
                         f"{error}\n{self.console.read_text()[-2000:]}") from None
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def find_leader(self):
        """The process that is number 1 inside."""
        if self.process.poll() is not None:
            raise Failed(f"systemd-nspawn ended with {self.process.returncode}")
        pids = [self.process.pid]
        while pids:
            pid = pids.pop()
            if pid != self.process.pid:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
                inner = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
                if len(inner) > 2 and inner[-1] == "1":
                    return pid
            pids += [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return None

    def stop(self):
        """Powers off; kills what does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def run(self, *command, check=True, text=None, network_only=False, timeout=120):
        """Runs a command inside; with `network_only` a program of the host, in the container's network."""
        into = ["--net"] if network_only else ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        done = subprocess.run(["nsenter", f"--target={self.leader}", *into, "--", *command], input=text, text=True,
                              stdin=None if text is not None else subprocess.DEVNULL, capture_output=True,
                              env=ENVIRONMENT, timeout=timeout)
        if check and done.returncode != 0:
            raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    @contextlib.contextmanager
    def background(self, *command):
        """A program of the host in the container's network, for as long as the block runs."""
        process = subprocess.Popen(["nsenter", f"--target={self.leader}", "--net", "--", *command], text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=ENVIRONMENT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def output(self, *command, **options):
        """What a command inside prints, without the last newline."""
        return self.run(*command, **options).stdout.rstrip("\n")

    def property(self, name):
        """A property of the unit, as `systemctl show` has it."""
        return self.output("systemctl", "show", "--property", name, "--value", "brooklet.service")

    def write(self, path, text, mode=0o644):
        """Writes a file inside, from the host, as root."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
