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
            let is_dense = header.is_dense();
            let mut pushed = match limit {
                None if is_dense => self.coalescer.push(&buffer[..size], at).map(|()| None),
                _ => self.push_part(&buffer[..size], at, most),
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
                Ok(None) => {}
                // A compacted batch: a sequence is told from an offset, so a batch of ours goes no further than a hole.
                Ok(Some(next)) if self.coalescer.is_empty() => return Err(CutError::Hole { next }),
                Ok(Some(_)) => {
                    max_ts_ms = max_ts_ms.max(header.max_timestamp_ms);
                    break;
                }
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

    /// Adds records of one batch until `limit` is reached, at least one unless there is a hole. Answers with the offset after
    /// the hole that it stopped at.
    fn push_part(&mut self, bytes: &[u8], from: Offset, limit: usize) -> Result<Option<Offset>, BatchError> {
        let header = batch::check(bytes)?;
        let mut next = from;
        for record in self.splitter.records(bytes)? {
            let record = record?;
            if record.offset < from {
                continue;
            }
            if record.offset > next {
                return Ok(Some(record.offset));
            }
            if !self.coalescer.is_empty() && self.coalescer.size_bytes() + record.body_bytes() > limit {
                return Ok(None);
            }
            self.coalescer.push_record(&record)?;
            next = record.offset + 1;
        }
        Ok((next <= header.last_offset()).then(|| header.last_offset() + 1))
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

    /// A batch of so many records of which compaction left some.
    fn thinned(count: i64, left: &[i64], bytes: usize) -> Bytes {
        let mut builder = Builder::new();
        for _ in 0..count {
            builder.push(5, Some(b"k"), Some(&vec![7; bytes]), &[]).unwrap();
        }
        let whole = builder.finish(Codec::None, 0);
        match crate::record::Sieve::new(1 << 20).sieve(&whole, None, &|record| left.contains(&record.offset)).unwrap() {
            crate::record::Sieved::Part(part) => part.into(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_was_compacted_is_cut_at_every_hole() {
        for (bytes, limit) in [(10, None), (20_000, None), (10, Some(100))] {
            let dir = tempfile::tempdir().unwrap();
            let mut config = Config::new(dir.path());
            (config.linger, config.ack_linger, config.quota_bytes) = (Duration::ZERO, Duration::ZERO, Some(16 << 20));
            let log = Log::open(config, &Registry::default()).unwrap();
            let change =
                Change::Create { name: "t".into(), partitions: 1, settings: std::collections::BTreeMap::new() };
            log.change(change, Vec::new()).await.unwrap();
            let partition = Partition::new("t", 0);
            for batch in [thinned(6, &[1, 2, 4], bytes), thinned(2, &[0], bytes), thinned(3, &[0, 2], bytes)] {
                let batches = vec![Append { partition: partition.clone(), batch }];
                log.commit(Write { batches, ..Write::default() }).await.unwrap();
            }
            let mut cutter = Cutter::new(Budget::new(32 << 20), Codec::None, 512 << 10);
            let (mut at, mut buffer, mut offsets) = (0, Bytes::new(), Vec::new());
            loop {
                match cutter.cut(&log, &partition, &mut buffer, at, limit).await {
                    Ok(Some(cut)) => {
                        let header = batch::check(&cut.bytes).unwrap();
                        assert_eq!(i64::from(header.records_count), cut.end - cut.first, "a record for every offset");
                        assert!(header.must_rewrite().is_none());
                        offsets.extend(cut.first..cut.end);
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
            assert_eq!((offsets, at), (vec![1, 2, 4, 6, 8, 10], 11));
        }
    }
}
