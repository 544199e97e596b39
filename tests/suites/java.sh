# Apache Kafka's own judges of clients, from the Maven artifacts kafka-tools, kafka-streams (classifier test) and
# kafka-streams-examples. Needs java 17 and mvn. A case is NAME or NAME@CLIENTVERSION, 4.3.1 unless told.
#
# Left out: Kafka's JUnit and ducktape tests (they start their own brokers); WordCountDemo of 3.9.2 (no artifact).

settings=(num.partitions=4)
limit_s=500

install() { "$rig" 4.3.1 install && "$rig" 3.9.2 install; }

list_cases() {
  sed -n 's|^[A-Z]* java/||p' "$ROOT/tests/suites/kafka-4.3.1.txt"
}

short_cases() { printf '%s\n' compatibility verifiable; }

tool() { "$rig" "$client" "$@"; } # with the client version of the case

topic() { # NAME PARTITIONS
  tool topics --bootstrap-server "$broker" --create --if-not-exists --topic "$1" --partitions "$2" --replication-factor 1
}

# Produces, consumes, asks offsets for times and the cluster's id, creates, describes and deletes topics, asks settings
# and ACLs.
compatibility() {
  tool topics --bootstrap-server "$broker" --delete --if-exists --topic newtopic # left by a run that failed
  topic "compatibility-$id" 1 &&
    tool org.apache.kafka.tools.ClientCompatibilityTest --bootstrap-server "$broker" --topic "compatibility-$id" \
      --num-cluster-nodes 1 --offsets-for-times-supported True --cluster-id-supported True \
      --expect-record-too-large-exception False --create-topics-supported True --describe-acls-supported True \
      --describe-configs-supported True --idempotent-producer-supported True
}

# 20000 records out, the same number back through a consumer group.
verifiable() {
  topic "verifiable-$id" 4 &&
    tool verifiable-producer --bootstrap-server "$broker" --topic "verifiable-$id" --max-messages 20000 --acks -1 |
      tail -1 | tee "$tmp/produced" && grep -q '"acked":20000' "$tmp/produced" &&
    tool verifiable-consumer --bootstrap-server "$broker" --topic "verifiable-$id" --group-id "g-$id" \
      --reset-policy earliest --max-messages 20000 > "$tmp/consumed" && grep -v record_data "$tmp/consumed" | cut -c1-300 &&
    [ "$(sed -n 's/.*"records_consumed","count":\([0-9]*\).*/\1/p' "$tmp/consumed" | awk '{n += $1} END {print n}')" = 20000 ]
}

# Consume, transform, produce in transactions with random aborts: read committed, the copy must be the input.
copier() {
  topic "in-$id" 1 && topic "out-$id" 1 &&
    tool verifiable-producer --bootstrap-server "$broker" --topic "in-$id" --max-messages 2000 > /dev/null &&
    tool org.apache.kafka.tools.TransactionalMessageCopier --broker-list "$broker" --input-topic "in-$id" \
      --input-partition 0 --output-topic "out-$id" --max-messages 2000 --transaction-size 50 \
      --transactional-id "t-$id" --consumer-group "c-$id" --enable-random-aborts --use-group-metadata | tail -1 &&
    tool console-consumer --bootstrap-server "$broker" --topic "out-$id" --from-beginning --timeout-ms 5000 \
      --isolation-level read_committed > "$tmp/out"
  seq 0 1999 | cmp - "$tmp/out"
}

# The system test of Kafka Streams: joins, windows, suppression. The driver verifies the results itself.
smoke() {
  local topics=(data echo fk min min-raw min-suppressed max sum sws-raw sws-suppressed dif cnt avg wcnt tagg) name
  tool topics --bootstrap-server "$broker" --delete --if-exists --topic "$(IFS='|' && echo "${topics[*]}")"
  for name in "${topics[@]}"; do topic "$name" 5; done
  "$rig" "$client" org.apache.kafka.streams.tests.StreamsSmokeTest "$tmp/properties" process > "$tmp/process" 2>&1 &
  application=$!
  tool org.apache.kafka.streams.tests.StreamsSmokeTest "$tmp/properties" run | tail -c 20000 | tee "$tmp/run"
  tail -c 5000 "$tmp/process"
  grep -q ^SUCCESS "$tmp/run"
}

# Each word of this run must be counted exactly twice, read committed.
wordcount() {
  topic streams-plaintext-input 1
  topic streams-wordcount-output 1
  "$rig" "$client" org.apache.kafka.streams.examples.wordcount.WordCountDemo "$tmp/properties" > "$tmp/demo" 2>&1 &
  application=$!
  echo "a$id b$id a$id b$id" | tool console-producer --bootstrap-server "$broker" --topic streams-plaintext-input
  for _ in $(seq 20); do
    tool console-consumer --bootstrap-server "$broker" --topic streams-wordcount-output --from-beginning \
      --timeout-ms 5000 --isolation-level read_committed --formatter-property print.key=true --formatter-property \
      value.deserializer=org.apache.kafka.common.serialization.LongDeserializer > "$tmp/out"
    grep "$id" "$tmp/out"
    [ "$(grep -c "^[ab]$id.2$" "$tmp/out")" = 2 ] && return 0
  done
  cat "$tmp/demo"
  return 1
}

one() {
  local name=${1%@*}
  application= # not local: the trap runs when this has returned
  export client=4.3.1 id=$$x$RANDOM tmp
  [ "$name" = "$1" ] || client=${1#*@}
  tmp=$(mktemp -d)
  trap 'kill $application 2> /dev/null; wait; rm -rf "$tmp"' EXIT
  printf 'bootstrap.servers=%s\nstate.dir=%s\nprocessing.guarantee=%s\napplication.id=app-%s\n' "$broker" "$tmp" \
    "${name#*-}" "$id" > "$tmp/properties"
  "${name%%-*}"
}

export -f tool topic compatibility verifiable copier smoke wordcount
