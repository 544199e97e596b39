# The tests of franz-go's client (pkg/kgo) that talk to a broker, from the Go module github.com/twmb/franz-go. Needs Go
# 1.21 or newer, which fetches the release that the module asks for.
#
# Left out: 133 tests without a broker or with an in-process fake; TestClientScram… (SASL);
# TestIssueProduceBrokerTooOldFailsRecords (brokers without Produce 3; skips itself); TestShareGroup… and
# TestConsumeRegexShareSkipsInternal (share groups). Subtests named 848 run only where ConsumerGroupHeartbeat is offered,
# as it is here.

settings=(num.partitions=4)
limit_s=400
release=v1.22.2

install() {
  # Sizes the two chains of TestGroupETL and TestTxnEtl; upstream's own is 500000.
  export kgo=$dir/kgo-$release.test KGO_TEST_RF=1 KGO_TEST_RECORDS=${KGO_TEST_RECORDS:-50000} KGO_LOG_LEVEL=${KGO_LOG_LEVEL:-none}
  [ -x "$kgo" ] && return
  command -v go > /dev/null || fail 'franz-go needs Go: https://go.dev/doc/install'
  local module
  module=$(cd "$dir" && go mod download -json "github.com/twmb/franz-go@$release" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  (cd "$module" && go test -c -o "$kgo" ./pkg/kgo)
}

list_cases() {
  sed -n 's|^[A-Z]* franz-go/||p' "$ROOT/tests/suites/kafka-4.3.1.txt"
}

short_cases() { list_cases | grep -v Etl -i; }

one() { # a test that skips itself did not pass
  KGO_SEEDS=$broker "$kgo" -test.v -test.timeout "${limit_s}s" -test.run "^$1\$" 2>&1 | tee "$logs/last"
  [ "${PIPESTATUS[0]}" = 0 ] && grep -q -- "^--- PASS: $1 " "$logs/last"
}
