//! The Raft quorum that keeps the cluster's metadata, as KRaft shows it.
//!
//! Version 1 adds when a voter last fetched; 2 messages beside the codes, the voters' directories and their listeners.

use super::{
    ErrorCode, Uuid,
    schema::{api, schema},
};

api!(DescribeQuorum, versions 0..=2, flexible 0, DescribeQuorumRequest => DescribeQuorumResponse);

schema! {
    /// Asks.
    struct DescribeQuorumRequest {
        topics: Vec<TopicRequest>,
    }

    /// A topic wanted.
    struct TopicRequest {
        topic_name: String,
        partitions: Vec<PartitionRequest>,
    }

    /// A partition wanted.
    struct PartitionRequest {
        partition_index: i32,
    }

    /// The quorum.
    struct DescribeQuorumResponse {
        error_code: ErrorCode,
        error_message: Option<String> [2..],
        topics: Vec<TopicResponse>,
        nodes: Vec<Node> [2..],
    }

    /// One topic.
    struct TopicResponse {
        topic_name: String,
        partitions: Vec<PartitionResponse>,
    }

    /// One partition.
    struct PartitionResponse {
        partition_index: i32,
        error_code: ErrorCode,
        error_message: Option<String> [2..],
        leader_id: i32,
        leader_epoch: i32,
        high_watermark: i64,
        current_voters: Vec<ReplicaState>,
        observers: Vec<ReplicaState>,
    }

    /// How far a replica is.
    struct ReplicaState {
        replica_id: i32,
        replica_directory_id: Uuid [2..],
        log_end_offset: i64,
        last_fetch_timestamp: i64 [1..] = -1,
        last_caught_up_timestamp: i64 [1..] = -1,
    }

    /// A node of the quorum.
    struct Node {
        node_id: i32,
        listeners: Vec<Listener>,
    }

    /// Where it listens.
    struct Listener {
        name: String,
        host: String,
        port: u16,
    }
}
