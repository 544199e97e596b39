# WordCountDemo of Kafka Streams: what it counts, what it makes of topics, and what is left after its reset.

words_facts() { # BROKER NAME
  local at=(--bootstrap-server "$1") version=4.3.1 out=$work/words.$2.out dir=$work/words.$2.files input= sorted= guarantee demo topic
  mkdir -p "$dir"
  printf 'to be or not to be\nthat is the question\nto be is to do\n' > "$dir/lines"
  for guarantee in at_least_once exactly_once_v2; do
    for topic in streams-plaintext-input streams-wordcount-output; do
      said "$guarantee create $topic" topics "${at[@]}" --create --topic "$topic" --partitions 1
    done
    printf 'bootstrap.servers=%s\nstate.dir=%s\nprocessing.guarantee=%s\napplication.id=app-%s\n' "$1" "$dir/$guarantee" \
      "$guarantee" "$guarantee" > "$dir/properties"
    "$rig" 4.3.1 org.apache.kafka.streams.examples.wordcount.WordCountDemo "$dir/properties" > "$dir/demo" 2>&1 &
    demo=$!
    input=$dir/lines said "$guarantee words" console-producer "${at[@]}" --topic streams-plaintext-input
    # One update for each of the fifteen words.
    said "$guarantee counts" console-consumer "${at[@]}" --topic streams-wordcount-output --from-beginning --max-messages 15 \
      --timeout-ms 80000 --isolation-level read_committed --formatter-property print.key=true \
      --formatter-property value.deserializer=org.apache.kafka.common.serialization.LongDeserializer
    said "$guarantee members" consumer-groups "${at[@]}" --timeout 30000 --describe --group "app-$guarantee" --state
    kill "$demo"
    wait "$demo" || :
    for topic in repartition changelog; do
      topic=app-$guarantee-KSTREAM-AGGREGATE-STATE-STORE-0000000003-$topic
      said "$guarantee ${topic##*-}" topics "${at[@]}" --describe --topic "$topic"
    done
    sorted=1 said "$guarantee position" consumer-groups "${at[@]}" --timeout 30000 --describe --group "app-$guarantee" --offsets
    said "$guarantee reset" org.apache.kafka.tools.StreamsResetter "${at[@]}" --application-id "app-$guarantee" \
      --input-topics streams-plaintext-input --force
    sorted=1 said "$guarantee position after the reset" consumer-groups "${at[@]}" --timeout 30000 --describe --group "app-$guarantee" --offsets
    said "$guarantee topics after the reset" topics "${at[@]}" --list --exclude-internal
    said "$guarantee delete" topics "${at[@]}" --delete --topic 'streams-.*'
  done
  printf '== end\n'
}

suite_words() {
  words_facts "$KAFKA" kafka > "$work/words.kafka" 2> "$work/words.kafka.log" &
  jobs+=($!)
  words_facts "$BROKER" brooklet > "$work/words.brooklet" 2> "$work/words.brooklet.log"
  wait "${jobs[-1]}"
  unset 'jobs[-1]'
  compare words
}
