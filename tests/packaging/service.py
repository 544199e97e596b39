"""The amd64 package under a real systemd: installed, served from, broken in every way, upgraded, removed, purged.

    service.py OLD.deb NEW.deb WORK_DIRECTORY

One boot, one scenario: each step starts from the state the step before left. The first promise not kept ends it.
"""

import json
import pathlib
import sys
import time

from container import Container, Failed, make_rootfs, until
from threads import frozen

UNIT = "brooklet.service"
BROKER = "127.0.0.1:9092"
CONFIG = "/etc/brooklet/brooklet.toml"
DROP_IN = "/etc/systemd/system/brooklet.service.d/test.conf"
# Number of the records that must outlive every step.
RECORDS = 50


def expect(is_kept, promise):
    """Fails with the promise that was not kept."""
    if not is_kept:
        raise Failed(promise)


class Service:
    """The steps, and what they share."""

    def __init__(self, container):
        self.container = container

    # What the steps ask.

    def is_serving(self):
        """Active, and a client sees the broker."""
        return (self.container.property("ActiveState") == "active"
                and "broker" in self.kcat("-L", "-m", "5").stdout)

    def kcat(self, *arguments, **options):
        """The host's kcat, in the container's network: a client that is no part of the package."""
        return self.container.run("kcat", "-b", BROKER, *arguments, network_only=True, **options)

    def pid(self):
        return int(self.container.property("MainPID"))

    def host_pid(self):
        """The daemon as the host numbers it."""
        wanted = str(self.pid())
        tree = [self.container.leader]
        while tree:
            pid = tree.pop()
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            if next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == wanted:
                return pid
            for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
                tree += [int(child) for child in (thread / "children").read_text().split()]
        raise Failed(f"process {wanted} of the container not found")

    def restarts(self):
        return int(self.container.property("NRestarts"))

    def systemctl(self, *arguments, **options):
        return self.container.run("systemctl", *arguments, **options)

    def journal(self, since=None):
        lines = ["--since", since] if since else []
        return self.container.output("journalctl", "--unit", UNIT, "--output", "cat", "--no-pager", *lines)

    def now(self):
        """For `journal`."""
        return self.container.output("date", "+%F %T.%N")

    def drop_in(self, text):
        """Changes the unit as an administrator would, and restarts it."""
        self.container.write(DROP_IN, f"[Service]\n{text}\n")
        self.systemctl("daemon-reload")
        self.systemctl("restart", UNIT)

    def records(self):
        """The values of the topic that must outlive everything."""
        return self.kcat("-C", "-t", "kept", "-o", "beginning", "-e", "-q").stdout.split()

    def expect_records(self, when):
        expect(self.records() == [str(n) for n in range(RECORDS)], f"the records are not the same {when}")

    def committed(self):
        """The offset the group stopped at."""
        groups = json.loads(self.container.output("brooklet", "groups", "describe", "reader", "--json"))
        return groups

    # The steps, in order.

    def install(self, deb):
        """apt installs it, the unit starts by itself and says READY."""
        self.container.write("/root/old.deb", "")
        (self.container.root / "root/old.deb").write_bytes(pathlib.Path(deb).read_bytes())
        self.container.run("apt-get", "install", "--yes", "--no-install-recommends", "/root/old.deb")
        until("a client's first answer", self.is_serving, 60)
        for name, wanted in [("UnitFileState", "enabled"), ("SubState", "running"), ("Type", "notify"),
                             ("Result", "success"), ("NRestarts", "0"), ("User", "brooklet")]:
            value = self.container.property(name)
            expect(value == wanted, f"{name} is {value}, not {wanted}")

    def permissions(self):
        """State and credentials are closed to others; what the daemon writes is its own."""
        for path, wanted in [("/var/lib/brooklet", "750 brooklet brooklet"),
                             ("/etc/brooklet/credentials", "2750 root brooklet"),
                             (CONFIG, "644 root root")]:
            value = self.container.output("stat", "--format", "%a %U %G", path)
            expect(value == wanted, f"{path} is {value}, not {wanted}")
        open_files = self.container.output("find", "/var/lib/brooklet", "-type", "f", "-perm", "/077")
        expect(not open_files, f"readable by others: {open_files}")
        expect(self.container.output("find", "/var/lib/brooklet", "-type", "f"), "nothing on disk in /var/lib/brooklet")

    def status_line(self):
        """`systemctl status` has a line of the daemon's own."""
        line = until("the status line", lambda: self.container.property("StatusText"))
        expect("topics" in line, f"status line without topics: {line}")
        shown = self.systemctl("status", "--no-pager", UNIT).stdout
        expect(f'Status: "{line.split(",")[0]}' in shown, f"no status line in:\n{shown}")
        print(f"  {line}")

    def security(self):
        """Nothing in the unit is unknown to systemd; the exposure as systemd counts it on the loaded unit."""
        self.container.run("systemd-analyze", "verify", "--man=no", UNIT)
        report = self.container.output("systemd-analyze", "security", "--no-pager", UNIT)
        score = float(report.splitlines()[-1].split(":")[1].split()[0])
        expect(score <= 1.5, f"exposure {score} is above 1.5:\n{report}")
        status = pathlib.Path(f"/proc/{self.host_pid()}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        for name, wanted in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("CapEff", "0" * 16), ("CapBnd", "0" * 16)]:
            expect(fields[name].strip() == wanted, f"{name} of the daemon is {fields[name].strip()}")
        print(f"  exposure {score}, resident {fields['VmRSS'].strip()}")

    def clients(self):
        """Records go in and out, by an outside client and by the program itself; a group's offset is committed."""
        self.kcat("-P", "-t", "kept", text="".join(f"{n}\n" for n in range(RECORDS)))
        self.expect_records("as produced")
        read = self.container.output("brooklet", "consume", "kept", "--group", "reader", "--from-beginning",
                                     "--max-messages", "20")
        expect(read.split() == [str(n) for n in range(20)], f"brooklet consume printed {read}")

    def host_metrics(self):
        """From inside the sandbox the metrics see the whole host."""
        def events(metricset):
            lines = self.kcat("-C", "-t", "metric.all", "-o", "beginning", "-e", "-q").stdout.splitlines()
            return [e for e in map(json.loads, lines) if e["metricset"]["name"] == metricset]

        for metricset in ["cpu", "load", "memory", "network", "process_summary", "socket_summary"]:
            until(f"an event of {metricset}", lambda metricset=metricset: events(metricset), 60)
        processes = until("events of process", lambda: events("process"), 60)
        owners = {event.get("user", {}).get("name") for event in processes}
        # Top processes only, so not every owner is there; PrivateUsers= would make nobody of all but these two.
        expect({"root", "brooklet"} <= owners and "nobody" not in owners, f"process sees processes of {owners}")
        total = until("process_summary", lambda: events("process_summary"))[-1]["system"]["process"]["summary"]["total"]
        seen = int(self.container.output("sh", "-c", "ls -d /proc/[0-9]* | wc -l"))
        expect(total > 3 and abs(total - seen) <= seen / 2, f"process_summary counts {total}, /proc has {seen}")
        disks = until("events of filesystem", lambda: events("filesystem"), 60)
        first = [d for d in disks if d["@timestamp"] == disks[0]["@timestamp"]]
        points = [d["system"]["filesystem"]["mount_point"] for d in first]
        names = [d["system"]["filesystem"]["device_name"] for d in first]
        expect("/" in points, f"the root file system is not among {points}")
        expect(len(names) == len(set(names)), f"a disk is listed twice: {list(zip(names, points))}")
        print(f"  {total} processes of {sorted(map(str, owners))}, file systems {points}")

    def journal_lines(self):
        """The journal says what runs where, line by line with a priority, and nothing failed."""
        lines = self.container.output("journalctl", "--unit", UNIT, "--output", "json", "--no-pager").splitlines()
        entries = [e for e in map(json.loads, lines) if e.get("_COMM") == "brooklet"]
        texts = [str(e["MESSAGE"]) for e in entries]
        expect(any("ready" in text for text in texts), f"no line says ready: {texts}")
        bad = [e["MESSAGE"] for e in entries if int(e["PRIORITY"]) <= 3]
        expect(not bad, f"errors in the journal: {bad}")

    def crash(self):
        """After SIGKILL it comes back by itself, with every record."""
        before, pid = self.restarts(), self.pid()
        self.systemctl("kill", "--signal=KILL", UNIT)
        until("the restart after SIGKILL", lambda: self.restarts() == before + 1 and self.is_serving())
        expect(self.pid() != pid, "the same process")
        self.expect_records("after SIGKILL")

    def watchdog(self):
        """Fed while idle; a daemon that stands still, or whose writer thread alone does, is killed and restarted."""
        self.drop_in("WatchdogSec=4s\nRestartSec=100ms")
        until("the broker with the short watchdog", self.is_serving)
        before, started = self.restarts(), time.monotonic()
        until("three idle watchdog periods", lambda: time.monotonic() - started > 12, 60)
        expect(self.restarts() == before and self.is_serving(), "the watchdog killed an idle daemon")
        for what, stand_still in [("process", lambda: self.systemctl("kill", "--signal=STOP", UNIT)),
                                  ("writer thread", None)]:
            before, since = self.restarts(), self.now()
            if stand_still:
                stand_still()
                until(f"the restart of a {what} that stands still", lambda: self.restarts() > before)
            else:
                with frozen(self.host_pid(), "log-writer"):
                    # A traced thread dies only when its tracer lets go; the verdict is what counts here.
                    until(f"the verdict on a {what} that stands still",
                          lambda since=since: "Watchdog timeout" in self.journal(since))
                until(f"the restart of a {what} that stands still", lambda: self.restarts() > before)
            expect("Watchdog timeout" in self.journal(since), f"not by the watchdog:\n{self.journal(since)}")
            until("the broker after the watchdog", self.is_serving)
            self.expect_records(f"after the watchdog restarted a {what} that stood still")
        self.drop_in("")
        until("the broker with the unit's own watchdog", self.is_serving)

    def wrong_configuration(self):
        """Exit 78 with every error in the journal, no restart; the mended file starts again."""
        good = (self.container.root / CONFIG.lstrip("/")).read_text()
        self.drop_in("RestartSec=100ms")
        until("the broker", self.is_serving)
        before, since = self.restarts(), self.now()
        self.container.write(CONFIG, good.replace('durability = "strict"', 'durability = "strickt"')
                             .replace("[admin]", "[admin]\nlissen = 1"))
        checked = self.container.run("brooklet", "check", check=False)
        expect(checked.returncode == 78, f"brooklet check: exit code {checked.returncode}")
        self.systemctl("restart", UNIT, check=False)
        # Between a failure and its restart the unit is 'activating (auto-restart)': failed is final.
        until("failed", lambda: self.container.property("ActiveState") == "failed")
        expect(self.container.property("ExecMainStatus") == "78",
               f"exit code {self.container.property('ExecMainStatus')}")
        expect(self.restarts() == before, "restarted with a wrong configuration")
        journal = self.journal(since)
        for word in [CONFIG, "durability", "strickt", "lissen", "listen"]:
            expect(word in journal, f"the journal does not name {word}:\n{journal}")
        self.container.write(CONFIG, good)
        self.drop_in("")
        until("the broker with the mended file", self.is_serving)

    def credentials(self):
        """A file in the credentials directory is ${credential:NAME}; one that is missing is exit 78 and named."""
        good = (self.container.root / CONFIG.lstrip("/")).read_text()
        directory = "/etc/brooklet/credentials"
        self.container.write(CONFIG, good.replace('name = ""', 'name = "${credential:node}"')
                             + '\n[connectors.sensors]\nclass = "mqtt-source"\nurl = "mqtt://127.0.0.1:1"\n'
                             'username = "edge"\npassword_file = "/etc/brooklet/credentials/mqtt"\n'
                             'map = [ { filter = "a", topic = "a" } ]\n')
        since = self.now()
        self.systemctl("restart", UNIT, check=False)
        until("failed", lambda: self.container.property("ActiveState") == "failed")
        expect(self.container.property("ExecMainStatus") == "78", "a missing credential is not exit 78")
        expect("node" in self.journal(since), f"the journal does not name the credential:\n{self.journal(since)}")
        # One that root alone may read comes by systemd, the other by the directory's group.
        self.container.run("install", "--mode=600", "--group=root", "/dev/stdin", f"{directory}/node", text="by-credential\n")
        self.container.run("sh", "-c", f"umask 027; cat > {directory}/mqtt", text="s3cret-of-mqtt\n")
        self.systemctl("restart", UNIT)
        until("the broker with credentials", self.is_serving)
        status = json.loads(self.container.output("brooklet", "status", "--json"))
        expect(status["node"]["name"] == "by-credential", f"the node is called {status['node']['name']}")
        expect("s3cret-of-mqtt" not in self.journal(), "the password is in the journal")
        expect(self.container.run("runuser", "-u", "nobody", "--", "cat", f"{directory}/mqtt", check=False).returncode,
               "others may read a credential")
        self.container.write(CONFIG, good)
        self.systemctl("restart", UNIT)
        until("the broker without credentials", self.is_serving)

    def reload(self):
        """`systemctl reload` takes a changed file in without a restart."""
        good = (self.container.root / CONFIG.lstrip("/")).read_text()
        pid = self.pid()
        self.container.write(CONFIG, good + '\n[streams.copy]\nfrom = ["kept"]\nto = "copied"\n')
        self.systemctl("reload", UNIT)
        until("the stream of the changed file", lambda: len(self.kcat("-C", "-t", "copied", "-o", "beginning", "-e", "-q")
                                                            .stdout.split()) == RECORDS)
        expect(self.pid() == pid and self.container.property("ActiveState") == "active", "it was restarted")
        self.container.write(CONFIG, good)
        self.systemctl("reload", UNIT)

    def names(self):
        """Inside the sandbox the C library asks a name server, without the address families that are closed."""
        good = (self.container.root / CONFIG.lstrip("/")).read_text()
        self.container.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
        self.container.run("systemd-run", "--unit=central", "brooklet", "run", "--data-dir", "/root/central",
                           "--listen", "127.0.0.1:19092", "--admin", "127.0.0.1:0")
        self.container.write(CONFIG, good + '\n[mirror.central]\nbootstrap_servers = ["kafka.central.test:19092"]\n'
                             'topics = ["kept"]\n')
        with self.container.background(sys.executable, str(pathlib.Path(__file__).with_name("names.py"))) as server:
            expect(server.stdout.readline() == "ready\n", "the name server did not start")
            self.systemctl("restart", UNIT)
            until("the records at the target that was named", lambda: self.kcat_central() == RECORDS, 60)
        self.container.write(CONFIG, good)
        self.systemctl("stop", "central.service")
        self.systemctl("restart", UNIT)
        until("the broker without a mirror", self.is_serving)

    def kcat_central(self):
        """How many records have arrived at the target of `names`."""
        read = self.container.run("kcat", "-b", "127.0.0.1:19092", "-C", "-t", f"{self.node()}.kept", "-o", "beginning",
                                  "-e", "-q", network_only=True)
        return len(read.stdout.split())

    def node(self):
        return json.loads(self.container.output("brooklet", "status", "--json"))["node"]["name"]

    def upgrade(self, deb):
        """A newer package keeps the configuration, the records and the groups' offsets."""
        good = (self.container.root / CONFIG.lstrip("/")).read_text()
        mine = good.replace('name = ""', 'name = "kept-by-the-administrator"')
        self.container.write(CONFIG, mine)
        (self.container.root / "root/new.deb").write_bytes(pathlib.Path(deb).read_bytes())
        before, pid = self.committed(), self.pid()
        self.container.run("apt-get", "install", "--yes", "--no-install-recommends", "/root/new.deb")
        until("the broker after the upgrade", self.is_serving)
        expect(self.pid() != pid, "the old program still runs")
        expect((self.container.root / CONFIG.lstrip("/")).read_text() == mine, "the upgrade changed the configuration")
        status = json.loads(self.container.output("brooklet", "status", "--json"))
        expect(status["node"]["name"] == "kept-by-the-administrator", "the configuration is not in force")
        self.expect_records("after the upgrade")
        expect(self.committed() == before, f"the group's offsets: {before}, now {self.committed()}")
        read = self.container.output("brooklet", "consume", "kept", "--group", "reader", "--max-messages", "30")
        expect(read.split() == [str(n) for n in range(20, RECORDS)], f"the group went on with {read}")

    def remove(self):
        """Removing stops it and keeps configuration, credentials and records; installing again finds them."""
        self.container.run("apt-get", "remove", "--yes", "brooklet")
        expect(self.systemctl("is-active", UNIT, check=False).stdout.strip() in ("inactive", "failed"), "still active")
        expect(not (self.container.root / "usr/bin/brooklet").exists(), "the program is still there")
        for path in [CONFIG, "/etc/brooklet/credentials/node", "/var/lib/brooklet"]:
            self.container.run("test", "-e", path)
        self.container.run("dpkg", "--install", "/root/new.deb")
        until("the broker after installing again", self.is_serving)
        expect(self.container.property("UnitFileState") == "enabled", "not enabled after installing again")
        self.expect_records("after remove and install")

    def purge(self):
        """Purging leaves nothing but the system user."""
        self.container.run("apt-get", "purge", "--yes", "brooklet")
        left = self.container.output("sh", "-c", "ls -d /etc/brooklet /var/lib/brooklet /etc/default/brooklet "
                                     "/etc/systemd/system/*/brooklet.service /var/lib/systemd/deb-systemd-helper-*/brooklet* "
                                     "2>/dev/null", check=False)
        expect(not left, f"left behind: {left}")
        expect(self.container.run("dpkg-query", "-W", "brooklet", check=False).returncode != 0, "dpkg still knows it")
        self.container.run("getent", "passwd", "brooklet")


def main():
    old, new, work = sys.argv[1:]
    make_rootfs()
    with Container(work) as container:
        service = Service(container)
        for step in [lambda: service.install(old), service.permissions, service.status_line, service.security,
                     service.clients, service.journal_lines, service.host_metrics, service.crash, service.watchdog,
                     service.wrong_configuration, service.credentials, service.reload, service.names,
                     lambda: service.upgrade(new), service.remove,
                     service.purge]:
            name = step.__name__ if step.__name__ != "<lambda>" else step.__code__.co_names[-1]
            started = time.monotonic()
            try:
                step()
            except Exception:
                print(f"FAILED {name}\n-- journal\n{service.journal()[-4000:]}", flush=True)
                raise
            print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"service.py: {error}")
