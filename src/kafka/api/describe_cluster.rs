//! DescribeCluster: v0–2.
//!
//! Behaviour
//! * One broker, which is its own controller, at the address the client reached or the advertised one.
//!
//! Version notes
//! * v1: a client may ask for controllers' own listeners, which are not there. v2: fenced brokers, none.

use super::{Close, Context, metadata::CLUSTER_OPERATIONS};
use crate::wire::{
    ErrorCode,
    describe_cluster::{DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse},
};

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub(super) async fn handle(
    context: &Context<'_>,
    request: DescribeClusterRequest,
) -> Result<DescribeClusterResponse, Close> {
    let broker = context.broker;
    let mut response = DescribeClusterResponse {
        endpoint_type: request.endpoint_type,
        cluster_id: broker.cluster_id.clone(),
        controller_id: broker.node_id,
        ..Default::default()
    };
    match request.endpoint_type {
        BROKERS => {
            let (host, port) = context.advertised();
            response.brokers.push(DescribeClusterBroker { broker_id: broker.node_id, host, port, ..Default::default() });
        }
        CONTROLLERS => {
            response.error_code = ErrorCode::MISMATCHED_ENDPOINT_TYPE;
            response.error_message = Some("this is a broker's endpoint, not a controller's".into());
        }
        other => {
            response.error_code = ErrorCode::UNSUPPORTED_ENDPOINT_TYPE;
            response.error_message = Some(format!("unknown endpoint type {other}"));
        }
    }
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    Ok(response)
}
