# MirrorMaker 2 with both as source and both as target at once: the facts are what either finds of the other's.

prepare_mirror() { # BROKER
  local at=(--bootstrap-server "$1")
  "$rig" 4.3.1 topics "${at[@]}" --create --topic mirrored --partitions 2 --config retention.ms=7200000
  seq 200 | sed -E 's/.*/key&:value&/' | "$rig" 4.3.1 console-producer "${at[@]}" --topic mirrored --reader-property parse.key=true \
    --reader-property key.separator=:
  "$rig" 4.3.1 console-consumer "${at[@]}" --topic mirrored --group readers --from-beginning --max-messages 200 --timeout-ms 30000
}

group_is_there() { # BROKER TOPIC: at the end of both partitions
  "$rig" 4.3.1 consumer-groups --bootstrap-server "$1" --timeout 30000 --describe --group readers 2> /dev/null |
    awk -v t="$2" '$2 == t && $6 == 0 {n++} END {exit n != 2}'
}

has_records() { # BROKER TOPIC COUNT
  [ "$("$rig" 4.3.1 get-offsets --bootstrap-server "$1" --topic "$2" 2> /dev/null | awk -F: '{n += $3} END {print n + 0}')" -ge "$3" ]
}

mirror_facts() { # TARGET SOURCE-ALIAS NAME
  local at=(--bootstrap-server "$1") version=4.3.1 out=$work/mirrormaker.$3.out input= sorted=1 from=$2
  said 'records' console-consumer "${at[@]}" --topic "$from.mirrored" --from-beginning --max-messages 250 --timeout-ms 30000 \
    --formatter-property print.key=true --formatter-property print.partition=true --formatter-property print.offset=true
  said 'topic' topics "${at[@]}" --describe --topic "$from.mirrored"
  said 'group' consumer-groups "${at[@]}" --timeout 30000 --describe --group readers
  said 'topics' topics "${at[@]}" --list --topic '.*[.].*' --exclude-internal
  said 'checkpoints' configs "${at[@]}" --describe --entity-type topics --entity-name "$from.checkpoints.internal"
  printf '== end\n'
}

suite_mirrormaker() {
  local dir=$work/mirrormaker name
  mkdir -p "$dir"
  cat > "$dir/properties" << MIRROR
clusters=brooklet,kafka
brooklet.bootstrap.servers=$BROKER
kafka.bootstrap.servers=$KAFKA
brooklet->kafka.enabled=true
kafka->brooklet.enabled=true
topics=mirrored
groups=readers
tasks.max=1
replication.factor=1
checkpoints.topic.replication.factor=1
heartbeats.topic.replication.factor=1
offset-syncs.topic.replication.factor=1
config.storage.replication.factor=1
offset.storage.replication.factor=1
status.storage.replication.factor=1
offset.storage.partitions=1
status.storage.partitions=1
refresh.topics.interval.seconds=2
refresh.groups.interval.seconds=2
sync.topic.configs.interval.seconds=2
sync.group.offsets.enabled=true
sync.group.offsets.interval.seconds=1
emit.checkpoints.interval.seconds=1
emit.heartbeats.interval.seconds=1
offset.lag.max=0
MIRROR
  prepare_mirror "$KAFKA" > "$dir/prepare" 2>&1 &
  prepare_mirror "$BROKER" > "$dir/prepare.brooklet" 2>&1 || fail 'the topic to be mirrored' "$dir/prepare.brooklet"
  wait $! || fail 'the topic to be mirrored' "$dir/prepare"
  HEAP=400m "$rig" 4.3.1 connect-mirror-maker "$dir/properties" > "$dir/log" 2>&1 &
  jobs+=($!)
  until_true 'Kafka has the records of Brooklet' 150 has_records "$KAFKA" brooklet.mirrored 200 || fail 'log' "$dir/log"
  until_true 'Brooklet has the records of Kafka' 150 has_records "$BROKER" kafka.mirrored 200
  until_true 'Kafka has the position of the group' 120 group_is_there "$KAFKA" brooklet.mirrored
  until_true 'Brooklet has the position of the group' 120 group_is_there "$BROKER" kafka.mirrored
  # Stopped and started again: it goes on where it was, and mirrors nothing twice.
  kill "${jobs[-1]}"
  wait "${jobs[-1]}" || :
  unset 'jobs[-1]'
  for name in "$KAFKA" "$BROKER"; do
    seq 201 250 | sed -E 's/.*/key&:value&/' | "$rig" 4.3.1 console-producer --bootstrap-server "$name" --topic mirrored \
      --reader-property parse.key=true --reader-property key.separator=: > "$dir/more" 2>&1
  done
  HEAP=400m "$rig" 4.3.1 connect-mirror-maker "$dir/properties" >> "$dir/log" 2>&1 &
  jobs+=($!)
  until_true 'Kafka has the later records' 120 has_records "$KAFKA" brooklet.mirrored 250
  until_true 'Brooklet has the later records' 120 has_records "$BROKER" kafka.mirrored 250
  mirror_facts "$KAFKA" brooklet kafka 2> "$work/mirrormaker.kafka.log" | sed -E 's/\bbrooklet\.(mirrored|checkpoints|heartbeats|internal)/SOURCE.\1/g; s/\bkafka\.internal/TARGET.internal/g' > "$work/mirrormaker.kafka"
  mirror_facts "$BROKER" kafka brooklet 2> "$work/mirrormaker.brooklet.log" | sed -E 's/\bkafka\.(mirrored|checkpoints|heartbeats|internal)/SOURCE.\1/g; s/\bbrooklet\.internal/TARGET.internal/g' > "$work/mirrormaker.brooklet"
  kill "${jobs[-1]}"
  wait "${jobs[-1]}" || :
  unset 'jobs[-1]'
  compare mirrormaker
}
