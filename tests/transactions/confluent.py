"""Transactions of a confluent-kafka producer. Arguments: BROKER PREFIX; topics and ids begin with PREFIX.

Prints one fact per line, the same for every broker that keeps transactions as Kafka does; the last line is 'ok'.
`BROKER PREFIX hang` is the client that gets killed: it opens a transaction, says so, and waits.
"""
import subprocess
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

broker, prefix = sys.argv[1:3]
WAIT = 20


def topic(name, partitions=2):
    admin = AdminClient({"bootstrap.servers": broker})
    for future in admin.create_topics([NewTopic(prefix + name, partitions, 1)]).values():
        future.result(WAIT)
    return prefix + name


def transactional(name, **more):
    settings = {"bootstrap.servers": broker, "transactional.id": prefix + name, "linger.ms": 0}
    producer = Producer({**settings, **{key.replace("_", "."): value for key, value in more.items()}})
    producer.init_transactions(WAIT)
    return producer


def consumer(group, isolation="read_committed"):
    return Consumer({
        "bootstrap.servers": broker, "group.id": prefix + group, "isolation.level": isolation,
        "enable.auto.commit": False, "auto.offset.reset": "earliest", "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 500, "enable.partition.eof": True, "fetch.wait.max.ms": 100,
    })


def read(name, isolation="read_committed", partitions=2):
    """Everything up to the end as this isolation level sees it: values by partition and offset."""
    reader = consumer("reader", isolation)
    reader.assign([TopicPartition(name, p, 0) for p in range(partitions)])
    values, ended, until = [], set(), time.time() + WAIT
    while len(ended) < partitions and time.time() < until:
        message = reader.poll(0.2)
        if message is None:
            continue
        if message.error():
            ended.add(message.partition())
        else:
            values.append((message.partition(), message.offset(), message.value().decode()))
    assert len(ended) == partitions, f"no end of {name} in {WAIT} s, {len(values)} values"
    reader.close()
    return " ".join(f"{p}@{o}={v}" for p, o, v in sorted(values))


def fact(what, value):
    print(f"{what}: {value}", flush=True)


def error_of(call, *args):
    try:
        call(*args)
        return "none"
    except KafkaException as failed:
        error = failed.args[0]
        return f"{error.name()} fatal={error.fatal()} abort={error.txn_requires_abort()}"


def committed_and_aborted():
    name = topic("plain")
    producer = transactional("plain")
    for round_, ends in enumerate([producer.commit_transaction, producer.abort_transaction] * 2):
        producer.begin_transaction()
        for i in range(4):
            producer.produce(name, f"r{round_}v{i}", partition=i % 2)
        producer.flush(WAIT)
        if round_ == 0:
            fact("an open transaction, committed", read(name) or "nothing")
            fact("an open transaction, uncommitted", read(name, "read_uncommitted"))
        ends(WAIT)
    fact("committed", read(name))
    fact("uncommitted", read(name, "read_uncommitted"))
    producer.begin_transaction()
    producer.produce(name, "open", partition=0)
    producer.flush(WAIT)
    reader = consumer("ends")
    fact("end with an open transaction, committed", reader.get_watermark_offsets(TopicPartition(name, 0), WAIT))
    reader.close()
    reader = consumer("ends", "read_uncommitted")
    fact("end with an open transaction, uncommitted", reader.get_watermark_offsets(TopicPartition(name, 0), WAIT))
    reader.close()
    producer.abort_transaction(WAIT)
    fact("an empty transaction", error_of(lambda: (producer.begin_transaction(), producer.commit_transaction(WAIT))))


def transformed():
    """Consume, transform, produce: positions go with the transaction."""
    source, target = topic("in", 1), topic("out", 1)
    feed = Producer({"bootstrap.servers": broker})
    for i in range(20):
        feed.produce(source, str(i))
    assert feed.flush(WAIT) == 0
    reader = consumer("etl")
    reader.subscribe([source])
    producer = transactional("etl")
    batch, aborted, until = [], 0, time.time() + 40
    while time.time() < until:
        message = reader.poll(0.2)
        if message is None:
            continue
        if not message.error():
            batch.append(message)
        if len(batch) == 5 or message.error() and batch:
            producer.begin_transaction()
            for record in batch:
                producer.produce(target, str(int(record.value()) * 10))
            first, last = batch[0].offset(), batch[-1].offset()
            place = TopicPartition(source, 0, last + 1)
            producer.send_offsets_to_transaction([place], reader.consumer_group_metadata(), WAIT)
            if aborted < 2:
                producer.abort_transaction(WAIT)
                aborted += 1
                stands = reader.committed([TopicPartition(source, 0)], WAIT)[0].offset
                fact("position after an abort", stands)
                reader.seek(TopicPartition(source, 0, first))
            else:
                producer.commit_transaction(WAIT)
            batch = []
        if message.error() and not batch and aborted == 2:
            break
    fact("position after the commits", reader.committed([TopicPartition(source, 0)], WAIT)[0].offset)
    reader.close()
    values = [v.split("=")[1] for v in read(target, partitions=1).split()]
    fact("transformed exactly once", values == [str(i * 10) for i in range(20)])


def fenced():
    name = topic("fenced", 1)
    first = transactional("fenced")
    first.begin_transaction()
    first.produce(name, "zombie")
    first.flush(WAIT)
    second = transactional("fenced")
    second.begin_transaction()
    second.produce(name, "owner")
    second.commit_transaction(WAIT)
    fact("who is fenced commits", error_of(first.commit_transaction, WAIT))
    fact("what is left of it", [v.split("=")[1] for v in read(name, partitions=1).split()])
    fact("a time-out beyond the broker's", error_of(lambda: transactional("long", transaction_timeout_ms=900001)))


def killed():
    name = topic("killed", 1)
    client = subprocess.Popen([sys.executable, __file__, broker, prefix, "hang"], stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"open\n"
    client.kill()
    client.wait()
    feed = Producer({"bootstrap.servers": broker})
    feed.produce(name, "after")
    assert feed.flush(WAIT) == 0
    fact("while its transaction is open", read(name, partitions=1) or "nothing")
    until = time.time() + 30
    while not (values := read(name, partitions=1)) and time.time() < until:
        time.sleep(0.2)
    fact("after its time-out", [v.split("=")[1] for v in values.split()])


def hang():
    producer = transactional("killed", transaction_timeout_ms=3000)
    producer.begin_transaction()
    producer.produce(prefix + "killed", "lost")
    producer.flush(WAIT)
    print("open", flush=True)
    time.sleep(600)


if len(sys.argv) > 3:
    hang()
committed_and_aborted()
transformed()
fenced()
killed()
print("ok")
