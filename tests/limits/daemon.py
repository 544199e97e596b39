"""A daemon of its own for a test, and a small file system to run it on."""
import contextlib, os, re, signal, socket, subprocess, sys, tempfile, time, traceback, urllib.request

from client import Client

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
profile = os.environ.get("PROFILE", "release")
binary = os.environ.get("BROOKLET_BIN") or os.path.join(root, "target", profile, "brooklet")
PATIENCE_S = 60
MIB = 1 << 20


class Skipped(Exception):
    """This machine cannot show it."""


def until(what, true, within_s=PATIENCE_S):
    """Asks again and again until it is true; what it last said else goes into the failure."""
    deadline = time.monotonic() + within_s
    while True:
        said = true()
        if said:
            return said
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.05)


def closed_port():
    """A port that is free now, below the ephemeral range so that no client gets it meanwhile."""
    for port in range(21000 + os.getpid() % 6000, 32000):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise AssertionError("no free port")


class Daemon:
    """A daemon of its own on ports the system chose."""

    def __init__(self, dir, config="", environment=(), host=False):
        self.dir, self.environment = dir, dict(environment)
        self.file = os.path.join(dir, "brooklet.toml") if os.access(dir, os.W_OK) else tempfile.mktemp(suffix=".toml")
        text = '[node]\nname = "limits"\n' + ("" if host else "[connectors.host]\nenabled = false\n") + config
        with open(self.file, "w") as f:
            f.write(text)
        self.start()

    def start(self, listen="127.0.0.1:0"):
        self.out = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [binary, "run", "--config", self.file, "--data-dir", os.path.join(self.dir, "data"), "--listen", listen,
             "--admin", "127.0.0.1:0"], stdout=self.out, stderr=self.out, stdin=subprocess.DEVNULL, env=os.environ | self.environment)
        said = until("the daemon serves", lambda: self.said() if "http://" in self.said() or self.process.poll() is not None else None)
        assert "http://" in said, f"the daemon did not start: {said}"
        self.address = re.search(r"Kafka +(\S+:\d+)", said).group(1)
        self.admin = re.search(r"http://([^/]+)/", said).group(1)

    def said(self):
        return os.pread(self.out.fileno(), 1 << 20, 0).decode()

    def client(self, **more):
        return Client(self.address, **more)

    def metric(self, name):
        text = urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=PATIENCE_S).read().decode()
        return sum(float(l.rsplit(" ", 1)[1]) for l in text.splitlines() if l.startswith(name) and l[len(name)] in " {" or l.startswith(name + " "))

    def rss(self):
        status = open(f"/proc/{self.process.pid}/status").read()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024

    def serves(self):
        """Another client is served, soon."""
        with self.client(timeout=10) as other:
            assert other.api_versions() == 0

    def has_its_budget_back(self):
        self.serves()  # the gauge is set when a request ends
        return self.metric("brooklet_kafka_memory_bytes") == 0

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("the daemon did not stop")
        self.out.close()


@contextlib.contextmanager
def daemon(config="", **more):
    with tempfile.TemporaryDirectory(prefix="brooklet-limits-") as dir:
        broker = Daemon(dir, config, **more)
        try:
            yield broker
            assert broker.process.poll() is None, f"the daemon ended: {broker.said()}"
        finally:
            broker.stop()


@contextlib.contextmanager
def disk(mib, kind="ext4"):
    """A small file system of its own."""
    if os.geteuid() != 0:
        raise Skipped("needs root to mount a file system")
    dir = tempfile.mkdtemp(prefix="brooklet-disk-")
    image = dir + ".img"
    with open(image, "wb") as f:
        f.truncate(mib * MIB)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
        if subprocess.run(["mount", "-o", "loop", image, dir], stderr=subprocess.DEVNULL).returncode:
            raise Skipped("this machine has no loop devices")
        try:
            yield dir
        finally:
            until("the file system is let go", lambda: subprocess.run(["umount", dir], stderr=subprocess.DEVNULL).returncode == 0)
    finally:
        os.unlink(image)
        os.rmdir(dir)


def main(tests):
    """Runs the tests that the command line names, or all, and exits."""
    if not os.environ.get("BROOKLET_BIN"):
        subprocess.run(["cargo", "build", "--quiet", "--profile", profile], cwd=root, check=True)
    failed = []
    for test in tests:
        if sys.argv[1:] and test.__name__ not in sys.argv[1:]:
            continue
        start = time.monotonic()
        try:
            test()
            verdict = "ok"
        except Skipped as why:
            verdict = f"skipped: {why}"
        except Exception:
            traceback.print_exc()
            failed.append(test.__name__)
            verdict = "FAILED"
        print(f"{test.__name__}: {verdict} ({time.monotonic() - start:.1f} s)", flush=True)
    if failed:
        print("failed: " + ", ".join(failed))
    sys.exit(bool(failed))
