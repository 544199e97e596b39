"""confluent-kafka consumers of the consumer protocol (KIP-848). Arguments: BROKER TOPIC GROUP; the topic is made.

One reads all, a second joins, both commit, a third comes by a pattern and goes, the first leaves, the second takes over,
partitions are added, a static member is started again within its session. The last line is 'ok'.
"""
import sys
import time

from confluent_kafka import Consumer, ConsumerGroupState, ConsumerGroupType, Producer, TopicPartition, libversion
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

broker, topic, group = sys.argv[1:4]
admin = AdminClient({"bootstrap.servers": broker})
for made in admin.create_topics([NewTopic(topic, num_partitions=4, replication_factor=1)]).values():
    made.result(20)
producer = Producer({"bootstrap.servers": broker})


def produce(count, partitions=4):
    for i in range(count):
        producer.produce(topic, value=str(i), partition=i % partitions)
    assert producer.flush(20) == 0


def consumer(name, topics=topic, **config):
    made = Consumer({
        "bootstrap.servers": broker, "group.id": group, "client.id": name, "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "group.protocol": "consumer", "topic.metadata.refresh.interval.ms": 2000, **config,
    })
    made.subscribe([topics])
    return made


def pump(consumers, until, seconds=60):
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


def shares(*consumers):
    return sorted(len(c.assignment()) for c in consumers)


def all_of(*consumers):
    return sorted(p.partition for c in consumers for p in c.assignment())


produce(40)
one = consumer("one")
pump([one], lambda got: len(got) == 40)
one.commit(asynchronous=False)
two = consumer("two", **{"group.remote.assignor": "uniform"})
pump([one, two], lambda _: shares(one, two) == [2, 2])
assert all_of(one, two) == [0, 1, 2, 3]
produce(8)
pump([one, two], lambda got: len(got) == 8)
one.commit(asynchronous=False)
two.commit(asynchronous=False)
committed = two.committed([TopicPartition(topic, i) for i in range(4)])
assert [p.offset for p in committed] == [12] * 4, committed

described = admin.describe_consumer_groups([group])[group].result(20)
assert described.type == ConsumerGroupType.CONSUMER, described.type
assert described.state == ConsumerGroupState.STABLE, described.state
assert sorted(len(m.assignment.topic_partitions) for m in described.members) == [2, 2]
listed = admin.list_consumer_groups(types={ConsumerGroupType.CONSUMER}).result()
assert group in [g.group_id for g in listed.valid]
listed = admin.list_consumer_groups(types={ConsumerGroupType.CLASSIC}).result()
assert group not in [g.group_id for g in listed.valid]

three = consumer("three", topics="^" + topic + "$")
pump([one, two, three], lambda _: shares(one, two, three) == [1, 1, 2])
assert all_of(one, two, three) == [0, 1, 2, 3]
three.close()
pump([one, two], lambda _: shares(one, two) == [2, 2])
one.close()
pump([two], lambda _: shares(two) == [4])
for made in admin.create_partitions([NewPartitions(topic, 6)]).values():
    made.result(20)
pump([two], lambda _: shares(two) == [6])
two.close()

static = {"group.instance.id": "fixed"}
four, five = consumer("four", **static), consumer("five")
pump([four, five], lambda _: shares(four, five) == [3, 3])
before = all_of(four)
four.close()
four = consumer("four", **static)
pump([four, five], lambda _: shares(four, five) == [3, 3])
assert all_of(four) == before, "a static member has what it had"
# One that has not seen the topic before it grew.
producer = Producer({"bootstrap.servers": broker})
produce(6, 6)
pump([four, five], lambda got: len(got) == 6)
four.close()
five.close()
print(libversion()[0])
print("ok")
