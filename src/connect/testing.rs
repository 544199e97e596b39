//! What the tests of this module share: a log in a temporary directory, and what lies in it.

use std::{sync::Arc, time::Duration};

use super::{Source, SourceError};
use crate::{
    log::{self, Log},
    record::{Partition, Unpacker, batch},
};

/// A log in a directory that goes with the first part of the answer.
pub(super) fn open_log() -> (tempfile::TempDir, Log) {
    open_log_with(Duration::from_millis(1))
}

/// As [`open_log`], with that longest wait for company.
pub(super) fn open_log_with(linger: Duration) -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().unwrap();
    let config = log::Config {
        quota_bytes: Some(64 << 20),
        linger,
        ack_linger: Duration::ZERO,
        memory_limit_bytes: 8 << 20,
        clock: Arc::new(|| 1_700_000_000_000),
        ..log::Config::new(dir.path())
    };
    let log = Log::open(config, &crate::metrics::Registry::default()).unwrap();
    (dir, log)
}

/// One record as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) timestamp_ms: i64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Everything in one partition.
pub(super) async fn read_all(log: &Log, topic: &str, index: i32) -> Vec<Read> {
    let mut read = Vec::new();
    for bytes in read_batches(log, topic, index).await {
        let mut unpacker = Unpacker::new(64 << 20);
        for record in unpacker.records(&bytes).unwrap() {
            let record = record.unwrap();
            let headers = record.headers();
            read.push(Read {
                timestamp_ms: record.timestamp_ms,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: headers
                    .map(|h| (String::from_utf8(h.key.to_vec()).unwrap(), h.value.map(<[u8]>::to_vec)))
                    .collect(),
            });
        }
    }
    read
}

/// Every batch of one partition.
pub(super) async fn read_batches(log: &Log, topic: &str, index: i32) -> Vec<Vec<u8>> {
    let slice = log.read(&Partition::new(topic, index), 0, usize::MAX).await.unwrap();
    batch::batches(&slice.batches).map(|b| b.unwrap().1.to_vec()).collect()
}

/// Makes a source for a test.
#[derive(Clone)]
pub(super) struct Maker(pub(super) Arc<dyn Fn() -> Result<Box<dyn Source>, SourceError> + Send + Sync>);

impl std::fmt::Debug for Maker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Maker")
    }
}
