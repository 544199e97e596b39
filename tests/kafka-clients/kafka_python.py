"""kafka-python: a producer, a group, offsets by time. Argument: HOST:PORT. Prints ok."""

import sys
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

topic = f"python-{time.time_ns()}"
producer = KafkaProducer(bootstrap_servers=sys.argv[1], compression_type="gzip", acks="all")
sent = [producer.send(topic, key=b"k%d" % i, value=b"v%d" % i, headers=[("h", b"1")]) for i in range(1000)]
producer.flush(30)
assert sent[-1].get(10).offset == 999

consumer = KafkaConsumer(topic, bootstrap_servers=sys.argv[1], group_id=topic, auto_offset_reset="earliest",
                         consumer_timeout_ms=5000)
values = [message.value for message in consumer]
assert values == [b"v%d" % i for i in range(1000)], len(values)
consumer.commit()
part = TopicPartition(topic, 0)
assert consumer.committed(part) == 1000
assert consumer.end_offsets([part]) == {part: 1000}
assert consumer.beginning_offsets([part]) == {part: 0}
assert consumer.offsets_for_times({part: 0})[part].offset == 0
consumer.close()
print("ok")
