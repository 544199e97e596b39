//! The APIs: what is advertised, who handles what, and how the log's errors become Kafka's.
//!
//! [`TABLE`] is the single truth: ApiVersions advertises it and dispatch serves it. A handler gets a decoded request
//! and gives a response; an error code goes into the response, an `Err` closes the connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{
    Advertised, Broker,
    conn::{Answer, Close},
    fetch_session::FetchSession,
    incoming::{CutBatches, Frame},
};
use crate::{
    groups::Error as GroupError,
    log::{Error as LogError, SequenceError, Topic},
    memory::Share,
    record::Partition,
    txn::Error as TxnError,
    wire::{ApiKey, Decoder, ErrorCode, Message, RequestHeader, encode_response},
};

/// There is one leader, and it never changes: clients compare the epoch, and a constant one keeps them calm.
pub(crate) const LEADER_EPOCH: i32 = 0;

/// The isolation level of a reader who wants no record of an open or aborted transaction.
const READ_COMMITTED: i8 = 1;

/// What a handler knows of the connection it answers on.
pub(crate) struct Connection {
    pub(crate) broker: Arc<Broker>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Cancelled when the daemon stops: parked requests answer at once.
    pub(crate) stop: CancellationToken,
    /// Produce requests whose batches have their place in the log's order, so that the next one may be looked at.
    pub(crate) entered: AtomicUsize,
    /// What it reads, if its client keeps a session.
    pub(super) fetch_session: FetchSession,
}

/// What a handler gets beside its request.
pub(crate) struct Context<'a> {
    pub(crate) broker: &'a Arc<Broker>,
    pub(crate) connection: &'a Connection,
    pub(crate) version: i16,
    /// What the client calls itself; empty if it does not.
    pub(crate) client_id: String,
    /// Of a Produce request that came without its batches, because no budget could hold it.
    cut: Option<CutBatches>,
    key: ApiKey,
    /// What the answer is expected to take.
    answer_bytes: usize,
    /// Memory that the decoded request takes.
    decoded_bytes: AtomicUsize,
    /// What the request and its answer hold of the memory budget.
    share: Mutex<Share>,
}

impl Context<'_> {
    /// The address clients are told for this node.
    pub(crate) fn advertised(&self) -> (String, i32) {
        match &self.broker.advertised {
            Advertised::Auto => {
                (self.connection.local.ip().to_canonical().to_string(), self.connection.local.port().into())
            }
            Advertised::Address { host, port } => (host.clone(), i32::from(*port)),
        }
    }

    /// The client's address as Kafka shows it in group descriptions: `/127.0.0.1`.
    pub(crate) fn client_host(&self) -> String {
        format!("/{}", self.connection.peer.ip().to_canonical())
    }

    /// Topics as they stand.
    pub(crate) fn topics(&self) -> Arc<crate::log::Topics> {
        Arc::clone(&self.broker.log.topics().borrow())
    }

    /// Keeps a further share until the answer is written.
    fn hold(&self, share: Share) {
        self.lock_share().merge(share);
    }

    /// Gives back all but so much of the share.
    fn shrink_share(&self, bytes: usize) {
        self.lock_share().shrink_to(bytes);
    }

    /// Waits for a share for the work on the request, beside that for the request itself; once.
    async fn take_work(&self, bytes: usize) {
        debug_assert!(!self.has_work_share(), "who waits for a second one may wait for ever");
        self.hold(self.broker.memory.take_work(bytes).await);
    }

    /// Whether it holds one already: a large request does.
    fn has_work_share(&self) -> bool {
        self.lock_share().has_work()
    }

    fn lock_share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decodes the request within the memory there is for it.
    ///
    /// A field of two bytes can become a struct of fifty, and an answer as large again: what comes to more than a little
    /// is counted first, and decoded again once its share is there.
    async fn decode<M: Message>(&self, body: Decoder) -> Result<M, Close> {
        let mut first = body.clone();
        first.limit_memory(self.broker.memory.most_work_bytes() / WORK);
        if self.key == ApiKey::Produce {
            // No larger than its frame, whose share is there; the handler knows what else it takes.
            first.limit_memory(first.remaining() + FREE_BYTES);
            drop(body);
            return Ok(M::decode(&mut first, self.version)?);
        }
        let request = M::decode(&mut first, self.version)?;
        let work_bytes = self.answer_bytes + first.taken_bytes() * WORK;
        self.decoded_bytes.store(first.taken_bytes(), Ordering::Relaxed);
        if work_bytes <= FREE_BYTES {
            return Ok(request);
        }
        drop((request, first));
        // One share for all of it, with what a look-up of times unpacks.
        let lookup_bytes = if self.key == ApiKey::ListOffsets { list_offsets::UNPACKED_BYTES } else { 0 };
        self.take_work(work_bytes + lookup_bytes).await;
        let mut body = body;
        Ok(M::decode(&mut body, self.version)?)
    }
}

/// What a decoded request, its handling and its answer take, as a multiple of the first.
const WORK: usize = 3;
/// Memory of a request that is not worth counting.
const FREE_BYTES: usize = 4 << 10;
/// What a parked member of a group takes beside what the group counts.
const PARKED_BYTES: usize = 1 << 10;

/// One API that is served.
pub(crate) struct Row {
    pub(crate) key: ApiKey,
    pub(crate) name: &'static str,
    /// Lowest version advertised; what the schema cannot read closes the connection as Kafka does.
    pub(crate) min: i16,
    pub(crate) max: i16,
    /// The largest answer so far: what the next one is expected to take.
    largest_answer_bytes: AtomicUsize,
}

mod configs;

macro_rules! table {
    ($($key:ident in $module:ident: $min:literal ..= $max:literal,)*) => {
        $(mod $module;)*

        /// Every API that is served, in the order of the keys, and no other.
        pub(crate) static TABLE: [Row; [$(ApiKey::$key),*].len()] = [$(Row {
            key: ApiKey::$key,
            name: stringify!($key),
            min: $min,
            max: $max,
            largest_answer_bytes: AtomicUsize::new(0),
        },)*];

        async fn call(
            context: &Context<'_>,
            key: ApiKey,
            body: Decoder,
            correlation_id: i32,
        ) -> Result<Option<Vec<Bytes>>, Close> {
            let version = context.version;
            match key {
                $(ApiKey::$key => {
                    let request = context.decode(body).await?;
                    if waits(key as i16) {
                        context.shrink_share(context.decoded_bytes.load(Ordering::Relaxed) + PARKED_BYTES);
                    }
                    let response = Box::pin($module::handle(context, request)).await?;
                    Ok(IntoAnswer::into_answer(response).map(|r| encode_response(&r, key, version, correlation_id)))
                })*
                #[allow(unreachable_patterns, reason = "the schema may know APIs that are not served")]
                _ => Err(Close::Unsupported { key: key as i16, version }),
            }
        }
    };
}

table! {
    Produce in produce: 0..=13,
    Fetch in fetch: 4..=17,
    ListOffsets in list_offsets: 1..=10,
    Metadata in metadata: 0..=13,
    OffsetCommit in offset_commit: 2..=9,
    OffsetFetch in offset_fetch: 1..=9,
    FindCoordinator in find_coordinator: 0..=6,
    JoinGroup in join_group: 0..=9,
    Heartbeat in heartbeat: 0..=4,
    LeaveGroup in leave_group: 0..=5,
    SyncGroup in sync_group: 0..=5,
    DescribeGroups in describe_groups: 0..=6,
    ListGroups in list_groups: 0..=5,
    ApiVersions in api_versions: 0..=4,
    CreateTopics in create_topics: 2..=7,
    DeleteTopics in delete_topics: 1..=6,
    DeleteRecords in delete_records: 0..=2,
    InitProducerId in init_producer_id: 0..=5,
    OffsetForLeaderEpoch in offset_for_leader_epoch: 2..=4,
    AddPartitionsToTxn in add_partitions_to_txn: 0..=5,
    AddOffsetsToTxn in add_offsets_to_txn: 0..=4,
    EndTxn in end_txn: 0..=5,
    WriteTxnMarkers in write_txn_markers: 1..=1,
    TxnOffsetCommit in txn_offset_commit: 0..=5,
    DescribeAcls in describe_acls: 1..=3,
    CreateAcls in create_acls: 1..=3,
    DeleteAcls in delete_acls: 1..=3,
    DescribeConfigs in describe_configs: 1..=4,
    AlterConfigs in alter_configs: 0..=2,
    AlterReplicaLogDirs in alter_replica_log_dirs: 1..=2,
    DescribeLogDirs in describe_log_dirs: 1..=4,
    CreatePartitions in create_partitions: 0..=3,
    DeleteGroups in delete_groups: 0..=2,
    ElectLeaders in elect_leaders: 0..=2,
    IncrementalAlterConfigs in incremental_alter_configs: 0..=1,
    AlterPartitionReassignments in alter_partition_reassignments: 0..=0,
    ListPartitionReassignments in list_partition_reassignments: 0..=0,
    OffsetDelete in offset_delete: 0..=0,
    DescribeQuorum in describe_quorum: 0..=2,
    DescribeCluster in describe_cluster: 0..=2,
    DescribeProducers in describe_producers: 0..=0,
    DescribeTransactions in describe_transactions: 0..=0,
    ListTransactions in list_transactions: 0..=2,
    ConsumerGroupHeartbeat in consumer_group_heartbeat: 0..=1,
    ConsumerGroupDescribe in consumer_group_describe: 0..=1,
    ListConfigResources in list_config_resources: 0..=1,
    DescribeTopicPartitions in describe_topic_partitions: 0..=0,
}

/// A response, or for one API perhaps none.
trait IntoAnswer {
    type Response;
    fn into_answer(self) -> Option<Self::Response>;
}

impl<R: Message> IntoAnswer for R {
    type Response = R;
    fn into_answer(self) -> Option<R> {
        Some(self)
    }
}

/// Nothing answers a Produce with `acks=0`.
struct Maybe<R>(Option<R>);

impl<R> IntoAnswer for Maybe<R> {
    type Response = R;
    fn into_answer(self) -> Option<R> {
        self.0
    }
}

/// Whether a request of that API may be parked for long.
pub(super) fn waits(key: i16) -> bool {
    [ApiKey::Fetch, ApiKey::JoinGroup, ApiKey::SyncGroup].iter().any(|k| *k as i16 == key)
}

/// Whether a request of that API may be begun while others of that kind still wait for the disk.
pub(super) fn queues(key: i16) -> bool {
    key == ApiKey::Produce as i16
}

/// Handles one frame. `None`: nothing is to be answered.
pub(super) async fn dispatch(connection: &Connection, frame: Frame) -> Result<Option<Answer>, Close> {
    let Frame { bytes: frame, share, cut } = frame;
    let mut decoder = Decoder::new(frame);
    let header = RequestHeader::decode(&mut decoder)?;
    let unsupported = || Close::Unsupported { key: header.api_key, version: header.api_version };
    let row = TABLE.iter().find(|row| row.key as i16 == header.api_key).ok_or_else(unsupported)?;
    connection.broker.metrics.request(header.api_key);
    connection.broker.show_memory();
    if !(row.min..=row.max).contains(&header.api_version) || !row.key.api().supports(header.api_version) {
        if row.key != ApiKey::ApiVersions {
            return Err(unsupported());
        }
        // KIP-511: a client of the future learns from version 0 what it may speak.
        let response = api_versions::unsupported_version();
        return Ok(Some(Answer { segments: encode_response(&response, row.key, 0, header.correlation_id), share }));
    }
    let answer_bytes = match row.key {
        // Parked members must not hold back others, and Fetch accounts for its answer itself.
        key if waits(key as i16) || key == ApiKey::Produce => 0,
        _ => row.largest_answer_bytes.load(Ordering::Relaxed),
    };
    let context = Context {
        broker: &connection.broker,
        connection,
        version: header.api_version,
        client_id: header.client_id.unwrap_or_default(),
        cut,
        key: row.key,
        answer_bytes,
        decoded_bytes: AtomicUsize::new(0),
        share: Mutex::new(share),
    };
    let segments = call(&context, row.key, decoder, header.correlation_id).await?;
    Ok(segments.map(|segments| {
        row.largest_answer_bytes.fetch_max(segments.iter().map(Bytes::len).sum(), Ordering::Relaxed);
        Answer { segments, share: context.share.into_inner().unwrap_or_else(PoisonError::into_inner) }
    }))
}

/// Kafka's code for an error of the log. The text goes beside it where the response has room for one.
pub(crate) fn error_code(error: &LogError) -> ErrorCode {
    match error {
        LogError::UnknownPartition(_) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        LogError::OutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
        LogError::TopicExists(_) => ErrorCode::TOPIC_ALREADY_EXISTS,
        LogError::InvalidTopic { .. } => ErrorCode::INVALID_TOPIC_EXCEPTION,
        LogError::InvalidPartitions(_) => ErrorCode::INVALID_PARTITIONS,
        LogError::Sequence { reason: SequenceError::OutOfOrder { .. }, .. } => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        LogError::Sequence { reason: SequenceError::InTransaction, .. } => ErrorCode::INVALID_TXN_STATE,
        LogError::Sequence { reason: SequenceError::OldEpoch { .. }, .. } => ErrorCode::INVALID_PRODUCER_EPOCH,
        LogError::Corrupt(_) => ErrorCode::CORRUPT_MESSAGE,
        LogError::TooLarge(_) => ErrorCode::MESSAGE_TOO_LARGE,
        // Retriable in every client, so a producer waits for room instead of losing the record.
        LogError::Full => ErrorCode::NOT_ENOUGH_REPLICAS,
        LogError::Stopped(_) | LogError::Open(_) => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}

/// Kafka's code for an error of the groups.
fn group_error_code(error: &GroupError) -> ErrorCode {
    match error {
        GroupError::InvalidGroupId => ErrorCode::INVALID_GROUP_ID,
        GroupError::InvalidSessionTimeout => ErrorCode::INVALID_SESSION_TIMEOUT,
        GroupError::UnknownMember => ErrorCode::UNKNOWN_MEMBER_ID,
        GroupError::IllegalGeneration => ErrorCode::ILLEGAL_GENERATION,
        GroupError::RebalanceInProgress => ErrorCode::REBALANCE_IN_PROGRESS,
        GroupError::InconsistentProtocol => ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        GroupError::FencedInstance => ErrorCode::FENCED_INSTANCE_ID,
        GroupError::MemberIdRequired(_) => ErrorCode::MEMBER_ID_REQUIRED,
        GroupError::GroupFull => ErrorCode::GROUP_MAX_SIZE_REACHED,
        GroupError::FencedEpoch { .. } => ErrorCode::FENCED_MEMBER_EPOCH,
        GroupError::StaleEpoch { .. } => ErrorCode::STALE_MEMBER_EPOCH,
        GroupError::UnreleasedInstance => ErrorCode::UNRELEASED_INSTANCE_ID,
        GroupError::UnsupportedAssignor(_) => ErrorCode::UNSUPPORTED_ASSIGNOR,
        GroupError::InvalidPattern(_) => ErrorCode::INVALID_REGULAR_EXPRESSION,
        GroupError::InvalidRequest(_) => ErrorCode::INVALID_REQUEST,
        GroupError::UnsupportedVersion => ErrorCode::UNSUPPORTED_VERSION,
        GroupError::NotConsumer => ErrorCode::GROUP_ID_NOT_FOUND,
        GroupError::NotAvailable => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        GroupError::NonEmpty => ErrorCode::NON_EMPTY_GROUP,
        GroupError::NotFound => ErrorCode::GROUP_ID_NOT_FOUND,
        GroupError::Subscribed => ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC,
        GroupError::UnknownPartition(_) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        GroupError::MetadataTooLarge => ErrorCode::OFFSET_METADATA_TOO_LARGE,
        // Clients look for the coordinator and try again; a storage error they would take for final here.
        GroupError::Log(_) => ErrorCode::COORDINATOR_NOT_AVAILABLE,
    }
}

/// Kafka's code for an error of the transactions. Older versions do not know that a producer can be fenced.
fn txn_error_code(error: &TxnError, knows_fencing: bool) -> ErrorCode {
    match error {
        TxnError::InvalidId | TxnError::TooMuch => ErrorCode::INVALID_REQUEST,
        TxnError::InvalidTimeout => ErrorCode::INVALID_TRANSACTION_TIMEOUT,
        TxnError::UnknownProducer => ErrorCode::INVALID_PRODUCER_ID_MAPPING,
        TxnError::Fenced if knows_fencing => ErrorCode::PRODUCER_FENCED,
        TxnError::Fenced => ErrorCode::INVALID_PRODUCER_EPOCH,
        TxnError::NotInTransaction | TxnError::InvalidState => ErrorCode::INVALID_TXN_STATE,
        // As for groups: look for the coordinator and try again.
        TxnError::NotAvailable | TxnError::Log(_) => ErrorCode::COORDINATOR_NOT_AVAILABLE,
    }
}

/// The partition, if the topic has it.
fn partition_of(topic: &Topic, index: i32) -> Option<Partition> {
    (0..topic.partitions).contains(&index).then(|| Partition::new(Arc::clone(&topic.name), index))
}

/// What a client's idea of the leader epoch says about it, if something is wrong.
fn check_leader_epoch(claimed: i32) -> Option<ErrorCode> {
    match claimed {
        LEADER_EPOCH | ..0 => None,
        _ => Some(ErrorCode::UNKNOWN_LEADER_EPOCH),
    }
}
