"""confluent-kafka: topics, an idempotent producer, a group, offsets, settings. Argument: HOST:PORT. Prints ok."""

import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

at = {"bootstrap.servers": sys.argv[1]}
topic = f"confluent-{time.time_ns()}"
admin = AdminClient(at)
for future in admin.create_topics([NewTopic(topic, 3, 1, config={"retention.ms": "100000"})]).values():
    future.result(10)

errors = []
producer = Producer({**at, "enable.idempotence": True, "compression.type": "zstd"})
for i in range(2000):
    producer.produce(topic, key=str(i), value=f"v{i}", headers=[("h", b"1"), ("h", None)],
                     on_delivery=lambda error, _: error and errors.append(error))
assert producer.flush(30) == 0 and not errors, errors

group = {**at, "group.id": topic, "auto.offset.reset": "earliest", "enable.auto.commit": False}
consumer = Consumer(group)
consumer.subscribe([topic])
seen, end = {}, time.time() + 30
while len(seen) < 2000 and time.time() < end:
    for message in consumer.consume(500, 1.0):
        assert not message.error(), message.error()
        assert message.headers() == [("h", b"1"), ("h", None)]
        seen[message.key()] = message.value()
assert len(seen) == 2000 and seen[b"7"] == b"v7", len(seen)
consumer.commit(asynchronous=False)
parts = [TopicPartition(topic, i) for i in range(3)]
assert sum(p.offset for p in consumer.committed(parts)) == 2000
ends = [consumer.get_watermark_offsets(p) for p in parts]
assert sum(high - low for low, high in ends) == 2000
assert consumer.offsets_for_times([TopicPartition(topic, 0, 0)])[0].offset == 0
consumer.close()

settings = list(admin.describe_configs([ConfigResource("topic", topic)]).values())[0].result(10)
assert settings["retention.ms"].value == "100000" and len(settings) > 30
assert len(admin.list_topics(timeout=10).topics[topic].partitions) == 3
for future in admin.delete_topics([topic]).values():
    future.result(10)
assert topic not in admin.list_topics(timeout=10).topics
print("ok")
