//! ListPartitionReassignments: v0.
//!
//! Behaviour
//! * Nothing moves on one node: the list is empty.

use super::{Close, Context};
use crate::wire::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

pub(super) async fn handle(
    _context: &Context<'_>,
    _request: ListPartitionReassignmentsRequest,
) -> Result<ListPartitionReassignmentsResponse, Close> {
    Ok(ListPartitionReassignmentsResponse::default())
}
