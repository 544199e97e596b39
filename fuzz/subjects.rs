//! What the fuzzers do with their input, and what must hold of it.
//!
//! Each subject takes any bytes: it must not panic, not hang, and not hold more memory than it was allowed. What a reader
//! accepts must be the same after it was written and read again. `fuzz_targets/` hands the fuzzer's input to these,
//! `tests/hostile/corpus.rs` the corpus.

use brooklet::{
    record::{Coalescer, Codec, Offset, Producer, Unpacker, batch, marker, partition_for_key},
    wire::{
        self, ApiKey, Decoder, Encoder, Message, Request, RequestHeader,
        consumer_protocol::{ConsumerProtocolSubscription, decode_versioned},
    },
};
use bytes::Bytes;

/// Largest frame that is looked at: as `max_frame_bytes` by default.
const MOST_FRAME_BYTES: usize = 1 << 20;
/// Memory that a decoded message may take beside its frame.
const MOST_MESSAGE_BYTES: usize = 64 << 10;
/// What a batch may unpack to.
const MOST_UNPACKED_BYTES: usize = 256 << 10;

/// Whose body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client's.
    Request,
    /// A broker's: the mirror reads them, and clients ours.
    Response,
}

macro_rules! messages {
    ($($key:ident in $module:ident: $request:ident,)*) => {
        /// Reads a body of any API; whether it was one, to its last byte.
        pub fn is_body(key: ApiKey, side: Side, version: i16, body: &Bytes) -> bool {
            match (key, side) {
                $(
                    (ApiKey::$key, Side::Request) => reads::<wire::$module::$request>(body, version),
                    (ApiKey::$key, Side::Response) => {
                        reads::<<wire::$module::$request as Request>::Response>(body, version)
                    }
                )*
            }
        }
    };
}

// Every one: what is missing does not compile.
messages! {
    Produce in produce: ProduceRequest,
    Fetch in fetch: FetchRequest,
    ListOffsets in list_offsets: ListOffsetsRequest,
    Metadata in metadata: MetadataRequest,
    OffsetCommit in offset_commit: OffsetCommitRequest,
    OffsetFetch in offset_fetch: OffsetFetchRequest,
    FindCoordinator in find_coordinator: FindCoordinatorRequest,
    JoinGroup in join_group: JoinGroupRequest,
    Heartbeat in heartbeat: HeartbeatRequest,
    LeaveGroup in leave_group: LeaveGroupRequest,
    SyncGroup in sync_group: SyncGroupRequest,
    DescribeGroups in describe_groups: DescribeGroupsRequest,
    ListGroups in list_groups: ListGroupsRequest,
    SaslHandshake in sasl_handshake: SaslHandshakeRequest,
    ApiVersions in api_versions: ApiVersionsRequest,
    CreateTopics in create_topics: CreateTopicsRequest,
    DeleteTopics in delete_topics: DeleteTopicsRequest,
    DeleteRecords in delete_records: DeleteRecordsRequest,
    InitProducerId in init_producer_id: InitProducerIdRequest,
    OffsetForLeaderEpoch in offset_for_leader_epoch: OffsetForLeaderEpochRequest,
    AddPartitionsToTxn in add_partitions_to_txn: AddPartitionsToTxnRequest,
    AddOffsetsToTxn in add_offsets_to_txn: AddOffsetsToTxnRequest,
    EndTxn in end_txn: EndTxnRequest,
    WriteTxnMarkers in write_txn_markers: WriteTxnMarkersRequest,
    TxnOffsetCommit in txn_offset_commit: TxnOffsetCommitRequest,
    DescribeAcls in describe_acls: DescribeAclsRequest,
    CreateAcls in create_acls: CreateAclsRequest,
    DeleteAcls in delete_acls: DeleteAclsRequest,
    DescribeConfigs in describe_configs: DescribeConfigsRequest,
    AlterConfigs in alter_configs: AlterConfigsRequest,
    AlterReplicaLogDirs in alter_replica_log_dirs: AlterReplicaLogDirsRequest,
    DescribeLogDirs in describe_log_dirs: DescribeLogDirsRequest,
    SaslAuthenticate in sasl_authenticate: SaslAuthenticateRequest,
    CreatePartitions in create_partitions: CreatePartitionsRequest,
    DeleteGroups in delete_groups: DeleteGroupsRequest,
    ElectLeaders in elect_leaders: ElectLeadersRequest,
    IncrementalAlterConfigs in incremental_alter_configs: IncrementalAlterConfigsRequest,
    AlterPartitionReassignments in alter_partition_reassignments: AlterPartitionReassignmentsRequest,
    ListPartitionReassignments in list_partition_reassignments: ListPartitionReassignmentsRequest,
    OffsetDelete in offset_delete: OffsetDeleteRequest,
    DescribeQuorum in describe_quorum: DescribeQuorumRequest,
    DescribeCluster in describe_cluster: DescribeClusterRequest,
    DescribeProducers in describe_producers: DescribeProducersRequest,
    DescribeTransactions in describe_transactions: DescribeTransactionsRequest,
    ListTransactions in list_transactions: ListTransactionsRequest,
    ConsumerGroupHeartbeat in consumer_group_heartbeat: ConsumerGroupHeartbeatRequest,
    ConsumerGroupDescribe in consumer_group_describe: ConsumerGroupDescribeRequest,
    ListConfigResources in list_config_resources: ListConfigResourcesRequest,
    DescribeTopicPartitions in describe_topic_partitions: DescribeTopicPartitionsRequest,
}

fn reads<M: Message + PartialEq + std::fmt::Debug>(body: &Bytes, version: i16) -> bool {
    let mut limited = Decoder::new(body.clone());
    limited.limit_memory(MOST_MESSAGE_BYTES);
    let within = M::decode(&mut limited, version);
    let mut decoder = Decoder::new(body.clone());
    let message = match M::decode(&mut decoder, version) {
        Ok(message) => message,
        Err(error) => {
            assert!(within.is_err(), "the limit let through what is no message: {error}");
            return false;
        }
    };
    match within {
        Ok(same) => assert_eq!(same, message),
        Err(error) => assert_eq!(error, wire::Error::TooMuch(MOST_MESSAGE_BYTES)),
    }
    let mut encoder = Encoder::new();
    message.encode(&mut encoder, version);
    let length = encoder.len();
    let bytes = encoder.to_bytes();
    assert_eq!(bytes.len(), length);
    let again = M::decode(&mut Decoder::new(bytes), version);
    assert_eq!(again.as_ref(), Ok(&message), "what is written is what is read");
    decoder.remaining() == 0
}

/// What a client sends on one connection: length, header and body, again and again, read as the broker reads them.
pub fn frames(input: &[u8]) {
    let mut rest = input;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        let Some(length) = usize::try_from(length).ok().filter(|length| (8..=MOST_FRAME_BYTES).contains(length)) else {
            return;
        };
        let Some((frame, after)) = after.split_at_checked(length) else { return };
        rest = after;
        let mut decoder = Decoder::new(Bytes::copy_from_slice(frame));
        let Ok(header) = RequestHeader::decode(&mut decoder) else { return };
        let Ok(key) = ApiKey::try_from(header.api_key) else { return };
        if !key.api().supports(header.api_version) {
            return;
        }
        let body = Bytes::copy_from_slice(&frame[length - decoder.remaining()..]);
        is_body(key, Side::Request, header.api_version, &body);
        if key == ApiKey::Produce {
            produced(&body, header.api_version);
        }
    }
}

/// The batches of a Produce request.
fn produced(body: &Bytes, version: i16) {
    let Ok(request) = wire::produce::ProduceRequest::decode(&mut Decoder::new(body.clone()), version) else { return };
    for data in request.topic_data.into_iter().flat_map(|topic| topic.partition_data) {
        batches(&data.records.unwrap_or_default());
    }
}

/// One body. The first byte chooses the API, the second version and side.
pub fn bodies(input: &[u8]) {
    let Some((&[api, choice], body)) = input.split_first_chunk::<2>() else { return };
    let api = &wire::APIS[usize::from(api) % wire::APIS.len()];
    let side = if choice & 0x80 == 0 { Side::Request } else { Side::Response };
    let version = api.min + i16::from(choice & 0x7f) % (api.max - api.min + 1);
    let body = Bytes::copy_from_slice(body);
    is_body(api.key, side, version, &body);
    // What members of a group pass each other goes through the mirror.
    let _subscription = decode_versioned::<ConsumerProtocolSubscription>(body);
}

/// The second byte of an input of [`bodies`], whose first is the API's place in [`wire::APIS`].
pub fn choice(api: &wire::Api, side: Side, version: i16) -> u8 {
    u8::try_from(version - api.min).expect("versions are few") | if side == Side::Request { 0 } else { 0x80 }
}

/// Batches one after another, as in a request, a log or an answer.
pub fn batches(input: &[u8]) {
    for item in batch::batches(input) {
        let Ok((header, bytes)) = item else { break };
        assert_eq!(header.batch_bytes(), bytes.len());
        one_batch(bytes);
    }
    if batch::Header::parse(input).is_ok() {
        // Few inputs have a right length and checksum; with them put right, what lies behind is reached.
        one_batch(&signed(input));
    }
}

/// The bytes with the length and the checksum that a batch of them has.
pub fn signed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = i32::try_from(bytes.len() - batch::PREFIX_BYTES).expect("inputs are short");
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn one_batch(bytes: &[u8]) {
    let checked = batch::check(bytes);
    let _outcome = marker::outcome(bytes);
    let mut unpacker = Unpacker::new(MOST_UNPACKED_BYTES);
    let Some(records) = records_of(&mut unpacker, bytes) else { return };
    let Ok(header) = checked else { return };

    let mut stamped = bytes.to_vec();
    batch::stamp(&mut stamped, 42, 7);
    assert!(batch::check(&stamped).is_ok(), "where a batch landed lies outside its checksum");
    batch::stamp_append_time(&mut stamped, 1);
    assert!(batch::check(&stamped).is_ok_and(|h| h.has_log_append_time()));

    let producer = Producer { id: 1, epoch: 2, sequence: 3 };
    let mut sent = bytes.to_vec();
    match batch::restamp(&mut sent, producer) {
        Ok(restamped) => {
            assert_eq!((restamped.producer, restamped.base_offset), (producer, 0));
            assert!(batch::check(&sent).is_ok());
            assert_eq!(records_of(&mut unpacker, &sent), Some(records.clone()), "restamping changes no record");
        }
        Err(_) => assert_eq!(sent, bytes, "what is refused is left alone"),
    }

    let mut coalescer = Coalescer::new(MOST_UNPACKED_BYTES);
    for from in [Offset::MIN, header.base_offset.saturating_add(1)] {
        for codec in [Codec::None, Codec::Zstd] {
            coalescer.clear();
            coalescer.push(bytes, from).expect("its records were read just now");
            let count = coalescer.len();
            let joined = coalescer.finish(producer, codec, codec.default_level());
            if count == 0 {
                assert!(joined.is_empty());
                continue;
            }
            assert!(batch::check(&joined).is_ok_and(|h| h.is_dense() && h.producer == producer));
            // Its offsets may take more bytes than before.
            let kept =
                records_of(&mut Unpacker::new(2 * MOST_UNPACKED_BYTES), &joined).expect("what was built is read");
            assert_eq!(kept, records[records.len() - count..], "joining changes no record");
        }
    }
}

/// Key, value and headers of each record, unless one is damaged.
fn records_of(unpacker: &mut Unpacker, bytes: &[u8]) -> Option<Vec<Contents>> {
    let mut all = Vec::new();
    let mut size = 0;
    for record in unpacker.records(bytes).ok()? {
        let record = record.ok()?;
        size += record.body_bytes();
        assert!(size <= MOST_UNPACKED_BYTES.max(bytes.len()), "more than was allowed");
        if let Some(key) = record.key {
            assert!((0..3).contains(&partition_for_key(key, 3)));
        }
        let headers = record.headers().map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec))).collect();
        all.push((record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec), headers));
    }
    Some(all)
}

type Contents = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// Packed bytes as a batch holds them. The first byte chooses the codec, the second what it may unpack to.
pub fn codecs(input: &[u8]) {
    let Some((&[codec, limit], packed)) = input.split_first_chunk::<2>() else { return };
    let limit_bytes = 1usize << (limit % 21);
    let mut head = [0; batch::HEADER_BYTES];
    head[16] = 2; // format
    head[22] = 1 + codec % 4; // attributes
    head[23..27].copy_from_slice(&i32::MAX.to_be_bytes()); // last offset delta
    head[57..61].copy_from_slice(&i32::MAX.to_be_bytes()); // records
    let bytes = signed(&[&head[..], packed].concat());
    let mut unpacker = Unpacker::new(limit_bytes);
    for _ in 0..2 {
        // The second time with buffer and context in use.
        if unpacker.prepare(&bytes).is_err() {
            continue;
        }
        let records = unpacker.prepared(&bytes).expect("it was prepared");
        let size: usize = records.map_while(Result::ok).map(|record| record.body_bytes()).sum();
        assert!(size <= limit_bytes, "{size} bytes of records where {limit_bytes} are allowed");
    }
}
