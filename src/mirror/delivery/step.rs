//! What the machine asks its driver to do, what it is told in answer, and what it has to say. Only words; decides nothing.

use crate::record::Offset;

/// What the driver does next. Every variant but `Idle`, `Wait`, `Send` and `Halted` is asked once and must be answered,
/// by its method or by [`Delivery::failed`], unless the connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mirror) enum Step {
    /// Nothing until something happens.
    Idle,
    /// Nothing before this monotonic time.
    Wait {
        /// Monotonic milliseconds.
        until_ms: u64,
    },
    /// InitProducerId; answer [`Delivery::producer_id`].
    ProducerId,
    /// Make [`Delivery::record`] durable; answer [`Delivery::persisted`].
    Persist,
    /// OffsetForLeaderEpoch of the current epoch; answer [`Delivery::leader_end`].
    LeaderEnd,
    /// ListOffsets latest; answer [`Delivery::high_watermark`].
    HighWatermark,
    /// DescribeProducers; answer [`Delivery::last_sequence`].
    LastSequence,
    /// Fetch batch headers from this target offset; answer [`Delivery::read_back`].
    ReadBack {
        /// The target offset.
        from: i64,
    },
    /// Cut a batch that begins at this source offset and [`Delivery::offer`] it.
    Send {
        /// The source offset.
        from: Offset,
    },
    /// Stopped for good; see [`Delivery::halted`].
    Halted,
}

/// What a batch carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mirror) struct Stamp {
    /// The producer id.
    pub(in crate::mirror) producer_id: i64,
    /// The epoch.
    pub(in crate::mirror) epoch: i16,
    /// The sequence of the first record.
    pub(in crate::mirror) sequence: i32,
}

/// Why a batch may not go out yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mirror) enum Hold {
    /// Something in flight must be acknowledged first.
    Acks,
    /// Not before this monotonic time.
    Until(u64),
    /// It is not the next one: cut it anew.
    Moved,
}

/// What the leader knows of our producer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mirror) struct Known {
    /// Its epoch.
    pub(in crate::mirror) epoch: i32,
    /// The last sequence it stored.
    pub(in crate::mirror) last_sequence: i32,
}

/// The header of one batch in the target's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mirror) struct Head {
    /// Whose it is.
    pub(in crate::mirror) producer_id: i64,
    /// In which epoch.
    pub(in crate::mirror) epoch: i16,
    /// The sequence of its last record.
    pub(in crate::mirror) last_sequence: i32,
}

/// What reading back brought.
#[derive(Clone, Debug)]
pub(in crate::mirror) enum ReadBack {
    /// Batch headers, the offset after the last of them and the bytes that were read.
    Heads(Vec<Head>, i64, u64),
    /// The offset is no longer there (retention, DeleteRecords).
    Gone,
    /// No right to read.
    Denied,
}

/// Something people should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mirror) enum Notice {
    /// Source records were deleted before they were mirrored.
    Gap {
        /// First missing offset.
        from: Offset,
        /// One after the last.
        to: Offset,
    },
    /// The target lost records it had acknowledged; they are sent again as far as the source has them.
    TargetDataLoss {
        /// First lost source offset.
        from: Offset,
        /// One after the last.
        to: Offset,
    },
    /// The target topic is another one than before, or was emptied.
    TargetReset,
    /// Sent again without knowing whether it had arrived.
    PossibleDuplicates {
        /// First source offset that may be there twice.
        from: Offset,
    },
    /// A doubt was resolved: by the leader's producer state, or by reading its log.
    Reconciled {
        /// True if the log had to be read.
        by_log: bool,
    },
}

/// Why a partition stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::mirror) enum Halt {
    /// Another machine writes with our producer id.
    #[error("identity conflict: another machine writes with this producer id (a cloned card or a restored backup?)")]
    IdentityConflict,
    /// The evidence is gone and the policy is to stop.
    #[error("cannot tell how far the target got: the batches in question were deleted there (on_no_evidence = halt)")]
    NoEvidence,
    /// The target topic was recreated and the policy is to stop.
    #[error("the target topic was deleted, recreated or emptied (on_target_reset = halt)")]
    TargetReset,
}
