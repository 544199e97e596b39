//! Record batches to append.
//!
//! Below version 3 only message formats 0 and 1 exist and nothing is spoken, but 0 is advertised: librdkafka up to
//! 2.10 sends gzip and lz4 uncompressed where it is not. From version 13 topics are named by id.

use bytes::Bytes;

use super::{
    ErrorCode, Uuid,
    schema::{api, schema},
};

api!(Produce, versions 3..=13 (advertised from 0), flexible 9, ProduceRequest => ProduceResponse);

schema! {
    /// Batches by topic and partition.
    struct ProduceRequest {
        transactional_id: Option<String>,
        acks: i16,
        timeout_ms: i32,
        topic_data: Vec<TopicProduceData>,
    }

    /// The batches for one topic.
    struct TopicProduceData {
        name: String [..=12],
        topic_id: Uuid [13..],
        partition_data: Vec<PartitionProduceData>,
    }

    /// The batch for one partition.
    struct PartitionProduceData {
        index: i32,
        records: Option<Bytes>,
    }

    /// Where they were appended. Not sent when `acks` is 0.
    struct ProduceResponse {
        responses: Vec<TopicProduceResponse>,
        throttle_time_ms: i32,
        node_endpoints: Vec<NodeEndpoint> [10..; tag 0],
    }

    /// One topic.
    struct TopicProduceResponse {
        name: String [..=12],
        topic_id: Uuid [13..],
        partition_responses: Vec<PartitionProduceResponse>,
    }

    /// One partition.
    struct PartitionProduceResponse {
        index: i32,
        error_code: ErrorCode,
        base_offset: i64,
        log_append_time_ms: i64 = -1,
        log_start_offset: i64 [5..] = -1,
        record_errors: Vec<BatchIndexAndErrorMessage> [8..],
        error_message: Option<String> [8..],
        current_leader: LeaderIdAndEpoch [10..; tag 0],
    }

    /// A record that made its batch fail.
    struct BatchIndexAndErrorMessage {
        batch_index: i32,
        batch_index_error_message: Option<String>,
    }

    /// The leader the client should have asked.
    struct LeaderIdAndEpoch {
        leader_id: i32 = -1,
        leader_epoch: i32 = -1,
    }

    /// Where such a leader listens.
    struct NodeEndpoint {
        node_id: i32,
        host: String,
        port: i32,
        rack: Option<String>,
    }
}
