//! Deleting topics.
//!
//! By name up to version 5, by name or id from version 6.

use super::{
    ErrorCode, Uuid,
    schema::{api, schema},
};

api!(DeleteTopics, versions 1..=6, flexible 4, DeleteTopicsRequest => DeleteTopicsResponse);

schema! {
    /// The topics to delete.
    struct DeleteTopicsRequest {
        topics: Vec<DeleteTopicState> [6..],
        topic_names: Vec<String> [..=5],
        timeout_ms: i32,
    }

    /// A topic by name or, with no name, by id.
    struct DeleteTopicState {
        name: Option<String>,
        topic_id: Uuid,
    }

    /// What became of each.
    struct DeleteTopicsResponse {
        throttle_time_ms: i32,
        responses: Vec<DeletableTopicResult>,
    }

    /// One topic.
    struct DeletableTopicResult {
        name: Option<String> [1..; null 6..],
        topic_id: Uuid [6..],
        error_code: ErrorCode,
        error_message: Option<String> [5..],
    }
}
