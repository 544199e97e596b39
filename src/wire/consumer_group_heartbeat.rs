//! Joining, staying in, reconciling with and leaving a group of the consumer protocol (KIP-848), all in one request.
//!
//! What is null or -1 has not changed since the last request. Version 1 adds a pattern of topics, and has the client make
//! its own member id.

use super::{
    ErrorCode,
    schema::{Uuid, api, schema},
};

api!(ConsumerGroupHeartbeat, versions 0..=1, flexible 0, ConsumerGroupHeartbeatRequest => ConsumerGroupHeartbeatResponse);

schema! {
    /// A sign of life, with what has changed.
    struct ConsumerGroupHeartbeatRequest {
        group_id: String,
        member_id: String,
        /// 0 joins, -1 leaves, -2 leaves for a while as a static member.
        member_epoch: i32,
        instance_id: Option<String>,
        rack_id: Option<String>,
        rebalance_timeout_ms: i32 = -1,
        subscribed_topic_names: Option<Vec<String>>,
        subscribed_topic_regex: Option<String> [1..],
        server_assignor: Option<String>,
        topic_partitions: Option<Vec<TopicPartitions>>,
    }

    /// Partitions of one topic.
    struct TopicPartitions {
        topic_id: Uuid,
        partitions: Vec<i32>,
    }

    /// The member's epoch, and its share where that has changed.
    struct ConsumerGroupHeartbeatResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
        member_id: Option<String>,
        member_epoch: i32,
        heartbeat_interval_ms: i32,
        assignment: Option<Assignment>,
    }

    /// The partitions that the member may read now.
    struct Assignment {
        topic_partitions: Vec<TopicPartitions>,
    }
}
