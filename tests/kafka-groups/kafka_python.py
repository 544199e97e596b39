"""Two kafka-python consumers in a group. Arguments: BROKER TOPIC GROUP; the topic is made.

One reads all, a second joins, the first leaves, the second takes over, a third finds only what is new.
The last line is 'ok'.
"""
import sys
import threading
import time

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic

broker, topic, group = sys.argv[1:4]
KafkaAdminClient(bootstrap_servers=broker).create_topics([NewTopic(topic, num_partitions=4, replication_factor=1)])
producer = KafkaProducer(bootstrap_servers=broker)


def produce(count):
    for i in range(count):
        producer.send(topic, value=str(i).encode(), partition=i % 4)
    producer.flush(20)


class Reader(threading.Thread):
    """Reads and commits until it is told to leave."""

    def __init__(self, name):
        super().__init__(daemon=True)
        self.client_id, self.got, self.share, self.leaves = name, [], set(), threading.Event()
        self.start()

    def run(self):
        consumer = KafkaConsumer(
            topic, bootstrap_servers=broker, group_id=group, client_id=self.client_id, auto_offset_reset="earliest",
            enable_auto_commit=False, session_timeout_ms=6000, heartbeat_interval_ms=500,
        )
        while not self.leaves.is_set():
            records = consumer.poll(timeout_ms=100)
            if records:
                consumer.commit()
            self.got += [(m.partition, m.offset) for batch in records.values() for m in batch]
            self.share = {p.partition for p in consumer.assignment()}
        consumer.close()

    def leave(self):
        self.leaves.set()
        self.join(30)


def wait(so, seconds=30):
    end = time.time() + seconds
    while not so():
        assert time.time() < end, f"waited in vain: {[(r.client_id, len(r.got), r.share) for r in threading.enumerate() if isinstance(r, Reader)]}"
        time.sleep(0.05)


produce(40)
one = Reader("one")
wait(lambda: len(one.got) == 40)
two = Reader("two")
wait(lambda: len(one.share) == len(two.share) == 2 and one.share | two.share == {0, 1, 2, 3})
produce(8)
wait(lambda: len(one.got) + len(two.got) == 48)
one.leave()
wait(lambda: len(two.share) == 4)
two.leave()
produce(4)
three = Reader("three")
wait(lambda: len(three.got) >= 4)
three.leave()
assert sorted(three.got) == [(i, 12) for i in range(4)], three.got
assert len(set(one.got + two.got)) == 48
print(kafka.__version__)
print("ok")
