//! The cluster and its brokers.
//!
//! Version 1 can ask for controllers (`endpoint_type` 2) instead of brokers (1); 2 for fenced ones too.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(DescribeCluster, versions 0..=2, flexible 0, DescribeClusterRequest => DescribeClusterResponse);

schema! {
    /// Asks.
    struct DescribeClusterRequest {
        include_cluster_authorized_operations: bool,
        endpoint_type: i8 [1..] = 1,
        include_fenced_brokers: bool [2..],
    }

    /// The cluster.
    struct DescribeClusterResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
        endpoint_type: i8 [1..] = 1,
        cluster_id: String,
        controller_id: i32 = -1,
        brokers: Vec<DescribeClusterBroker>,
        cluster_authorized_operations: i32 = -2147483648,
    }

    /// One broker.
    struct DescribeClusterBroker {
        broker_id: i32,
        host: String,
        port: i32,
        rack: Option<String>,
        is_fenced: bool [2..],
    }
}
