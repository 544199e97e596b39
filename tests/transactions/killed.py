"""Transactions while the broker is killed again and again. Arguments: BROKER TOPIC SECONDS; the topic is made.

Transaction I writes I into every partition; every third is aborted. Afterwards each must be in all partitions or in
none, every acknowledged one in all, no aborted one in any. The last line is 'ok', with what was seen before it. Positions
of groups are left to Kafka's copier: librdkafka 2.16 may wait for ever to send one after it lost its connections.
"""
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

broker, topic, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
PARTITIONS = 3
settings = {"bootstrap.servers": broker, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20, "log_level": 0}
admin = AdminClient(settings)
admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(20)


def start():
    while True:
        try:
            producer = Producer({**settings, "transactional.id": topic, "linger.ms": 0, "transaction.timeout.ms": 10000})
            producer.init_transactions(5)
            return producer
        except KafkaException:
            pass


def once(producer, number):
    """True when committed, False when aborted, None when nobody knows."""
    producer.begin_transaction()
    try:
        for partition in range(PARTITIONS):
            producer.produce(topic, str(number), partition=partition)
        producer.flush(10)
        if number % 3 == 2:
            producer.abort_transaction(10)
            return False
    except KafkaException as failed:
        if failed.args[0].txn_requires_abort():
            producer.abort_transaction(10)
            return False
        raise
    while True:
        try:
            producer.commit_transaction(10)
            return True
        except KafkaException as failed:
            if failed.args[0].txn_requires_abort():
                producer.abort_transaction(10)
                return False
            if not failed.args[0].retriable():
                raise


producer, outcomes, restarts, until = start(), {}, 0, time.time() + seconds
while time.time() < until:
    number = len(outcomes)
    outcomes[number] = None
    try:
        outcomes[number] = once(producer, number)
    except KafkaException:
        # Whether it is fatal or just took too long: another instance fences this one.
        restarts += 1
        producer = start()

reader = Consumer({**settings, "group.id": topic + "-reader", "isolation.level": "read_committed",
                   "enable.partition.eof": True, "enable.auto.commit": False})
reader.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
seen, ended, until = [[] for _ in range(PARTITIONS)], set(), time.time() + 30
while len(ended) < PARTITIONS and time.time() < until:
    message = reader.poll(0.5)
    if message is None:
        continue
    if message.error():
        ended.add(message.partition())
    else:
        seen[message.partition()].append(int(message.value()))
assert len(ended) == PARTITIONS, "a partition has no end"
assert seen[0] == seen[1] == seen[2], "a transaction is in some partitions and not in others"
assert seen[0] == sorted(set(seen[0])), "a transaction is there twice"
found = set(seen[0])
for number, outcome in outcomes.items():
    assert outcome is None or outcome == (number in found), f"transaction {number}: {outcome}"
kinds = list(outcomes.values())
print(f"{len(found)} committed, {kinds.count(False)} aborted, {kinds.count(None)} unknown, {restarts} new instances")
assert len(found) > 10
print("ok")
