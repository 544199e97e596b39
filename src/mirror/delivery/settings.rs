//! What the machine is set to, and the time as it needs it. Only says; decides nothing.

/// The time as the machine needs it.
#[derive(Clone, Copy, Debug)]
pub(in crate::mirror) struct Now {
    /// Monotonic milliseconds.
    pub(in crate::mirror) mono_ms: u64,
    /// Wall clock in milliseconds since 1970; `None` while it is not plausible, which counts every batch as stale.
    pub(in crate::mirror) wall_ms: Option<i64>,
}

/// What to do when the evidence of our last batch at the target is gone and another producer shares the partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNoEvidence {
    /// Send again from the last acknowledged record; counted as possible duplicates.
    #[default]
    Resend,
    /// Stop the partition.
    Halt,
}

/// What to do when the target topic was deleted, created again or emptied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTargetReset {
    /// Go on with what was not acknowledged.
    #[default]
    Continue,
    /// Send everything the log still holds.
    Remirror,
    /// Stop the partition.
    Halt,
}

/// What stays the same for one partition.
#[derive(Clone, Debug)]
pub(in crate::mirror) struct Settings {
    /// Most batches in flight; Kafka remembers five.
    pub(in crate::mirror) window: usize,
    /// How long after the leader's first answer late requests of earlier connections may still be stored.
    pub(in crate::mirror) quarantine_ms: u64,
    /// Age of a batch's newest record from which on the broker may forget us at any time.
    pub(in crate::mirror) stale_after_ms: i64,
    /// Nobody else writes into the target partition.
    pub(in crate::mirror) exclusive: bool,
    /// The target compacts: our last batch header may vanish.
    pub(in crate::mirror) compacted: bool,
    /// See [`OnNoEvidence`].
    pub(in crate::mirror) on_no_evidence: OnNoEvidence,
    /// See [`OnTargetReset`].
    pub(in crate::mirror) on_target_reset: OnTargetReset,
    /// One rule of the protocol each, switched off by the tests to see that they notice.
    #[cfg(test)]
    pub(in crate::mirror) rules: super::tests::Rules,
}
