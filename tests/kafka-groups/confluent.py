"""Two confluent-kafka consumers in a group. Arguments: BROKER TOPIC GROUP; the topic is made.

One reads all, a second joins, both commit, the first leaves, the second takes over, a third finds only what is new.
The last line is 'ok'.
"""
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition, libversion
from confluent_kafka.admin import AdminClient, NewTopic

broker, topic, group = sys.argv[1:4]
admin = AdminClient({"bootstrap.servers": broker})
for made in admin.create_topics([NewTopic(topic, num_partitions=4, replication_factor=1)]).values():
    made.result(20)
producer = Producer({"bootstrap.servers": broker})


def produce(count):
    for i in range(count):
        producer.produce(topic, value=str(i), partition=i % 4)
    assert producer.flush(20) == 0


def consumer(name):
    made = Consumer({
        "bootstrap.servers": broker, "group.id": group, "client.id": name, "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "session.timeout.ms": 6000, "heartbeat.interval.ms": 500,
    })
    made.subscribe([topic])
    return made


def pump(consumers, until, seconds=30):
    got, end = [], time.time() + seconds
    while not until(got):
        assert time.time() < end, f"{len(got)} records, assigned {[c.assignment() for c in consumers]}"
        for c in consumers:
            message = c.poll(0.05)
            if message is not None:
                assert not message.error(), message.error()
                got.append((message.partition(), message.offset()))
    assert len(set(got)) == len(got), "a record came twice"
    return got


produce(40)
one = consumer("one")
pump([one], lambda got: len(got) == 40)
one.commit(asynchronous=False)
two = consumer("two")
pump([one, two], lambda _: len(one.assignment()) == len(two.assignment()) == 2)
assert sorted(p.partition for c in (one, two) for p in c.assignment()) == [0, 1, 2, 3]
produce(8)
pump([one, two], lambda got: len(got) == 8)
one.commit(asynchronous=False)
two.commit(asynchronous=False)
committed = two.committed([TopicPartition(topic, i) for i in range(4)])
assert [p.offset for p in committed] == [12] * 4, committed
one.close()
pump([two], lambda _: len(two.assignment()) == 4)
two.close()
three = consumer("three")
produce(4)
pump([three], lambda got: sorted(got) == [(i, 12) for i in range(4)])
three.commit(asynchronous=False)
three.close()
print(libversion()[0])
print("ok")
