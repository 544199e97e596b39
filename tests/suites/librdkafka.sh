# librdkafka's tests that talk to a broker (C and C++), from the sources inside the crate rdkafka-sys. Needs a C and C++
# compiler, make, zlib, openssl, rapidjson (without it 0053, 0098 and 0110 check less), a JDK for 0098.
#
# Left out: tests flagged local or named …_mock (librdkafka's own mock cluster); 0016 reads the broker's request log;
# 0097, 0126, 0135 and 0142 want TLS or SASL; 0115 and 0119 ACLs; 0101 followers; 8000 is manual; 0049, 0068, 0075,
# 0076, 0088 and 0094 emulate sockets to test the client's time-outs; 0028, 0047 and 0079 are known issues of the
# library; 0153 skips itself without KIP-848; 0092 writes message format v1. 0077 and 0129 create topics with
# segment.bytes below Kafka 4's least.

# 0113 counts assignments: members that start together must share their first generation.
settings=(num.partitions=4 group.min.session.timeout.ms=1000 group.initial.rebalance.delay.ms=3000)
limit_s=600

install() {
  "$ROOT/tests/install-peers" || return 1
  crate rdkafka-sys 4.10.0 || return 1
  local lib=$src/librdkafka
  export tests=$lib/tests KAFKA_PATH=$dir/kafka-path TEST_KAFKA_VERSION=4.0.0 TEST_CONSUMER_GROUP_PROTOCOL=classic
  [ -e "$tests/.built" ] && return
  # One node and no authorizer: topics wanted with three replicas get one, the ACL parts of 0081 and 0109 go.
  sed -i 's/rd_kafka_NewTopic_new(topicname, partition_cnt, replication_factor,/rd_kafka_NewTopic_new(topicname, partition_cnt, 1,/' \
    "$tests/test.c"
  sed -i '/^        do_test_[A-Z][a-z]*Acls(rk/d' "$tests/0081-admin.c"
  sed -i '/^  do_test_consumer(.*, true);$/d' "$tests/0109-auto_create_topics.cpp"
  # A few tests call Kafka's own command line.
  "$rig" 4.3.1 install && mkdir -p "$KAFKA_PATH/bin" && ln -sfn "$PEERS/kafka/libs-4.3.1" "$KAFKA_PATH/libs"
  printf '#!/bin/sh\nexec "%s" 4.3.1 topics "$@"\n' "$rig" > "$KAFKA_PATH/bin/kafka-topics.sh"
  printf '#!/bin/sh\nexec java -cp "$CLASSPATH:%s/libs/*" "$@"\n' "$KAFKA_PATH" > "$KAFKA_PATH/bin/kafka-run-class.sh"
  chmod +x "$KAFKA_PATH"/bin/*.sh "$lib"/{configure,lds-gen.py} "$tests"/java/*.sh
  (cd "$lib" && ./configure --disable-gssapi --disable-optimization && make libs && make -C tests build && cd tests/java &&
    javac -cp "$KAFKA_PATH/libs/*" Murmur2Cli.java TransactionProducerCli.java IncrementalRebalanceCli.java) \
    > "$dir/build.log" 2>&1 || { tail "$dir/build.log" >&2; return 1; }
  touch "$tests/.built"
}

list_cases() {
  sed -n 's|^[A-Z]* librdkafka/||p' "$ROOT/tests/suites/kafka-4.3.1.txt"
}

# The quickest of each subject.
short_cases() {
  printf '%s\n' 0002_unkpart 0003_msgmaxsize 0008_reqacks 0011_produce_batch 0017_compression 0019_list_groups \
    0031_get_offsets 0034_offset_reset 0036_partial_fetch 0044_partition_cnt 0057_invalid_topic 0060_op_prio \
    0063_clusterid 0070_null_empty 0073_headers 0082_fetch_max_bytes 0085_headers 0099_commit_metadata \
    0140_commit_metadata
}

# The runner selects by number only: 0045_subscribe_update is the three 0045 tests of the default scenario, the other
# the two of noautocreate, which create their topics themselves.
one() { # a case that skips itself did not pass
  local scenario=default verdict
  case $1 in 0045_noautocreate | 0107_* | 0111_*) scenario=noautocreate ;; esac
  export RDKAFKA_TEST_CONF=$logs/test.conf
  printf 'metadata.broker.list=%s\n' "$broker" > "$RDKAFKA_TEST_CONF"
  cd "$tests" && TESTS=${1%%_*} BROKERS=$broker LD_LIBRARY_PATH=../src:../src-cpp ./test-runner -p1 -L -E -s "$scenario" \
    > "$logs/last" 2>&1
  verdict=$?
  tail -c 500000 "$logs/last"
  [ "$verdict" = 0 ] && ! grep -q "Test $1 SKIPPED" "$logs/last"
}
