# The integration tests of rskafka, alone and paired with rdkafka. Needs a C and C++ compiler, make and zlib; the first
# build takes minutes.
#
# Left out: cases named java (an embedded JVM that fetches its own jars), test_sasl, test_tls and test_socks5 (listeners
# of their own; they skip themselves), test_non_existing_partition (wants auto.create.topics.enable=false), the unit tests.

settings=(num.partitions=4)
limit_s=180

install() {
  crate rskafka 0.6.0 || return 1
  export src CARGO_TARGET_DIR=$dir/target-rskafka TEST_INTEGRATION=1 TEST_BROKER_IMPL=kafka RUST_BACKTRACE=1
  export bins=$dir/rskafka.bins
  [ -s "$bins" ] && return
  rm -f "$src/rust-toolchain.toml" # asks for an older Rust
  # The locked rsasl 2.2.0 does not compile with Rust 1.95, 2.3 does.
  (cd "$src" && cargo update --quiet -p rsasl)
  build_test_programs --test client --test consumer --test produce_consume --test producer
}

list_cases() {
  tests_in_programs | grep -v -e java -e test_sasl -e test_tls -e test_socks5 -e test_non_existing_partition -e test_helpers::
}

short_cases() { list_cases | grep -e ^client -e ^consumer; }

one() { KAFKA_CONNECT=$broker run_test_program "$1"; }
