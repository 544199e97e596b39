# Kafka's shell tools: what they print, and how they end.

# Runs a tool, and prints its output under its name. Sorted where the order is nobody's promise.
said() { # NAME TOOL ARGS...
  local name=$1 code=0
  shift
  printf '== %s\n' "$name"
  timeout 90 "$rig" "$version" "$@" < "${input:-/dev/null}" > "$out" 2>&1 || code=$?
  plain < "$out" | if [ "${sorted:-}" ]; then sort; else cat; fi
  printf 'exit %s\n' "$code"
}

tools_facts() { # BROKER NAME
  local at=(--bootstrap-server "$1") version=4.3.1 out=$work/tools.$2.out input= sorted=
  local dir=$work/tools.$2.files
  mkdir -p "$dir"

  # Topics.
  said 'topics create' topics "${at[@]}" --create --topic t --partitions 3 --config retention.ms=3600000
  said 'topics create again' topics "${at[@]}" --create --topic t --partitions 3
  said 'topics create if not exists' topics "${at[@]}" --create --if-not-exists --topic t
  said 'topics create a wrong name' topics "${at[@]}" --create --topic 'a b'
  said 'topics create with dots' topics "${at[@]}" --create --topic a.b --replication-factor 1
  said 'topics create with underscores' topics "${at[@]}" --create --topic a_b
  said 'topics create no partitions' topics "${at[@]}" --create --topic n --partitions 0
  said 'topics create a wrong setting' topics "${at[@]}" --create --topic n --config retention.ms=soon
  said 'topics create an unknown setting' topics "${at[@]}" --create --topic n --config what.is=this
  said 'topics create too many replicas' topics "${at[@]}" --create --topic r3 --replication-factor 3
  said 'topics create by assignment' topics "${at[@]}" --create --topic assigned --replica-assignment 1,1
  said 'topics create by a wrong assignment' topics "${at[@]}" --create --topic wrong --replica-assignment 7
  said 'topics describe' topics "${at[@]}" --describe --topic t
  said 'topics describe an unknown one' topics "${at[@]}" --describe --topic nothing
  said 'topics describe under-replicated' topics "${at[@]}" --describe --under-replicated-partitions
  said 'topics describe with overrides' topics "${at[@]}" --describe --topics-with-overrides
  said 'topics alter' topics "${at[@]}" --alter --topic t --partitions 4
  said 'topics alter to fewer' topics "${at[@]}" --alter --topic t --partitions 2
  said 'topics alter to the same' topics "${at[@]}" --alter --topic t --partitions 4
  said 'topics alter an unknown one' topics "${at[@]}" --alter --topic nothing --partitions 4
  said 'topics list' topics "${at[@]}" --list

  # Settings.
  said 'configs set' configs "${at[@]}" --alter --entity-type topics --entity-name t --add-config 'max.message.bytes=2000000,cleanup.policy=[compact,delete]'
  said 'configs describe' configs "${at[@]}" --describe --entity-type topics --entity-name t
  said 'configs describe all' configs "${at[@]}" --describe --all --entity-type topics --entity-name t
  said 'configs delete' configs "${at[@]}" --alter --entity-type topics --entity-name t --delete-config max.message.bytes,cleanup.policy
  said 'configs delete what is not set' configs "${at[@]}" --alter --entity-type topics --entity-name t --delete-config flush.ms
  said 'configs a wrong value' configs "${at[@]}" --alter --entity-type topics --entity-name t --add-config retention.ms=soon
  said 'configs an unknown name' configs "${at[@]}" --alter --entity-type topics --entity-name t --add-config what.is=this
  said 'configs of an unknown topic' configs "${at[@]}" --alter --entity-type topics --entity-name nothing --add-config retention.ms=1
  said 'configs describe an unknown topic' configs "${at[@]}" --describe --entity-type topics --entity-name nothing
  said 'configs of the broker' configs "${at[@]}" --alter --entity-type brokers --entity-name 1 --add-config log.cleaner.threads=2
  said 'configs of all brokers' configs "${at[@]}" --alter --entity-type brokers --entity-default --add-config log.retention.bytes=123456789
  said 'configs describe brokers' configs "${at[@]}" --describe --entity-type brokers
  said 'configs delete of brokers' configs "${at[@]}" --alter --entity-type brokers --entity-default --delete-config log.retention.bytes
  said 'configs delete of the broker' configs "${at[@]}" --alter --entity-type brokers --entity-name 1 --delete-config log.cleaner.threads
  said 'configs a read-only one' configs "${at[@]}" --alter --entity-type brokers --entity-name 1 --add-config num.partitions=9,log.dir=/x
  said 'configs of an unknown broker' configs "${at[@]}" --describe --entity-type brokers --entity-name 9
  said 'configs of a client' configs "${at[@]}" --alter --entity-type clients --entity-name c --add-config producer_byte_rate=1000
  said 'configs of a group' configs "${at[@]}" --alter --entity-type groups --entity-name g --add-config consumer.session.timeout.ms=50000

  # Records.
  seq 100 | sed 's/.*/key&:value&/' > "$dir/records"
  input=$dir/records said 'console-producer' console-producer "${at[@]}" --topic t --reader-property parse.key=true --reader-property key.separator=:
  said 'get-offsets' get-offsets "${at[@]}" --topic t
  said 'get-offsets earliest' get-offsets "${at[@]}" --topic t --time earliest
  said 'get-offsets max-timestamp' get-offsets "${at[@]}" --topic-partitions a.b:0,t:9 --time max-timestamp
  said 'get-offsets at a time' get-offsets "${at[@]}" --topic t --time 1000
  said 'get-offsets of a pattern' get-offsets "${at[@]}" --topic-partitions 't:0-2,assigned'
  said 'get-offsets of nothing' get-offsets "${at[@]}" --topic nothing
  sorted=1 said 'console-consumer' console-consumer "${at[@]}" --topic t --group g --from-beginning --max-messages 100 --timeout-ms 30000 \
    --formatter-property print.key=true --formatter-property print.partition=true --formatter-property print.offset=true
  said 'console-consumer of a partition' console-consumer "${at[@]}" --topic t --partition 1 --offset 5 --max-messages 3 --timeout-ms 30000

  # Groups.
  local groups=(consumer-groups "${at[@]}" --timeout 30000)
  said 'groups list' "${groups[@]}" --list
  said 'groups list with state' "${groups[@]}" --list --state
  said 'groups list with type' "${groups[@]}" --list --type
  sorted=1 said 'groups describe' "${groups[@]}" --describe --group g
  said 'groups describe members' "${groups[@]}" --describe --group g --members --verbose
  said 'groups describe state' "${groups[@]}" --describe --group g --state
  said 'groups describe an unknown one' "${groups[@]}" --describe --group nobody
  local reset
  for reset in --to-earliest --to-latest '--to-offset 3' '--shift-by -2' '--shift-by 1000' '--to-datetime 2001-01-01T00:00:00.000' \
    '--by-duration PT0S' '--to-current'; do
    # shellcheck disable=SC2086 # with its value
    sorted=1 said "groups reset $reset" "${groups[@]}" --reset-offsets --group g --topic t --execute $reset
  done
  said 'groups reset nothing yet' "${groups[@]}" --reset-offsets --group g --topic t:0,1 --to-offset 1 --dry-run
  sorted=1 said 'groups reset export' "${groups[@]}" --reset-offsets --group g --all-topics --to-offset 7 --export
  printf 't,0,4\nt,1,5\n' > "$dir/offsets.csv"
  sorted=1 said 'groups reset from a file' "${groups[@]}" --reset-offsets --group g --from-file "$dir/offsets.csv" --execute
  sorted=1 said 'groups reset for another' "${groups[@]}" --reset-offsets --group h --topic t --to-earliest --execute
  said 'groups reset an unknown topic' "${groups[@]}" --reset-offsets --group g --topic nothing --to-earliest --execute
  said 'groups delete offsets' "${groups[@]}" --delete-offsets --group g --topic t:0 --topic nothing:0
  sorted=1 said 'groups describe after that' "${groups[@]}" --describe --group g
  said 'groups delete' "${groups[@]}" --delete --group h --group nobody
  said 'groups of every kind' org.apache.kafka.tools.GroupsCommand "${at[@]}" --list
  sorted=1 said 'all groups' "${groups[@]}" --describe --all-groups --state

  # Records again.
  printf '{"partitions": [{"topic": "t", "partition": 0, "offset": 3}, {"topic": "t", "partition": 1, "offset": -1}], "version": 1}' > "$dir/delete"
  sorted=1 said 'delete-records' delete-records "${at[@]}" --offset-json-file "$dir/delete"
  printf '{"partitions": [{"topic": "t", "partition": 0, "offset": 9999}], "version": 1}' > "$dir/delete"
  sorted=1 said 'delete-records beyond the end' delete-records "${at[@]}" --offset-json-file "$dir/delete"
  said 'get-offsets after that' get-offsets "${at[@]}" --topic t --time -2
  said 'log-dirs' log-dirs "${at[@]}" --describe --topic-list t,a.b
  said 'log-dirs of an unknown broker' log-dirs "${at[@]}" --describe --broker-list 9

  # Replicas.
  said 'leader-election' org.apache.kafka.tools.LeaderElectionCommand "${at[@]}" --election-type preferred --all-topic-partitions
  said 'leader-election of one' org.apache.kafka.tools.LeaderElectionCommand "${at[@]}" --election-type unclean --topic t --partition 0
  said 'leader-election of nothing' org.apache.kafka.tools.LeaderElectionCommand "${at[@]}" --election-type preferred --topic nothing --partition 0
  printf '{"version": 1, "partitions": [{"topic": "t", "partition": 0, "replicas": [1], "log_dirs": ["any"]}]}' > "$dir/plan"
  said 'reassign' org.apache.kafka.tools.reassign.ReassignPartitionsCommand "${at[@]}" --execute --reassignment-json-file "$dir/plan"
  said 'reassign verify' org.apache.kafka.tools.reassign.ReassignPartitionsCommand "${at[@]}" --verify --reassignment-json-file "$dir/plan"
  said 'reassign list' org.apache.kafka.tools.reassign.ReassignPartitionsCommand "${at[@]}" --list
  sed -i 's/\[1\]/[2]/' "$dir/plan"
  said 'reassign to nobody' org.apache.kafka.tools.reassign.ReassignPartitionsCommand "${at[@]}" --execute --reassignment-json-file "$dir/plan"

  # The cluster.
  said 'acls list' acls "${at[@]}" --list
  said 'acls add' acls "${at[@]}" --add --allow-principal User:me --operation Read --topic t
  said 'acls remove' acls "${at[@]}" --remove --force --topic t
  said 'cluster-id' org.apache.kafka.tools.ClusterTool cluster-id "${at[@]}"
  said 'cluster endpoints' org.apache.kafka.tools.ClusterTool list-endpoints "${at[@]}"
  said 'features' org.apache.kafka.tools.FeatureCommand "${at[@]}" describe
  said 'metadata-quorum' org.apache.kafka.tools.MetadataQuorumCommand "${at[@]}" describe --status
  said 'delegation-tokens' org.apache.kafka.tools.DelegationTokenCommand "${at[@]}" --describe
  said 'broker-api-versions' org.apache.kafka.tools.BrokerApiVersionsCommand "${at[@]}"
  said 'client-metrics' org.apache.kafka.tools.ClientMetricsCommand "${at[@]}" --list

  # Transactions.
  said 'transactions producer' producer-perf-test --topic a.b --num-records 500 --record-size 100 --throughput -1 \
    --transactional-id tx --transaction-duration-ms 60000 --command-property "bootstrap.servers=$1"
  said 'transactions list' transactions "${at[@]}" list
  said 'transactions describe' transactions "${at[@]}" describe --transactional-id tx
  said 'transactions describe an unknown one' transactions "${at[@]}" describe --transactional-id nobody
  said 'transactions describe-producers' transactions "${at[@]}" describe-producers --topic a.b --partition 0
  said 'transactions find-hanging' transactions "${at[@]}" find-hanging --broker-id 1
  said 'transactions abort' transactions "${at[@]}" abort --topic a.b --partition 0 --start-offset 0

  # Load.
  said 'producer-perf-test' producer-perf-test --topic single --num-records 5000 --record-size 200 --throughput -1 \
    --command-property "bootstrap.servers=$1" acks=all compression.type=zstd
  # Of what it measures only how much it read.
  said 'consumer-perf-test' consumer-perf-test "${at[@]}" --topic single --num-records 5000 --group perf --hide-header
  sorted=1 said 'verifiable-producer' verifiable-producer "${at[@]}" --topic single --max-messages 20 --value-prefix 7
  said 'verifiable-consumer' verifiable-consumer "${at[@]}" --topic single --group-id verifiable --reset-policy earliest --max-messages 15
  said 'streams-application-reset' org.apache.kafka.tools.StreamsResetter "${at[@]}" --application-id g --input-topics t
  said 'streams-application-reset of nothing' org.apache.kafka.tools.StreamsResetter "${at[@]}" --application-id nobody --input-topics nothing --dry-run

  # The same of the version before.
  version=3.9.2
  said '3.9 topics describe' topics "${at[@]}" --describe --topic t
  sorted=1 said '3.9 groups describe' "${groups[@]}" --describe --group g
  sorted=1 said '3.9 groups reset' "${groups[@]}" --reset-offsets --group g --topic t --to-latest --execute
  said '3.9 configs describe' configs "${at[@]}" --describe --entity-type topics --entity-name t
  said '3.9 topics delete' topics "${at[@]}" --delete --topic a.b
  version=4.3.1
  said 'topics delete' topics "${at[@]}" --delete --topic 't|assigned|single'
  said 'topics delete an unknown one' topics "${at[@]}" --delete --topic t
  said 'topics delete if exists' topics "${at[@]}" --delete --if-exists --topic t
  said 'topics list at the end' topics "${at[@]}" --list
  printf '== end\n'
}

suite_tools() {
  "$rig" 3.9.2 install
  tools_facts "$KAFKA" kafka > "$work/tools.kafka" 2> "$work/tools.kafka.log" &
  jobs+=($!)
  tools_facts "$BROKER" brooklet > "$work/tools.brooklet" 2> "$work/tools.brooklet.log"
  wait "${jobs[-1]}"
  unset 'jobs[-1]'
  compare tools
}
