# The integration tests of rust-rdkafka, from the crate rdkafka. Needs a C and C++ compiler, make and zlib; the first
# build takes minutes. test_metadata wants node.id=0 and new topics with three partitions.
#
# Left out: test_topic_partition_list, which needs no broker; test_base_producer_timeout, which wants records to a topic
# that is not there to time out after 100 ms: Kafka takes longer to make it, here they are delivered.

settings=(num.partitions=3)
limit_s=180

install() {
  crate rdkafka 0.39.0 || return 1
  export src CARGO_TARGET_DIR=$dir/target-rdkafka RUST_BACKTRACE=1 bins=$dir/rust-rdkafka.bins
  [ -s "$bins" ] && return
  # Addresses spelled out in the tests become the one given.
  sed -i 's/\[0\].port(), 9092)/[0].port(), get_bootstrap_server().rsplit(":").next().unwrap().parse::<i32>().unwrap())/' \
    "$src/tests/test_metadata.rs"
  sed -i 's/"bootstrap.servers", "localhost\(:9092\)*")/"bootstrap.servers", get_bootstrap_server())/' \
    "$src"/tests/test_{high,low}_producers.rs
  build_test_programs --tests
}

list_cases() { tests_in_programs | grep -v -e ^test_topic_partition_list -e ::utils:: -e test_base_producer_timeout; }

short_cases() { list_cases | grep -e ^test_admin -e ^test_metadata; }

one() { KAFKA_HOST=$broker run_test_program "$1"; }
