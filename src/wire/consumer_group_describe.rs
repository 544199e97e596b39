//! Groups of the consumer protocol (KIP-848) with their members.
//!
//! Version 1 adds by which protocol a member came: 0 the classic one, 1 the consumer protocol, -1 not known.

use super::{
    ErrorCode,
    schema::{Uuid, api, schema},
};

api!(ConsumerGroupDescribe, versions 0..=1, flexible 0, ConsumerGroupDescribeRequest => ConsumerGroupDescribeResponse);

schema! {
    /// Asks for groups.
    struct ConsumerGroupDescribeRequest {
        group_ids: Vec<String>,
        include_authorized_operations: bool,
    }

    /// The groups.
    struct ConsumerGroupDescribeResponse {
        throttle_time_ms: i32,
        groups: Vec<DescribedGroup>,
    }

    /// One group.
    struct DescribedGroup {
        error_code: ErrorCode,
        error_message: Option<String>,
        group_id: String,
        group_state: String,
        group_epoch: i32,
        assignment_epoch: i32,
        assignor_name: String,
        members: Vec<Member>,
        authorized_operations: i32 = -2147483648,
    }

    /// One member.
    struct Member {
        member_id: String,
        instance_id: Option<String>,
        rack_id: Option<String>,
        member_epoch: i32,
        client_id: String,
        client_host: String,
        subscribed_topic_names: Vec<String>,
        subscribed_topic_regex: Option<String>,
        assignment: Assignment,
        target_assignment: Assignment,
        member_type: i8 [1..] = -1,
    }

    /// A member's partitions.
    struct Assignment {
        topic_partitions: Vec<TopicPartitions>,
    }

    /// Partitions of one topic.
    struct TopicPartitions {
        topic_id: Uuid,
        topic_name: String,
        partitions: Vec<i32>,
    }
}
