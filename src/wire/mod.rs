//! The Kafka protocol's messages: one file per API, holding its request and its response as Kafka's schema lists them.
//!
//! Never behaves: no I/O, no state, no defaults of the broker. Server and clients share it.
//!
//! * Nothing a peer sends panics, and no length it claims sizes an allocation: a length beyond the frame is an error,
//!   an array grows with the elements really read. Nesting is the schema's.
//! * Byte fields of a decoded message are slices of its frame; large ones of an encoded message are kept by reference.
//! * A field that the version does not have is skipped when written and takes its default when read, so one struct
//!   serves all versions. Unknown tagged fields and bytes after the last field are skipped: librdkafka sends both.

pub mod add_offsets_to_txn;
pub mod add_partitions_to_txn;
pub mod alter_configs;
pub mod alter_partition_reassignments;
pub mod alter_replica_log_dirs;
pub mod api_versions;
mod codec;
pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod consumer_protocol;
pub mod create_acls;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_acls;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_acls;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_quorum;
pub mod describe_topic_partitions;
pub mod describe_transactions;
pub mod elect_leaders;
pub mod end_txn;
mod error_code;
pub mod fetch;
pub mod find_coordinator;
mod header;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod list_transactions;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sasl_authenticate;
pub mod sasl_handshake;
mod schema;
pub mod sync_group;
#[cfg(test)]
mod tests;
pub mod txn_offset_commit;
pub mod write_txn_markers;

pub use codec::{Decoder, Encoder, Error};
pub use error_code::ErrorCode;
pub use header::{RequestHeader, decode_response_header, encode_request, encode_response};
pub use schema::Uuid;

/// A message that is not part of another: a request, a response, or the bytes group members pass each other.
pub trait Message: Sized {
    /// The versions that can be read and written.
    const VERSIONS: std::ops::RangeInclusive<i16>;

    /// Reads the message; what follows it in the frame is left unread.
    ///
    /// # Errors
    /// On bytes that are not this message, and on a version outside [`VERSIONS`](Self::VERSIONS).
    fn decode(d: &mut Decoder, version: i16) -> Result<Self, Error>;

    /// Writes the message in `version`, which lies within [`VERSIONS`](Self::VERSIONS).
    fn encode(&self, e: &mut Encoder, version: i16);
}

/// A request: names its API and its response, so that a client's call is one function.
pub trait Request: Message {
    /// Key and versions.
    const API: Api;
    /// What answers it.
    type Response: Message;
}

/// One row of the protocol's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// The key.
    pub key: ApiKey,
    /// The lowest version spoken.
    pub min: i16,
    /// The highest version spoken.
    pub max: i16,
    /// The lowest version to claim in ApiVersions: that of Produce is below [`min`](Self::min).
    pub advertised_min: i16,
    /// The first version with compact lengths and tagged fields.
    pub flexible_from: i16,
}

impl Api {
    /// Whether `version` is spoken.
    pub const fn supports(&self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }

    /// Whether `version` has compact lengths and tagged fields.
    pub const fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }
}

macro_rules! apis {
    ($($key:literal $name:ident in $module:ident: $request:ident,)*) => {
        /// The APIs by Kafka's names; the number is the key in a request's header.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        #[allow(missing_docs, reason = "the names are Kafka's and documented at their modules")]
        pub enum ApiKey {
            $($name = $key,)*
        }

        /// Every API, ascending by key.
        pub const APIS: &[Api] = &[$(<$module::$request as Request>::API,)*];

        impl ApiKey {
            /// Its row of the table.
            pub const fn api(self) -> &'static Api {
                match self {
                    $(Self::$name => const { &<$module::$request as Request>::API },)*
                }
            }

            /// Kafka's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }

        /// Fails with the key itself where there is no such API.
        impl TryFrom<i16> for ApiKey {
            type Error = i16;

            fn try_from(key: i16) -> Result<Self, i16> {
                match key {
                    $($key => Ok(Self::$name),)*
                    _ => Err(key),
                }
            }
        }
    };
}

apis! {
    0 Produce in produce: ProduceRequest,
    1 Fetch in fetch: FetchRequest,
    2 ListOffsets in list_offsets: ListOffsetsRequest,
    3 Metadata in metadata: MetadataRequest,
    8 OffsetCommit in offset_commit: OffsetCommitRequest,
    9 OffsetFetch in offset_fetch: OffsetFetchRequest,
    10 FindCoordinator in find_coordinator: FindCoordinatorRequest,
    11 JoinGroup in join_group: JoinGroupRequest,
    12 Heartbeat in heartbeat: HeartbeatRequest,
    13 LeaveGroup in leave_group: LeaveGroupRequest,
    14 SyncGroup in sync_group: SyncGroupRequest,
    15 DescribeGroups in describe_groups: DescribeGroupsRequest,
    16 ListGroups in list_groups: ListGroupsRequest,
    17 SaslHandshake in sasl_handshake: SaslHandshakeRequest,
    18 ApiVersions in api_versions: ApiVersionsRequest,
    19 CreateTopics in create_topics: CreateTopicsRequest,
    20 DeleteTopics in delete_topics: DeleteTopicsRequest,
    21 DeleteRecords in delete_records: DeleteRecordsRequest,
    22 InitProducerId in init_producer_id: InitProducerIdRequest,
    23 OffsetForLeaderEpoch in offset_for_leader_epoch: OffsetForLeaderEpochRequest,
    24 AddPartitionsToTxn in add_partitions_to_txn: AddPartitionsToTxnRequest,
    25 AddOffsetsToTxn in add_offsets_to_txn: AddOffsetsToTxnRequest,
    26 EndTxn in end_txn: EndTxnRequest,
    27 WriteTxnMarkers in write_txn_markers: WriteTxnMarkersRequest,
    28 TxnOffsetCommit in txn_offset_commit: TxnOffsetCommitRequest,
    29 DescribeAcls in describe_acls: DescribeAclsRequest,
    30 CreateAcls in create_acls: CreateAclsRequest,
    31 DeleteAcls in delete_acls: DeleteAclsRequest,
    32 DescribeConfigs in describe_configs: DescribeConfigsRequest,
    33 AlterConfigs in alter_configs: AlterConfigsRequest,
    34 AlterReplicaLogDirs in alter_replica_log_dirs: AlterReplicaLogDirsRequest,
    35 DescribeLogDirs in describe_log_dirs: DescribeLogDirsRequest,
    36 SaslAuthenticate in sasl_authenticate: SaslAuthenticateRequest,
    37 CreatePartitions in create_partitions: CreatePartitionsRequest,
    42 DeleteGroups in delete_groups: DeleteGroupsRequest,
    43 ElectLeaders in elect_leaders: ElectLeadersRequest,
    44 IncrementalAlterConfigs in incremental_alter_configs: IncrementalAlterConfigsRequest,
    45 AlterPartitionReassignments in alter_partition_reassignments: AlterPartitionReassignmentsRequest,
    46 ListPartitionReassignments in list_partition_reassignments: ListPartitionReassignmentsRequest,
    47 OffsetDelete in offset_delete: OffsetDeleteRequest,
    55 DescribeQuorum in describe_quorum: DescribeQuorumRequest,
    60 DescribeCluster in describe_cluster: DescribeClusterRequest,
    61 DescribeProducers in describe_producers: DescribeProducersRequest,
    65 DescribeTransactions in describe_transactions: DescribeTransactionsRequest,
    66 ListTransactions in list_transactions: ListTransactionsRequest,
    68 ConsumerGroupHeartbeat in consumer_group_heartbeat: ConsumerGroupHeartbeatRequest,
    69 ConsumerGroupDescribe in consumer_group_describe: ConsumerGroupDescribeRequest,
    74 ListConfigResources in list_config_resources: ListConfigResourcesRequest,
    75 DescribeTopicPartitions in describe_topic_partitions: DescribeTopicPartitionsRequest,
}
