//! A link's metrics, and the lines in the log about what people should know.

use super::delivery::Notice;
use crate::{
    metrics::{Counter, Gauge, Registry},
    record::Partition,
};

/// One link's.
#[derive(Clone, Debug)]
pub(super) struct Meters {
    link: String,
    pub(super) acked_records: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) connects: Counter,
    pub(super) lag_records: Gauge,
    pub(super) gap_records: Counter,
    pub(super) possible_duplicates: Counter,
    pub(super) target_lost_records: Counter,
    by_state: Counter,
    by_log: Counter,
}

impl Meters {
    pub(super) fn new(registry: &Registry, link: &str) -> Self {
        let labels = [("link", link)];
        let counter = |name, help| registry.counter(name, help, &labels);
        let reconciles = |path| {
            let labels = [("link", link), ("path", path)];
            registry.counter("brooklet_mirror_reconciles_total", "Doubts resolved by asking the target.", &labels)
        };
        Self {
            link: link.to_owned(),
            acked_records: counter("brooklet_mirror_acked_records_total", "Records acknowledged by the target."),
            sent_bytes: counter("brooklet_mirror_sent_bytes_total", "Bytes of batches sent to the target."),
            connects: counter("brooklet_mirror_connects_total", "Connections opened to the target."),
            lag_records: registry.gauge("brooklet_mirror_lag_records", "Records not acknowledged yet.", &labels),
            gap_records: counter("brooklet_mirror_gap_records_total", "Records deleted before they were mirrored."),
            possible_duplicates: counter(
                "brooklet_mirror_possible_duplicates_total",
                "Times records were sent again without knowing whether they had arrived.",
            ),
            target_lost_records: counter(
                "brooklet_mirror_target_lost_records_total",
                "Records the target lost after acknowledging them.",
            ),
            by_state: reconciles("producer_state"),
            by_log: reconciles("log"),
        }
    }

    pub(super) fn notice(&self, partition: &Partition, notice: &Notice) {
        let link = &self.link;
        let count = |from: i64, to: i64| u64::try_from(to - from).unwrap_or(0);
        match notice {
            Notice::Gap { from, to } => {
                self.gap_records.add(count(*from, *to));
                tracing::error!(link, %partition, from, to, "records were deleted before they were mirrored");
            }
            Notice::TargetDataLoss { from, to } => {
                self.target_lost_records.add(count(*from, *to));
                tracing::error!(link, %partition, from, to, "the target lost records it had acknowledged; sent again");
            }
            Notice::TargetReset => {
                tracing::error!(link, %partition, "the target topic was deleted, recreated or emptied");
            }
            Notice::PossibleDuplicates { from } => {
                self.possible_duplicates.increment();
                tracing::warn!(link, %partition, from, "sent again without knowing whether it had arrived");
            }
            Notice::Reconciled { by_log: false } => self.by_state.increment(),
            Notice::Reconciled { by_log: true } => self.by_log.increment(),
        }
    }
}
