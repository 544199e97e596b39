//! Record batches from given offsets.
//!
//! From version 13 topics are named by id; from 15 the replica asking is a tagged field. Records are never null in a
//! response, even without any: librdkafka and kafka-python fail on null.

use bytes::Bytes;

use super::{
    ErrorCode, Uuid,
    schema::{api, schema},
};

api!(Fetch, versions 4..=17, flexible 12, FetchRequest => FetchResponse);

schema! {
    /// What to read, from where, how much and how long to wait.
    struct FetchRequest {
        cluster_id: Option<String> [12..; tag 0],
        replica_id: i32 [..=14] = -1,
        replica_state: ReplicaState [15..; tag 1],
        max_wait_ms: i32,
        min_bytes: i32,
        max_bytes: i32 = 0x7fffffff,
        isolation_level: i8,
        session_id: i32 [7..],
        session_epoch: i32 [7..] = -1,
        topics: Vec<FetchTopic>,
        forgotten_topics_data: Vec<ForgottenTopic> [7..],
        rack_id: String [11..],
    }

    /// The follower that asks; a consumer sends -1.
    struct ReplicaState {
        replica_id: i32 = -1,
        replica_epoch: i64 = -1,
    }

    /// One topic to read.
    struct FetchTopic {
        topic: String [..=12],
        topic_id: Uuid [13..],
        partitions: Vec<FetchPartition>,
    }

    /// One partition to read.
    struct FetchPartition {
        partition: i32,
        current_leader_epoch: i32 [9..] = -1,
        fetch_offset: i64,
        last_fetched_epoch: i32 [12..] = -1,
        log_start_offset: i64 [5..] = -1,
        partition_max_bytes: i32,
        replica_directory_id: Uuid [17..; tag 0],
    }

    /// Partitions to drop from the session.
    struct ForgottenTopic {
        topic: String [..=12],
        topic_id: Uuid [13..],
        partitions: Vec<i32>,
    }

    /// The batches.
    struct FetchResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode [7..],
        session_id: i32 [7..],
        responses: Vec<FetchableTopicResponse>,
        node_endpoints: Vec<NodeEndpoint> [16..; tag 0],
    }

    /// One topic.
    struct FetchableTopicResponse {
        topic: String [..=12],
        topic_id: Uuid [13..],
        partitions: Vec<PartitionData>,
    }

    /// One partition.
    struct PartitionData {
        partition_index: i32,
        error_code: ErrorCode,
        high_watermark: i64,
        last_stable_offset: i64 = -1,
        log_start_offset: i64 [5..] = -1,
        diverging_epoch: EpochEndOffset [12..; tag 0],
        current_leader: LeaderIdAndEpoch [12..; tag 1],
        snapshot_id: SnapshotId [12..; tag 2],
        aborted_transactions: Option<Vec<AbortedTransaction>>,
        preferred_read_replica: i32 [11..] = -1,
        records: Bytes,
    }

    /// Where the log and the follower part.
    struct EpochEndOffset {
        epoch: i32 = -1,
        end_offset: i64 = -1,
    }

    /// The leader the client should have asked.
    struct LeaderIdAndEpoch {
        leader_id: i32 = -1,
        leader_epoch: i32 = -1,
    }

    /// A snapshot to read instead.
    struct SnapshotId {
        end_offset: i64 = -1,
        epoch: i32 = -1,
    }

    /// An aborted transaction among the batches.
    struct AbortedTransaction {
        producer_id: i64,
        first_offset: i64,
    }

    /// Where a leader listens.
    struct NodeEndpoint {
        node_id: i32,
        host: String,
        port: i32,
        rack: Option<String>,
    }
}
