# A distributed Connect worker with sources exactly once: a file into a topic, the topic into a file, through its REST
# interface; the worker killed in between.

rest() { # NAME METHOD PATH [BODY]: what the worker answers
  printf '== %s\n' "$1"
  curl --silent --show-error --max-time 90 -X "$2" -H 'Content-Type: application/json' ${4:+--data "$4"} "$url$3" 2>&1 |
    sed -E 's/(127\.0\.0\.1):[0-9]+/\1:PORT/g; s/"kafka_cluster_id":"[^"]*"/"kafka_cluster_id":"ID"/; s/"trace":"[^"]*"/"trace":"…"/' | plain
  printf '\n'
}

answers() { curl --silent --fail --max-time 5 "$url$1" | grep -q "$2"; }

has_lines() { [ "$(wc -l < "$1")" -ge "$2" ]; }

start_worker() {
  "$rig" 4.3.1 connect-distributed "$dir/worker.properties" >> "$dir/worker.log" 2>&1 &
  worker=$!
  printf '%s\n' $worker > "$dir/worker.pid"
  until_true 'the worker answers' 120 answers / version
}

connect_facts() { # BROKER NAME
  local at=(--bootstrap-server "$1") version=4.3.1 out=$work/connect.$2.out dir=$work/connect.$2.files input= sorted= url worker port
  mkdir -p "$dir"
  port=$(free_port)
  url=http://127.0.0.1:$port
  cat > "$dir/worker.properties" << WORKER
bootstrap.servers=$1
group.id=workers
listeners=$url
config.storage.topic=worker-configs
offset.storage.topic=worker-offsets
status.storage.topic=worker-status
config.storage.replication.factor=1
offset.storage.replication.factor=1
status.storage.replication.factor=1
offset.storage.partitions=1
status.storage.partitions=1
offset.flush.interval.ms=500
exactly.once.source.support=enabled
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
plugin.discovery=only_scan
WORKER
  start_worker
  rest 'worker' GET /
  rest 'no connectors' GET /connectors
  rest 'a wrong connector' PUT /connectors/wrong/config '{"connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector", "file": "'"$dir"'/x"}'
  seq 1 50 > "$dir/in"
  rest 'source' PUT /connectors/source/config '{"connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector",
    "tasks.max": "1", "file": "'"$dir"'/in", "topic": "lines", "topic.creation.default.partitions": "1",
    "topic.creation.default.replication.factor": "1"}'
  rest 'sink' PUT /connectors/sink/config '{"connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector",
    "tasks.max": "1", "file": "'"$dir"'/out", "topics": "lines"}'
  touch "$dir/out"
  until_true 'the sink has all lines' 90 has_lines "$dir/out" 50
  until_true 'the source runs' 30 answers /connectors/source/status '"tasks":.*RUNNING'
  until_true 'the sink runs' 30 answers /connectors/sink/status '"tasks":.*RUNNING'
  until_true 'the source has its position' 60 answers /connectors/source/offsets '"position":141'
  until_true 'the sink has its position' 60 answers /connectors/sink/offsets '"kafka_offset":[0-9]'
  rest 'source status' GET /connectors/source/status
  rest 'sink status' GET /connectors/sink/status
  rest 'source offsets' GET /connectors/source/offsets
  rest 'topics of the source' GET /connectors/source/topics

  # Killed, and started again while lines come.
  kill -9 "$worker"
  wait "$worker" 2> /dev/null || :
  seq 51 100 >> "$dir/in"
  start_worker
  until_true 'the sink has what came meanwhile' 120 has_lines "$dir/out" 100
  printf '== what arrived\n'
  sort -n "$dir/out" | uniq | wc -l
  sorted=1 said 'what lies in the topic' console-consumer "${at[@]}" --topic lines --from-beginning --max-messages 100 --timeout-ms 30000 --isolation-level read_committed

  rest 'pause' PUT /connectors/sink/pause
  until_true 'the sink is paused' 30 answers /connectors/sink/status '"connector":.*PAUSED.*"tasks":.*PAUSED'
  rest 'paused' GET /connectors/sink/status
  rest 'resume' PUT /connectors/sink/resume
  until_true 'the sink goes on' 30 answers /connectors/sink/status '"tasks":.*RUNNING'
  rest 'stop' PUT /connectors/sink/stop
  until_true 'the sink is stopped' 60 answers /connectors/sink/status '"STOPPED".*"tasks":\[\]'
  rest 'sink offsets set' PATCH /connectors/sink/offsets '{"offsets": [{"partition": {"kafka_topic": "lines", "kafka_partition": 0}, "offset": {"kafka_offset": 10}}]}'
  rest 'sink offsets' GET /connectors/sink/offsets
  rest 'sink offsets gone' DELETE /connectors/sink/offsets
  rest 'sink without offsets' GET /connectors/sink/offsets
  rest 'source stop' PUT /connectors/source/stop
  until_true 'the source is stopped' 60 answers /connectors/source/status '"STOPPED".*"tasks":\[\]'
  rest 'source offsets gone' DELETE /connectors/source/offsets
  rest 'source without offsets' GET /connectors/source/offsets
  rest 'delete' DELETE /connectors/source
  rest 'delete an unknown one' DELETE /connectors/nobody
  until_true 'the source is gone' 30 answers /connectors '^\["sink"\]$'
  rest 'what is left' GET /connectors
  kill "$worker"
  wait "$worker" || :
  printf '== how the worker ended\n'
  grep -o 'Close timed out with [0-9]* pending requests to coordinator' "$dir/worker.log" || printf 'well\n'
  said 'topics of the worker' topics "${at[@]}" --describe --topic 'worker-.*'
  said 'groups of the worker' consumer-groups "${at[@]}" --timeout 30000 --list --state
  printf '== end\n'
}

suite_connect() {
  connect_facts "$KAFKA" kafka > "$work/connect.kafka" 2> "$work/connect.kafka.log" &
  jobs+=($!)
  connect_facts "$BROKER" brooklet > "$work/connect.brooklet" 2> "$work/connect.brooklet.log" || :
  wait "${jobs[-1]}" || :
  unset 'jobs[-1]'
  local name
  for name in kafka brooklet; do
    kill "$(cat "$work/connect.$name.files/worker.pid")" 2> /dev/null || :
    tail -30 "$work/connect.$name.files/worker.log" >> "$work/connect.$name.log"
  done
  compare connect
}
