# Kafka's verifiable producer and consumer while the broker is killed with -9 and comes back: what was acknowledged is
# consumed, at the offset that was acknowledged.

kill_brooklet() {
  kill -9 "$daemon"
  wait "$daemon" 2> /dev/null || :
  start_daemon
}

kill_kafka() {
  "$rig" 4.3.1 stop "$work/kafka" KILL
  HEAP=400m "$rig" 4.3.1 start "$work/kafka" "${KAFKA#*:}" > /dev/null
}

sent() { [ "$(wc -l < "$1")" -ge "$2" ]; }

# Every acknowledged record is among the consumed ones.
verify() { # PRODUCED CONSUMED: facts
  python3 - "$1" "$2" << 'VERIFY'
import json, sys

def events(path, name):
    for line in open(path):
        try:
            event = json.loads(line)
        except ValueError:  # cut off, or a line of the log
            continue
        if event.get("name") == name:
            yield event

acked = {(e["partition"], e["offset"]): e["value"] for e in events(sys.argv[1], "producer_send_success")}
failed = {e["value"] for e in events(sys.argv[1], "producer_send_error")}
consumed = {}
for e in events(sys.argv[2], "record_data"):
    place = (e["partition"], e["offset"])
    if consumed.setdefault(place, e["value"]) != e["value"]:
        print("two records at", place)
missing = [place for place, value in acked.items() if consumed.get(place) != value]
unknown = set(consumed.values()) - set(acked.values()) - failed
print("acknowledged and not consumed:", len(missing))
print("consumed and never sent:", len(unknown))
print("enough were acknowledged:", len(acked) > 2000)
sys.exit(bool(missing))
VERIFY
}

verifiable_facts() { # BROKER NAME
  local dir=$work/verifiable.$2.files producer consumer kills
  mkdir -p "$dir"
  "$rig" 4.3.1 topics --bootstrap-server "$1" --create --topic verifiable --partitions 3 > /dev/null
  "$rig" 4.3.1 verifiable-producer --bootstrap-server "$1" --topic verifiable --max-messages 9000 --throughput 300 --acks -1 \
    > "$dir/produced" 2> "$dir/producer.log" &
  producer=$!
  "$rig" 4.3.1 verifiable-consumer --bootstrap-server "$1" --topic verifiable --group-id verifiable --session-timeout 10000 \
    --reset-policy earliest --verbose > "$dir/consumed" 2> "$dir/consumer.log" &
  consumer=$!
  for kills in 1 2 3; do
    until_true 'the producer goes on' 60 sent "$dir/produced" $((kills * 1500))
    "kill_$2"
  done
  wait "$producer" || :
  printf '== after three kills\n'
  # The consumer may still be reading.
  for _ in $(seq 60); do
    verify "$dir/produced" "$dir/consumed" > "$dir/facts" && break
    sleep 1
  done
  cat "$dir/facts"
  kill "$consumer"
  wait "$consumer" || :
  printf '== end\n'
}

# Not both at once: it is this shell that kills and starts them.
suite_verifiable() {
  verifiable_facts "$KAFKA" kafka > "$work/verifiable.kafka" 2> "$work/verifiable.kafka.log"
  verifiable_facts "$BROKER" brooklet > "$work/verifiable.brooklet" 2> "$work/verifiable.brooklet.log"
  compare verifiable
}
