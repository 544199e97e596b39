//! Cuts the next batch out of the log: large ones pass as they lie, small ones are joined and compressed.
//!
//! A batch of one record per request moves a handful of records per round trip, so joining is not an optimisation but
//! what makes a slow link usable. Pass-through costs a copy and two checksums. Only what is committed is mirrored:
//! markers and aborted transactions are holes, and an open transaction is waited for.

use bytes::{Buf as _, Bytes};

use crate::{
    log::{self, Log, Slice},
    memory::Budget,
    record::{
        BatchError, Coalescer, Codec, Offset, Partition, Producer, Unpacker,
        batch::{self, Header},
    },
};

/// From this size on a batch goes as it lies.
const PASS_BYTES: usize = 32 << 10;
/// One of this many records that is already zstd, too.
const PASS_RECORDS: i32 = 64;
/// Read from the log at once.
const READ_BYTES: usize = 64 << 10;
/// What a batch may take unpacked beside everything else. A larger one goes as it lies; where it cannot, it waits for all
/// the memory there is for such work, and has it alone.
const UNPACK_BYTES: usize = 512 << 10;

/// A batch for the target, without its stamp.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) first: Offset,
    /// One after the last.
    pub(super) end: Offset,
    pub(super) max_ts_ms: i64,
    pub(super) bytes: Bytes,
}

/// Why nothing could be cut.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutError {
    /// The log.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The stored batch.
    #[error("batch at offset {offset}: {error}")]
    Batch {
        /// Where.
        offset: Offset,
        /// What is wrong with it.
        error: BatchError,
    },
    /// Nothing to mirror before this offset.
    #[error("no records before offset {next}")]
    Hole {
        /// The next offset with a record.
        next: Offset,
    },
}

/// Shared by all partitions of a link: buffers and codec contexts exist once.
pub(super) struct Cutter {
    memory: Budget,
    coalescer: Coalescer,
    splitter: Unpacker,
    codec: Codec,
    batch_bytes: usize,
}

impl Cutter {
    pub(super) fn new(memory: Budget, codec: Codec, batch_bytes: usize) -> Self {
        let (coalescer, splitter) = (Coalescer::new(UNPACK_BYTES), Unpacker::new(UNPACK_BYTES));
        Self { memory, coalescer, splitter, codec, batch_bytes }
    }

    /// Gives buffers back.
    pub(super) fn release(&mut self) {
        self.coalescer.release();
        self.splitter.release();
    }

    /// The next batch from `from` on; `None` at the end. `buffer` holds what was read and not used yet. With `limit`
    /// no batch grows beyond so many bytes of records.
    pub(super) async fn cut(
        &mut self,
        log: &Log,
        partition: &Partition,
        buffer: &mut Bytes,
        from: Offset,
        limit: Option<usize>,
    ) -> Result<Option<Cut>, CutError> {
        self.coalescer.clear();
        let mut at = from;
        let mut max_ts_ms = i64::MIN;
        let most = limit.unwrap_or(self.batch_bytes);
        while self.coalescer.size_bytes() < most || self.coalescer.is_empty() {
            if buffer.is_empty() {
                let slice = log.read_committed(partition, at, READ_BYTES).await?;
                *buffer = shown(&slice);
                // Only markers and aborted transactions.
                if let (true, Some(last)) = (buffer.is_empty(), last_offset(&slice.batches)) {
                    if !self.coalescer.is_empty() {
                        break;
                    }
                    return Err(CutError::Hole { next: last + 1 });
                }
            }
            let wrong = |error| CutError::Batch { offset: at, error };
            if buffer.is_empty() {
                break;
            }
            let header = Header::parse(buffer).map_err(wrong)?;
            let size = header.batch_bytes();
            if size > buffer.len() {
                return Err(wrong(BatchError::Short(buffer.len())));
            }
            if header.last_offset() < at {
                buffer.advance(size);
                continue;
            }
            // An empty batch stands for records that are not there any more.
            if header.base_offset > at || header.records_count == 0 {
                if !self.coalescer.is_empty() {
                    break;
                }
                let next = if header.base_offset > at { header.base_offset } else { header.last_offset() + 1 };
                return Err(CutError::Hole { next });
            }
            if !header.is_dense() {
                // A compacted batch: sequences could not be told from offsets any more.
                return Err(wrong(BatchError::Rewrite("records are missing within it")));
            }
            let is_whole = header.base_offset == at && limit.is_none() && header.must_rewrite().is_none();
            let is_packed = header.codec() == Codec::Zstd && header.records_count >= PASS_RECORDS;
            if is_whole && (size >= PASS_BYTES || is_packed) {
                if !self.coalescer.is_empty() {
                    break;
                }
                return Ok(Some(pass(buffer.split_to(size), &header)));
            }
            if !self.coalescer.is_empty() && self.coalescer.size_bytes() + size > most {
                break;
            }
            let mut pushed = match limit {
                None => self.coalescer.push(&buffer[..size], at),
                Some(limit) => self.push_part(&buffer[..size], at, limit),
            };
            if let Err(BatchError::TooLarge { .. }) = pushed {
                // It begins the next cut.
                if !self.coalescer.is_empty() {
                    break;
                }
                if is_whole {
                    return Ok(Some(pass(buffer.split_to(size), &header)));
                }
                let _all = self.memory.take_work(self.memory.most_work_bytes()).await;
                self.splitter.set_limit(self.memory.most_work_bytes().max(UNPACK_BYTES));
                pushed = self.push_part(&buffer[..size], at, most);
                self.splitter.release();
                self.splitter.set_limit(UNPACK_BYTES);
            }
            match pushed {
                Ok(()) => {}
                Err(error) => {
                    self.coalescer.clear();
                    return Err(wrong(error));
                }
            }
            max_ts_ms = max_ts_ms.max(header.max_timestamp_ms);
            let dealt_with = self.coalescer.span().map_or(at, |(_, last)| last + 1);
            if dealt_with <= header.last_offset() {
                break;
            }
            buffer.advance(size);
            at = dealt_with;
        }
        let Some((first, last)) = self.coalescer.span() else { return Ok(None) };
        let bytes = self.coalescer.finish(Producer::NONE, self.codec, self.codec.default_level());
        Ok(Some(Cut { first, end: last + 1, max_ts_ms, bytes }))
    }

    /// Adds records of one batch until `limit` is reached, at least one.
    fn push_part(&mut self, bytes: &[u8], from: Offset, limit: usize) -> Result<(), BatchError> {
        batch::check(bytes)?;
        for record in self.splitter.records(bytes)? {
            let record = record?;
            if record.offset < from {
                continue;
            }
            if !self.coalescer.is_empty() && self.coalescer.size_bytes() + record.body_bytes() > limit {
                break;
            }
            self.coalescer.push_record(&record)?;
        }
        Ok(())
    }
}

/// What is to be mirrored of it: a target knows nothing of our transactions, so it gets what was committed.
fn shown(slice: &Slice) -> Bytes {
    let all = || batch::batches(&slice.batches).map_while(Result::ok);
    if !all().any(|(header, _)| slice.hides(&header)) {
        return slice.batches.clone();
    }
    let kept = all().filter(|(header, _)| !slice.hides(header));
    kept.flat_map(|(_, bytes)| bytes).copied().collect()
}

fn last_offset(batches: &[u8]) -> Option<Offset> {
    batch::batches(batches).map_while(Result::ok).last().map(|(header, _)| header.last_offset())
}

fn pass(bytes: Bytes, header: &Header) -> Cut {
    Cut { first: header.base_offset, end: header.last_offset() + 1, max_ts_ms: header.max_timestamp_ms, bytes }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        log::{Append, Change, Config, Write},
        metrics::Registry,
        record::{Builder, Outcome, marker::marker},
    };

    #[tokio::test]
    async fn only_what_was_committed_is_cut_and_the_rest_is_a_hole() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path());
        (config.linger, config.ack_linger, config.quota_bytes) = (Duration::ZERO, Duration::ZERO, Some(16 << 20));
        let log = Log::open(config, &Registry::default()).unwrap();
        let change = Change::Create { name: "t".into(), partitions: 1, settings: std::collections::BTreeMap::new() };
        log.change(change, Vec::new()).await.unwrap();
        let partition = Partition::new("t", 0);
        let data = |id: i64, bytes: usize| {
            let mut builder = Builder::new();
            builder.set_producer(Producer { id, epoch: 0, sequence: 0 });
            builder.push(5, None, Some(&vec![7; bytes]), &[]).unwrap();
            batch::transactional(&builder.finish(Codec::None, 0))
        };
        let end = |id: i64, outcome| marker(id, 0, outcome, 5);
        // A large batch is passed as it lies, but for its stamp.
        for batch in [
            data(1, 10),
            data(2, 10),
            end(1, Outcome::Abort),
            end(2, Outcome::Commit),
            data(3, PASS_BYTES),
            end(3, Outcome::Commit),
            data(4, 10),
            end(4, Outcome::Abort),
            data(5, 10),
        ] {
            let batches = vec![Append { partition: partition.clone(), batch }];
            log.commit(Write { batches, ..Write::default() }).await.unwrap();
        }
        let mut cutter = Cutter::new(Budget::new(32 << 20), Codec::None, 512 << 10);
        let (mut at, mut buffer, mut cuts) = (0, Bytes::new(), Vec::new());
        loop {
            match cutter.cut(&log, &partition, &mut buffer, at, None).await {
                Ok(Some(cut)) => {
                    cuts.push((cut.first, cut.end));
                    at = cut.end;
                }
                Ok(None) => break,
                Err(CutError::Hole { next }) => {
                    assert!(next > at);
                    at = next;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((cuts, at), (vec![(1, 2), (4, 5)], 8));
    }
}
