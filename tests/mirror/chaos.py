"""The daemon is killed with -9 again and again while records come in; Kafka is stopped for a while and killed with -9.

At the end the source topic, read from Brooklet, and <alias>.<topic>, read from Kafka, must hold the same records in the
same order: key, value, headers and timestamp. What the producer got an acknowledgement for must be among them, once.
"""
import argparse, atexit, json, os, random, signal, socket, subprocess, threading, time, urllib.request
from collections import Counter

from confluent_kafka import Consumer, Producer, TopicPartition, OFFSET_BEGINNING

p = argparse.ArgumentParser()
for name in ("brooklet", "dir", "rig", "version"):
    p.add_argument("--" + name, required=True)
p.add_argument("--port", type=int, required=True)
p.add_argument("--kills", type=int, default=50)
p.add_argument("--outage", type=float, default=60)
p.add_argument("--rate", type=float, default=400)
p.add_argument("--seed", type=int, default=int(time.time()))
a = p.parse_args()
print("seed", a.seed)
dice = random.Random(a.seed)
TOPIC, ALIAS = "metric.cpu", "edge-1"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


listen, admin = free_port(), free_port()
config = os.path.join(a.dir, "brooklet.toml")
with open(config, "w") as f:
    f.write(f"""
[node]
name = "{ALIAS}"
data_dir = "{a.dir}/data"
[kafka]
listeners = ["PLAINTEXT://127.0.0.1:{listen}"]
[admin]
listen = "127.0.0.1:{admin}"
[connectors.host]
period = "1s"
[mirror.central]
bootstrap_servers = ["127.0.0.1:{a.port}"]
topics = ["metric\\\\..*"]
quarantine = "10s"
""")


class Daemon:
    def start(self):
        self.log = open(os.path.join(a.dir, "daemon.log"), "a")
        self.process = subprocess.Popen([a.brooklet, "run", "--config", config], stdout=self.log, stderr=self.log)
        end = time.time() + 60
        while time.time() < end:
            try:
                socket.create_connection(("127.0.0.1", listen), 1).close()
                return
            except OSError:
                assert self.process.poll() is None, "the daemon ended: " + tail()
                time.sleep(0.02)
        raise SystemExit("the daemon does not serve: " + tail())

    def stop(self, sig):
        self.process.send_signal(sig)
        self.process.wait()


def tail():
    return open(os.path.join(a.dir, "daemon.log")).read()[-2000:]


def kafka(*args):
    subprocess.run([a.rig, a.version, args[0], os.path.join(a.dir, "kafka"), *map(str, args[1:])], check=True, stdout=subprocess.DEVNULL)


acked, failed, stop = Counter(), [], threading.Event()


def generate():
    """An idempotent producer that keeps trying for as long as the daemon is down."""
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{listen}", "enable.idempotence": True, "linger.ms": 5,
                         "delivery.timeout.ms": 600000, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 50, "log_level": 0})
    n = 0

    def done(error, message):
        if error:
            failed.append(str(error))
        else:
            acked[message.value()] += 1
    while not stop.is_set():
        key = None if n % 5 == 0 else f"k{n % 17}"
        headers = [("h", b"1"), ("h", None), ("n", str(n).encode())] if n % 3 else None
        try:
            producer.produce(TOPIC, f"number {n}", key=key, headers=headers, on_delivery=done, partition=0,
                             timestamp=int(time.time() * 1000) - n % 1000)
            n += 1
        except BufferError:
            pass
        producer.poll(0)
        time.sleep(1 / a.rate)
    producer.flush(120)
    return n


def read(port, topic):
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{port}", "group.id": "reader", "enable.auto.commit": False,
                         "auto.offset.reset": "earliest"})
    rows = {}
    partitions = sorted(consumer.list_topics(topic, 20).topics[topic].partitions)
    for partition in partitions:
        _low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), 20)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        found, last, end = [], -1, time.time() + 60
        while last + 1 < high and time.time() < end:
            for m in consumer.consume(1000, 1):
                assert m.error() is None, m.error()
                last = m.offset()
                found.append((m.key(), m.value(), m.headers(), m.timestamp()))
        assert last + 1 == high, f"{topic}-{partition}: read to {last + 1} of {high}"
        rows[partition] = found
    consumer.close()
    return rows


def status():
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/status", timeout=5) as answer:
        return json.load(answer)["mirrors"]["central"]


def settle(enough, limit):
    end, seen = time.time() + limit, None
    while time.time() < end:
        try:
            seen = status()
            if enough(seen):
                return seen
        except (OSError, KeyError):
            pass
        time.sleep(0.2)
    raise SystemExit(f"not settled within {limit} s: {seen}; {tail()}")


daemon = Daemon()
daemon.start()
atexit.register(lambda: daemon.process.kill())
generator = threading.Thread(target=generate, daemon=True)
generator.start()
stopped_at, killed_at = a.kills // 3, 2 * a.kills // 3
outage = None
for i in range(a.kills):
    time.sleep(dice.uniform(0.05, 2))
    if i == stopped_at:
        kafka("stop")
        print("Kafka stopped", flush=True)
        outage = time.time() + a.outage
    if outage and time.time() > outage:
        kafka("start", a.port)
        print("Kafka started", flush=True)
        outage = None
    if i == killed_at:
        if outage:
            time.sleep(max(0, outage - time.time()))
            kafka("start", a.port)
            outage = None
            time.sleep(5)
        kafka("stop", "KILL")
        print("Kafka killed", flush=True)
        kafka("start", a.port)
    daemon.stop(signal.SIGKILL)
    daemon.start()
print(f"{a.kills} kills", flush=True)
if outage:
    kafka("start", a.port)
stop.set()
generator.join()
# Host metrics keep coming: caught up is when what is missing is only what is fresh.
settle(lambda s: s["lag"] < 100 and not s["error"], 300)
shown = subprocess.run([a.brooklet, "mirror", "status", "--config", config], capture_output=True, text=True)
print(shown.stdout[:600] + shown.stderr[:600], flush=True)
assert shown.returncode == 0 and "central" in shown.stdout, shown
# The clean stop leaves nothing to add at the source; the next start mirrors the rest.
with open(config) as f:
    quiet = f.read().replace('[connectors.host]\nperiod = "1s"', "[connectors.host]\nenabled = false")
with open(config, "w") as f:
    f.write(quiet)
daemon.stop(signal.SIGTERM)
daemon.start()
seen = settle(lambda s: s["lag"] == 0 and len(s["detail"]) >= 3, 180)
assert not failed, failed[:3]
total = 0
for topic in ("metric.cpu", "metric.all", "metric.memory"):
    source, target = read(listen, topic), read(a.port, f"{ALIAS}.{topic}")
    assert source.keys() == target.keys(), (source.keys(), target.keys())
    for partition, rows in source.items():
        copy = target[partition]
        if rows != copy:
            at = next((i for i, (x, y) in enumerate(zip(rows, copy)) if x != y), min(len(rows), len(copy)))
            counts = Counter(map(repr, copy))
            twice = [r for r, n in counts.items() if n > 1]
            raise SystemExit(f"{topic}-{partition} differs from record {at} on: {len(rows)} at the source, {len(copy)} at the target, "
                             f"{len(twice)} twice; source {rows[at:at + 2]}, target {copy[at:at + 2]}")
        total += len(rows)
    print(f"{topic}: {sum(map(len, source.values()))} records, each once and in order", flush=True)
    if topic == TOPIC:
        values = Counter(v for rows in source.values() for _, v, _, _ in rows)
        lost = [v for v in acked if values[v] != 1]
        assert not lost, f"{len(lost)} acknowledged records not there once: {lost[:3]}"
        print(f"{len(acked)} acknowledged by the producer, all there", flush=True)
print(json.dumps({k: seen[k] for k in ("state", "guarantee", "records", "possible_duplicates")}))
assert seen["possible_duplicates"] == 0
daemon.stop(signal.SIGTERM)
print(f"ok: {total} records, {a.kills} kills")
