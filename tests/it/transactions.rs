//! Transactions at the wire, in both versions of their protocol.

use brooklet::{
    record::{Codec, Producer},
    wire::{
        ErrorCode,
        add_offsets_to_txn::AddOffsetsToTxnRequest,
        add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction},
        describe_producers::{DescribeProducersRequest, TopicRequest},
        describe_transactions::DescribeTransactionsRequest,
        end_txn::{EndTxnRequest, EndTxnResponse},
        fetch::{FetchRequest, PartitionData},
        init_producer_id::{InitProducerIdRequest, InitProducerIdResponse},
        list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
        list_transactions::ListTransactionsRequest,
        offset_fetch::{
            OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
        },
        produce::ProduceRequest,
        txn_offset_commit::{TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic},
        write_txn_markers::{WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest},
    },
};
use bytes::{Bytes, BytesMut};

use crate::{
    kafka::{fetch_request, only, produce_request},
    support::{Broker, Client, batch, batch_of},
};

/// A producer as a client knows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Who {
    id: i64,
    epoch: i16,
}

async fn init(client: &mut Client, id: &str, version: i16) -> InitProducerIdResponse {
    let request = InitProducerIdRequest {
        transactional_id: Some(id.into()),
        transaction_timeout_ms: 60_000,
        ..Default::default()
    };
    client.call(&request, version).await
}

async fn who(client: &mut Client, id: &str) -> Who {
    let response = init(client, id, 4).await;
    assert_eq!(response.error_code, ErrorCode::NONE);
    Who { id: response.producer_id, epoch: response.producer_epoch }
}

/// One record of a transaction.
fn data(who: Who, sequence: i32) -> Bytes {
    let producer = Producer { id: who.id, epoch: who.epoch, sequence };
    let mut bytes = BytesMut::from(&batch_of([(None, "value")], producer, Codec::None)[..]);
    bytes[22] |= 0x10;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}

async fn produce(client: &mut Client, id: &str, partition: i32, bytes: Bytes, version: i16) -> ErrorCode {
    let request = ProduceRequest { transactional_id: Some(id.into()), ..produce_request("t", partition, bytes, -1) };
    client.call(&request, version).await.responses[0].partition_responses[0].error_code
}

async fn add(client: &mut Client, id: &str, who: Who, partitions: &[i32], version: i16) -> Vec<ErrorCode> {
    let request = AddPartitionsToTxnRequest {
        v3_and_below_transactional_id: id.into(),
        v3_and_below_producer_id: who.id,
        v3_and_below_producer_epoch: who.epoch,
        v3_and_below_topics: vec![AddPartitionsToTxnTopic { name: "t".into(), partitions: partitions.to_vec() }],
        ..Default::default()
    };
    let response = client.call(&request, version).await;
    let results = &response.results_by_topic_v3_and_below[0].results_by_partition;
    results.iter().map(|p| p.partition_error_code).collect()
}

async fn end(client: &mut Client, id: &str, who: Who, committed: bool, version: i16) -> EndTxnResponse {
    let request =
        EndTxnRequest { transactional_id: id.into(), producer_id: who.id, producer_epoch: who.epoch, committed };
    client.call(&request, version).await
}

async fn read(client: &mut Client, partition: i32, offset: i64, isolation_level: i8) -> PartitionData {
    let request = FetchRequest { isolation_level, ..fetch_request("t", partition, offset) };
    only(client.call(&request, 12).await)
}

/// End as who reads committed sees it, and as others.
async fn ends(client: &mut Client, partition: i32) -> (i64, i64) {
    let mut found = [0; 2];
    for isolation_level in [0, 1] {
        let asked = ListOffsetsPartition { partition_index: partition, current_leader_epoch: -1, timestamp: -1 };
        let topics = vec![ListOffsetsTopic { name: "t".into(), partitions: vec![asked] }];
        let request = ListOffsetsRequest { replica_id: -1, isolation_level, topics, ..Default::default() };
        found[usize::from(isolation_level == 0)] = client.call(&request, 5).await.topics[0].partitions[0].offset;
    }
    (found[0], found[1])
}

#[tokio::test]
async fn the_first_version_adds_partitions_and_keeps_the_epoch() {
    let broker = Broker::start().await;
    broker.topic("t", 3, &[]).await;
    let mut client = broker.connect().await;
    let me = who(&mut client, "tx").await;
    // Not added: old clients are told what they know.
    assert_eq!(produce(&mut client, "tx", 0, data(me, 0), 10).await, ErrorCode::INVALID_TXN_STATE);
    assert_eq!(produce(&mut client, "tx", 0, data(me, 0), 11).await, ErrorCode::TRANSACTION_ABORTABLE);
    assert_eq!(produce(&mut client, "other", 0, data(me, 0), 10).await, ErrorCode::INVALID_PRODUCER_ID_MAPPING);
    let whole = add(&mut client, "tx", me, &[0, 7], 3).await;
    assert_eq!(whole, [ErrorCode::OPERATION_NOT_ATTEMPTED, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION]);
    assert_eq!(add(&mut client, "tx", me, &[0, 1], 0).await, [ErrorCode::NONE; 2]);
    for (partition, sequence) in [(0, 0), (1, 0), (0, 1)] {
        assert_eq!(produce(&mut client, "tx", partition, data(me, sequence), 7).await, ErrorCode::NONE);
    }
    assert_eq!(ends(&mut client, 0).await, (0, 2));
    assert_eq!(
        (read(&mut client, 0, 0, 1).await.records.len(), read(&mut client, 0, 1, 1).await.error_code),
        (0, ErrorCode::NONE)
    );
    let open = read(&mut client, 0, 0, 0).await;
    assert_eq!((open.high_watermark, open.last_stable_offset, open.aborted_transactions), (2, 0, None));
    // A batch of the producer outside of its transaction.
    let outside = batch_of([(None, "x")], Producer { id: me.id, epoch: me.epoch, sequence: 2 }, Codec::None);
    assert_eq!(produce(&mut client, "tx", 0, outside, 9).await, ErrorCode::INVALID_TXN_STATE);

    for (committed, code) in [(true, ErrorCode::NONE), (true, ErrorCode::NONE), (false, ErrorCode::INVALID_TXN_STATE)] {
        let answer = end(&mut client, "tx", me, committed, 3).await;
        assert_eq!(answer.error_code, code);
    }
    assert_eq!(
        (ends(&mut client, 0).await, ends(&mut client, 1).await, ends(&mut client, 2).await),
        ((3, 3), (2, 2), (0, 0))
    );
    let committed = read(&mut client, 0, 0, 1).await;
    assert_eq!((committed.last_stable_offset, committed.aborted_transactions), (3, Some(vec![])));

    assert_eq!(add(&mut client, "tx", me, &[0], 3).await, [ErrorCode::NONE]);
    assert_eq!(produce(&mut client, "tx", 0, data(me, 2), 7).await, ErrorCode::NONE);
    assert_eq!(end(&mut client, "tx", me, false, 1).await.error_code, ErrorCode::NONE);
    let aborted = read(&mut client, 0, 1, 1).await.aborted_transactions.unwrap();
    assert_eq!(aborted.iter().map(|a| (a.producer_id, a.first_offset)).collect::<Vec<_>>(), [(me.id, 3)]);

    // Another takes over.
    let next = who(&mut client, "tx").await;
    assert_eq!((next.id, next.epoch), (me.id, me.epoch + 1));
    for (version, code) in [(0, ErrorCode::INVALID_PRODUCER_EPOCH), (2, ErrorCode::PRODUCER_FENCED)] {
        assert_eq!(add(&mut client, "tx", me, &[0], version).await, [code]);
        assert_eq!(end(&mut client, "tx", me, true, version).await.error_code, code);
    }
    assert_eq!(produce(&mut client, "tx", 0, data(me, 3), 11).await, ErrorCode::INVALID_PRODUCER_EPOCH);
}

#[tokio::test]
async fn the_second_version_adds_by_writing_and_bumps_the_epoch() {
    let broker = Broker::start().await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    let mut me = who(&mut client, "tx").await;
    for committed in [true, false, true] {
        for partition in [0, 1] {
            assert_eq!(produce(&mut client, "tx", partition, data(me, 0), 12).await, ErrorCode::NONE);
        }
        let answer = end(&mut client, "tx", me, committed, 5).await;
        assert_eq!(
            (answer.error_code, answer.producer_id, answer.producer_epoch),
            (ErrorCode::NONE, me.id, me.epoch + 1)
        );
        assert_eq!(end(&mut client, "tx", me, committed, 5).await, answer, "asked again");
        // What was still under way when the transaction ended is part of no other.
        assert_eq!(produce(&mut client, "tx", 0, data(me, 1), 12).await, ErrorCode::INVALID_PRODUCER_EPOCH);
        me.epoch += 1;
    }
    assert_eq!(ends(&mut client, 1).await, (6, 6));
    assert_eq!(end(&mut client, "tx", me, true, 5).await.error_code, ErrorCode::INVALID_TXN_STATE);
    assert_eq!(end(&mut client, "tx", me, false, 5).await.error_code, ErrorCode::NONE);
}

#[tokio::test]
async fn a_waiting_reader_hears_of_the_end_of_a_transaction() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    let (mut client, mut reader) = (broker.connect().await, broker.connect().await);
    let me = who(&mut client, "tx").await;
    assert_eq!(produce(&mut client, "tx", 0, data(me, 0), 12).await, ErrorCode::NONE);
    let request = FetchRequest { isolation_level: 1, max_wait_ms: 15_000, ..fetch_request("t", 0, 0) };
    let waiting = tokio::spawn(async move { only(reader.call(&request, 12).await) });
    assert_eq!(end(&mut client, "tx", me, true, 5).await.error_code, ErrorCode::NONE);
    // Were it answered before, it would have brought nothing.
    assert!(!waiting.await.unwrap().records.is_empty());
}

#[tokio::test]
async fn positions_of_a_group_are_committed_with_the_transaction() {
    let broker = Broker::start().await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    let mut me = who(&mut client, "tx").await;
    let stage = |me: Who, partition_index, committed_offset, generation_id| TxnOffsetCommitRequest {
        transactional_id: "tx".into(),
        group_id: "g".into(),
        producer_id: me.id,
        producer_epoch: me.epoch,
        generation_id,
        member_id: if generation_id < 0 { String::new() } else { "nobody".into() },
        topics: vec![TxnOffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![TxnOffsetCommitRequestPartition {
                partition_index,
                committed_offset,
                ..Default::default()
            }],
        }],
        ..Default::default()
    };
    let position = async |client: &mut Client, require_stable| {
        let topics = Some(vec![OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] }]);
        let request = OffsetFetchRequest { group_id: "g".into(), topics, require_stable, ..Default::default() };
        let answer = client.call(&request, 7).await.topics[0].partitions[0].clone();
        let asked = Some(vec![OffsetFetchRequestTopics { name: "t".into(), partition_indexes: vec![0] }]);
        let group = OffsetFetchRequestGroup { group_id: "g".into(), topics: asked, ..Default::default() };
        let request = OffsetFetchRequest { groups: vec![group], require_stable, ..Default::default() };
        let same = client.call(&request, 8).await.groups[0].topics[0].partitions[0].clone();
        assert_eq!((same.error_code, same.committed_offset), (answer.error_code, answer.committed_offset));
        (answer.error_code, answer.committed_offset)
    };
    let code = |r: brooklet::wire::txn_offset_commit::TxnOffsetCommitResponse| r.topics[0].partitions[0].error_code;
    // In the first version the group is to be added before.
    for (version, refusal) in [(2, ErrorCode::INVALID_TXN_STATE), (4, ErrorCode::TRANSACTION_ABORTABLE)] {
        assert_eq!(code(client.call(&stage(me, 0, 5, -1), version).await), refusal);
    }
    let add = AddOffsetsToTxnRequest {
        transactional_id: "tx".into(),
        producer_id: me.id,
        producer_epoch: me.epoch,
        group_id: "g".into(),
    };
    assert_eq!(client.call(&add, 0).await.error_code, ErrorCode::NONE);
    let nameless = AddOffsetsToTxnRequest { group_id: String::new(), ..add.clone() };
    assert_eq!(client.call(&nameless, 4).await.error_code, ErrorCode::INVALID_GROUP_ID);
    for (version, offset) in [(0, 5), (2, 6), (3, 7)] {
        assert_eq!(code(client.call(&stage(me, 0, offset, -1), version).await), ErrorCode::NONE);
    }
    assert_eq!(code(client.call(&stage(me, 9, 1, -1), 3).await), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(code(client.call(&stage(me, 0, 1, 4), 3).await), ErrorCode::UNKNOWN_MEMBER_ID, "a zombie of a group");
    assert_eq!(position(&mut client, false).await, (ErrorCode::NONE, -1));
    assert_eq!(position(&mut client, true).await, (ErrorCode::UNSTABLE_OFFSET_COMMIT, -1));
    assert_eq!(end(&mut client, "tx", me, true, 3).await.error_code, ErrorCode::NONE);
    assert_eq!(position(&mut client, true).await, (ErrorCode::NONE, 7));

    // In the second it is added by this; an abort forgets it.
    assert_eq!(code(client.call(&stage(me, 0, 99, -1), 5).await), ErrorCode::NONE);
    assert_eq!(end(&mut client, "tx", me, false, 5).await.error_code, ErrorCode::NONE);
    assert_eq!(position(&mut client, true).await, (ErrorCode::NONE, 7));
    assert_eq!(code(client.call(&stage(me, 0, 99, -1), 5).await), ErrorCode::INVALID_PRODUCER_EPOCH);
    me.epoch += 1;
    assert_eq!(code(client.call(&stage(me, 0, 99, -1), 5).await), ErrorCode::NONE);
}

#[tokio::test]
async fn identities_are_claimed_checked_and_bumped() {
    let broker = Broker::start().await;
    let mut client = broker.connect().await;
    let me = who(&mut client, "tx").await;
    let claim = |id: i64, epoch: i16| InitProducerIdRequest {
        transactional_id: Some("tx".into()),
        transaction_timeout_ms: 60_000,
        producer_id: id,
        producer_epoch: epoch,
    };
    let bumped = client.call(&claim(me.id, me.epoch), 4).await;
    assert_eq!((bumped.error_code, bumped.producer_id, bumped.producer_epoch), (ErrorCode::NONE, me.id, me.epoch + 1));
    assert_eq!(client.call(&claim(me.id, me.epoch), 4).await, bumped, "the answer was lost");
    for (version, code) in [(3, ErrorCode::INVALID_PRODUCER_EPOCH), (4, ErrorCode::PRODUCER_FENCED)] {
        assert_eq!(client.call(&claim(me.id + 99, 0), version).await.error_code, code);
    }
    assert_eq!(client.call(&claim(me.id, -1), 4).await.error_code, ErrorCode::INVALID_REQUEST);
    let long = InitProducerIdRequest { transaction_timeout_ms: 900_001, ..claim(-1, -1) };
    assert_eq!(client.call(&long, 4).await.error_code, ErrorCode::INVALID_TRANSACTION_TIMEOUT);
    assert_eq!(init(&mut client, "", 4).await.error_code, ErrorCode::INVALID_REQUEST);
    for version in 0..=5 {
        assert_eq!(init(&mut client, "tx", version).await.error_code, ErrorCode::NONE);
    }
}

#[tokio::test]
async fn tools_list_describe_and_abort() {
    let broker = Broker::start().await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    let me = who(&mut client, "tx-1").await;
    who(&mut client, "tx-2").await;
    assert_eq!(client.call(&produce_request("t", 0, batch(&["before"]), -1), 9).await.responses.len(), 1);
    assert_eq!(produce(&mut client, "tx-1", 0, data(me, 0), 13).await, ErrorCode::UNKNOWN_TOPIC_ID);
    assert_eq!(produce(&mut client, "tx-1", 0, data(me, 0), 12).await, ErrorCode::NONE);

    let list = async |client: &mut Client, request: ListTransactionsRequest| {
        let answer = client.call(&request, 2).await;
        let ids = answer.transaction_states.iter().map(|t| format!("{} {}", t.transactional_id, t.transaction_state));
        (answer.error_code, ids.collect::<Vec<_>>(), answer.unknown_state_filters)
    };
    let all = ListTransactionsRequest { duration_filter: -1, ..Default::default() };
    let both = vec!["tx-1 Ongoing".to_owned(), "tx-2 Empty".to_owned()];
    assert_eq!(list(&mut client, all.clone()).await, (ErrorCode::NONE, both.clone(), vec![]));
    let by_state = ListTransactionsRequest { state_filters: vec!["Ongoing".into(), "Odd".into()], ..all.clone() };
    assert_eq!(list(&mut client, by_state).await, (ErrorCode::NONE, both[..1].to_vec(), vec!["Odd".into()]));
    let by_producer = ListTransactionsRequest { producer_id_filters: vec![me.id], ..all.clone() };
    assert_eq!(list(&mut client, by_producer).await.1, both[..1]);
    let by_pattern = |p: &str| ListTransactionsRequest { transactional_id_pattern: Some(p.into()), ..all.clone() };
    assert_eq!(list(&mut client, by_pattern("tx-[2-9]")).await.1, both[1..]);
    assert_eq!(list(&mut client, by_pattern("tx")).await.1, [""; 0]);
    assert_eq!(list(&mut client, by_pattern("(")).await.0, ErrorCode::INVALID_REGULAR_EXPRESSION);
    let by_time = ListTransactionsRequest { duration_filter: 60_000, ..all };
    assert_eq!(list(&mut client, by_time).await.1, both[1..], "as Kafka: what has not begun passes");

    let request = DescribeTransactionsRequest { transactional_ids: vec!["tx-1".into(), "unknown".into()] };
    let states = client.call(&request, 0).await.transaction_states;
    assert_eq!(
        (&*states[0].transaction_state, states[0].producer_id, states[0].transaction_timeout_ms),
        ("Ongoing", me.id, 60_000)
    );
    assert_eq!((&*states[0].topics[0].topic, &states[0].topics[0].partitions), ("t", &vec![0]));
    assert_eq!(states[1].error_code, ErrorCode::TRANSACTIONAL_ID_NOT_FOUND);

    let producers = async |client: &mut Client| {
        let topics = vec![TopicRequest { name: "t".into(), partition_indexes: vec![0, 1, 9] }];
        let mut answer = client.call(&DescribeProducersRequest { topics }, 0).await;
        let partitions = answer.topics.remove(0).partitions;
        assert_eq!(partitions[2].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        assert!(partitions[1].active_producers.is_empty());
        let found = &partitions[0].active_producers[0];
        (found.producer_id, found.producer_epoch, found.last_sequence, found.current_txn_start_offset)
    };
    assert_eq!(producers(&mut client).await, (me.id, 0, 0, 1));
    let topics = vec![WritableTxnMarkerTopic { name: "t".into(), partition_indexes: vec![0, 9] }];
    let marker = WritableTxnMarker { producer_id: me.id, producer_epoch: me.epoch, topics, ..Default::default() };
    let answer = client.call(&WriteTxnMarkersRequest { markers: vec![marker] }, 1).await;
    let codes: Vec<_> = answer.markers[0].topics[0].partitions.iter().map(|p| p.error_code).collect();
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION]);
    assert_eq!(producers(&mut client).await, (me.id, 0, 0, -1));
    assert_eq!(ends(&mut client, 0).await, (3, 3));
}

#[tokio::test]
async fn brokers_ask_whether_a_partition_is_part_of_a_transaction() {
    let broker = Broker::start().await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    let me = who(&mut client, "tx").await;
    let ask = async |client: &mut Client, verify_only, version| {
        let transaction = AddPartitionsToTxnTransaction {
            transactional_id: "tx".into(),
            producer_id: me.id,
            producer_epoch: me.epoch,
            verify_only,
            topics: vec![AddPartitionsToTxnTopic { name: "t".into(), partitions: vec![0] }],
        };
        let request = AddPartitionsToTxnRequest { transactions: vec![transaction], ..Default::default() };
        let answer = client.call(&request, version).await;
        answer.results_by_transaction[0].topic_results[0].results_by_partition[0].partition_error_code
    };
    assert_eq!(ask(&mut client, true, 4).await, ErrorCode::INVALID_TXN_STATE);
    assert_eq!(ask(&mut client, true, 5).await, ErrorCode::TRANSACTION_ABORTABLE);
    assert_eq!(ask(&mut client, false, 5).await, ErrorCode::NONE);
    assert_eq!(ask(&mut client, true, 5).await, ErrorCode::NONE);
}
