import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

/**
 * What an application does with the Java client: administer, produce with every codec and in transactions, consume in a
 * group. Only calls that the clients of 2.1 to 4.3 have in common, so that one program judges them all.
 *
 * Client HOST:PORT; prints ok, or what went wrong.
 */
public class Client {
    static String broker, topic = "java-" + UUID.randomUUID();

    public static void main(String[] args) throws Exception {
        broker = args[0];
        try (AdminClient admin = AdminClient.create(settings())) {
            makes(admin);
            produces();
            consumesInAGroup();
            findsOffsets();
            transacts();
            administers(admin);
        }
        System.out.println("ok");
    }

    static Map<String, Object> settings(Object... more) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", broker, "request.timeout.ms", "20000"));
        for (int i = 0; i < more.length; i += 2) all.put((String) more[i], more[i + 1]);
        return all;
    }

    static void is(String what, Object got, Object expected) {
        if (!Objects.equals(got, expected)) throw new AssertionError(what + ": got " + got + ", expected " + expected);
    }

    static void refused(String what, Class<?> why, KafkaFuture<?> future) throws Exception {
        try {
            future.get();
        } catch (ExecutionException e) {
            is(what, e.getCause().getClass(), why);
            return;
        }
        throw new AssertionError(what + ": not refused");
    }

    static void makes(AdminClient admin) throws Exception {
        NewTopic wanted = new NewTopic(topic, 2, (short) 1).configs(Map.of("retention.ms", "3600000"));
        admin.createTopics(List.of(wanted)).all().get();
        refused("a topic twice", TopicExistsException.class, admin.createTopics(List.of(wanted)).all());
        refused("an impossible name", InvalidTopicException.class,
            admin.createTopics(List.of(new NewTopic("a/b", 1, (short) 1))).all());
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3))).all().get();
        is("the topic is listed", admin.listTopics().names().get().contains(topic), true);
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Config config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
        is("its retention", config.get("retention.ms").value(), "3600000");
        is("a default", config.get("cleanup.policy").isDefault(), true);
        is("one node", admin.describeCluster().nodes().get().size(), 1);
    }

    static final List<String> CODECS = List.of("none", "gzip", "snappy", "lz4", "zstd");
    static final int EACH = 300;

    static void produces() throws Exception {
        for (String codec : CODECS) {
            try (Producer<String, String> producer = new KafkaProducer<>(
                    settings("compression.type", codec, "enable.idempotence", true, "acks", "all", "linger.ms", 2),
                    new StringSerializer(), new StringSerializer())) {
                is("partitions", producer.partitionsFor(topic).size(), 3);
                for (int i = 0; i < EACH; i++) {
                    ProducerRecord<String, String> record = new ProducerRecord<>(topic, "k" + i % 10, codec + i);
                    record.headers().add("codec", codec.getBytes()).add("codec", new byte[0]);
                    producer.send(record);
                }
                producer.flush();
                RecordMetadata last = producer.send(new ProducerRecord<>(topic, 0, null, (String) null)).get();
                is("the partition asked for", last.partition(), 0);
            }
        }
        try (Producer<String, String> producer = new KafkaProducer<>(
                settings("acks", "1", "max.request.size", 4_000_000), new StringSerializer(), new StringSerializer())) {
            producer.send(new ProducerRecord<>(topic, "x".repeat(2_000_000))).get();
            throw new AssertionError("a record above max.message.bytes was taken");
        } catch (ExecutionException e) {
            is("a large record", e.getCause().getClass(), RecordTooLargeException.class);
        }
    }

    static KafkaConsumer<String, String> consumer(Object... more) {
        Map<String, Object> all = settings(more);
        all.putIfAbsent("auto.offset.reset", "earliest");
        all.putIfAbsent("enable.auto.commit", false);
        return new KafkaConsumer<>(all, new StringDeserializer(), new StringDeserializer());
    }

    static List<ConsumerRecord<String, String>> read(Consumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> got = new ArrayList<>();
        long until = System.nanoTime() + 30_000_000_000L;
        while (got.size() < count && System.nanoTime() < until) consumer.poll(Duration.ofMillis(200)).forEach(got::add);
        is("records read", got.size(), count);
        return got;
    }

    static void consumesInAGroup() {
        int all = CODECS.size() * (EACH + 1);
        try (KafkaConsumer<String, String> one = consumer("group.id", topic)) {
            one.subscribe(List.of(topic));
            List<ConsumerRecord<String, String>> got = read(one, all);
            Map<String, List<String>> byKey = got.stream().filter(r -> r.key() != null)
                .collect(Collectors.groupingBy(r -> r.key(), Collectors.mapping(r -> r.value(), Collectors.toList())));
            for (int key = 0; key < 10; key++) {
                final int k = key;
                List<String> expected = CODECS.stream()
                    .flatMap(c -> IntStream.range(0, EACH).filter(i -> i % 10 == k).mapToObj(i -> c + i)).collect(Collectors.toList());
                is("the order of a key", byKey.get("k" + key), expected);
            }
            ConsumerRecord<String, String> some = got.stream().filter(r -> r.key() != null).findFirst().get();
            is("headers", Arrays.stream(some.headers().toArray()).map(h -> h.key() + h.value().length)
                .collect(Collectors.joining(" ")), "codec" + some.value().replaceAll("\\d", "").length() + " codec0");
            one.commitSync();
            is("its members' partitions", one.assignment().size(), 3);
        }
        try (KafkaConsumer<String, String> again = consumer("group.id", topic)) {
            again.subscribe(List.of(topic));
            for (int i = 0; i < 100 && again.assignment().isEmpty(); i++) is("nothing twice", again.poll(Duration.ofMillis(200)).count(), 0);
            TopicPartition first = new TopicPartition(topic, 0);
            long end = again.endOffsets(List.of(first)).get(first);
            is("the position is the committed one", again.position(first), end);
            again.seek(first, end - 1);
            is("seek", read(again, 1).get(0).offset(), end - 1);
        }
    }

    static void findsOffsets() {
        try (KafkaConsumer<String, String> consumer = consumer()) {
            TopicPartition first = new TopicPartition(topic, 0);
            is("the start", consumer.beginningOffsets(List.of(first)).get(first), 0L);
            is("the first of all times", consumer.offsetsForTimes(Map.of(first, 1L)).get(first).offset(), 0L);
            Map<TopicPartition, OffsetAndTimestamp> late = consumer.offsetsForTimes(Map.of(first, System.currentTimeMillis() + 3_600_000));
            is("nothing in the future", late.get(first), null);
        }
    }

    static void transacts() throws Exception {
        String name = topic + "-tx";
        try (Producer<String, String> producer = new KafkaProducer<>(settings("transactional.id", name), new StringSerializer(), new StringSerializer())) {
            producer.initTransactions();
            for (String outcome : List.of("abort", "commit", "abort", "commit")) {
                producer.beginTransaction();
                for (int i = 0; i < 10; i++) producer.send(new ProducerRecord<>(name, outcome + i));
                producer.flush(); // an abort drops what was not sent
                if (outcome.equals("commit")) producer.commitTransaction(); else producer.abortTransaction();
            }
            // The second one with the same id takes over.
            try (Producer<String, String> second = new KafkaProducer<>(settings("transactional.id", name), new StringSerializer(), new StringSerializer())) {
                second.initTransactions();
                try {
                    producer.beginTransaction();
                    producer.send(new ProducerRecord<>(name, "fenced")).get();
                    producer.commitTransaction();
                    throw new AssertionError("the old producer is not fenced");
                } catch (KafkaException | ExecutionException e) {
                    // Each version has its own way and name for it.
                    String all = e + " " + e.getCause();
                    is("fenced: " + all, all.contains("ProducerFenced") || all.contains("InvalidProducerEpoch"), true);
                }
            }
        }
        for (String isolation : List.of("read_committed", "read_uncommitted")) {
            try (KafkaConsumer<String, String> consumer = consumer("isolation.level", isolation)) {
                List<TopicPartition> parts = consumer.partitionsFor(name).stream().map(p -> new TopicPartition(name, p.partition())).collect(Collectors.toList());
                consumer.assign(parts);
                consumer.seekToBeginning(parts);
                boolean isCommitted = isolation.equals("read_committed");
                Set<String> got = read(consumer, isCommitted ? 20 : 40).stream().map(r -> r.value().replaceAll("\\d", "")).collect(Collectors.toSet());
                is(isolation, got, isCommitted ? Set.of("commit") : Set.of("abort", "commit"));
            }
        }
    }

    static void administers(AdminClient admin) throws Exception {
        is("the group is listed", admin.listConsumerGroups().all().get().stream().anyMatch(g -> g.groupId().equals(topic)), true);
        ConsumerGroupDescription group = admin.describeConsumerGroups(List.of(topic)).all().get().get(topic);
        is("and empty", group.state().toString(), "Empty");
        is("with three offsets", admin.listConsumerGroupOffsets(topic).partitionsToOffsetAndMetadata().get().size(), 3);
        admin.deleteConsumerGroups(List.of(topic)).all().get();
        TopicPartition first = new TopicPartition(topic, 0);
        long low = admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(5))).lowWatermarks().get(first).get().lowWatermark();
        is("records deleted", low, 5L);
        admin.deleteTopics(List.of(topic, topic + "-tx")).all().get();
        refused("a topic that is gone", UnknownTopicOrPartitionException.class, admin.deleteTopics(List.of(topic)).all());
    }
}
