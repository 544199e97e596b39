"""An ARM package without an ARM board: unpacked, its program run under qemu-user, and served to a Kafka client.

    emulated.py PACKAGE.deb WORK_DIRECTORY RUNNER...

What this does not show: the C library and kernel of a board, its memory, its speed, a power cut.
"""

import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from container import Failed, until

# Records produced, read back, and read again from disk by a second start.
RECORDS = [f"record {n}" for n in range(100)]


def start(runner, program, work, config):
    """The daemon on free ports; its process and the address of its Kafka listener."""
    lines = open(work / "lines", "w+")
    process = subprocess.Popen([*runner, str(program), "run", "--config", str(config), "--data-dir", str(work / "data"),
                                "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], stdout=lines, stderr=lines)

    def address():
        if process.poll() is not None:
            raise Failed(f"ended with {process.returncode}: {(work / 'lines').read_text()}")
        found = re.search(r"Kafka\s+(127\.0\.0\.1:\d+)", (work / "lines").read_text())
        return found and found.group(1)

    try:
        return process, until("the start-up lines", address, 60)
    except Failed:
        process.kill()
        raise


def stop(process, work):
    """SIGTERM drains and ends with success."""
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failed(f"did not stop: {(work / 'lines').read_text()}") from None
    if code != 0:
        raise Failed(f"exit code {code} after SIGTERM: {(work / 'lines').read_text()}")


def kcat(address, *arguments, text=None):
    done = subprocess.run(["kcat", "-b", address, *arguments], input=text, text=True, capture_output=True, timeout=60)
    if done.returncode != 0:
        raise Failed(f"kcat {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def main():
    deb, work, *runner = sys.argv[1:]
    deb, work = pathlib.Path(deb), pathlib.Path(work)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    started = time.monotonic()
    subprocess.run(["dpkg-deb", "--extract", str(deb), str(work / "tree")], check=True)
    program = work / "tree/usr/bin/brooklet"
    # The configuration that the package brings.
    config = work / "tree/etc/brooklet/brooklet.toml"

    process, address = start(runner, program, work, config)
    try:
        if "broker" not in kcat(address, "-L"):
            raise Failed("no broker in the answer to Metadata")
        kcat(address, "-P", "-t", "sensors", text="\n".join(RECORDS) + "\n")
        read = kcat(address, "-C", "-t", "sensors", "-o", "beginning", "-e", "-q").splitlines()
        if read != RECORDS:
            raise Failed(f"{len(read)} records came back, not the {len(RECORDS)} produced")
        until("host metrics", lambda: kcat(address, "-C", "-t", "metric.all", "-o", "beginning", "-e", "-q"), 60)
    finally:
        stop(process, work)
    process, address = start(runner, program, work, config)
    try:
        if kcat(address, "-C", "-t", "sensors", "-o", "beginning", "-e", "-q").splitlines() != RECORDS:
            raise Failed("the second start does not have the records")
    finally:
        stop(process, work)
    print(f"ok {deb.name} under {runner[0]} ({time.monotonic() - started:.1f} s)")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"emulated.py: {error}")
