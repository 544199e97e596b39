//! How far a link is: what the command line, the admin interface and retention ask.

use crate::record::{Offset, Partition};

/// One link.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// `connecting`, `running`, `backing off`, `stopped`.
    pub state: String,
    /// The bootstrap servers, and the cluster's id once known.
    pub target: String,
    /// What holds at the target: `exactly once`.
    pub guarantee: String,
    /// mirror.md's tier: 1 the target tells its producer states, 3 its log must be read; 0 not known yet.
    pub tier: u8,
    /// Records not acknowledged yet.
    pub lag_records: u64,
    /// Their bytes here, estimated from the partition's average.
    pub lag_bytes: u64,
    /// Everything up to this time (milliseconds since 1970) is safe; `None` with a lag of 0: everything is, else
    /// nothing is known to be.
    pub safe_up_to_ms: Option<i64>,
    /// Records acknowledged since start.
    pub acked_records: u64,
    /// Bytes of requests since start.
    pub sent_bytes: u64,
    /// How often records were sent again without knowing whether they had arrived.
    pub possible_duplicates: u64,
    /// Records that were deleted here before they were mirrored, since start.
    pub gap_records: u64,
    /// Records that the target lost after acknowledging them, since start.
    pub target_lost_records: u64,
    /// What went wrong last, until it works again.
    pub error: Option<String>,
    /// Each partition.
    pub partitions: Vec<PartitionStatus>,
}

/// One partition of a link.
#[derive(Clone, Debug)]
pub struct PartitionStatus {
    /// Here.
    pub source: Partition,
    /// Topic at the target; the partition's number is the same.
    pub target: String,
    /// First offset that is not known to be safe.
    pub acked: Offset,
    /// One after the last durable offset here.
    pub end: Offset,
    /// Greatest timestamp of the last acknowledged batch, in milliseconds.
    pub acked_timestamp_ms: Option<i64>,
    /// `idle`, `live`, `catching up`, `reconciling`, `quarantined`, `blocked`, `stopped`, `connecting`.
    pub state: &'static str,
    /// Why it is blocked or stopped.
    pub error: Option<String>,
}
