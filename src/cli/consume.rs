//! `brooklet consume`: the records of a topic on standard output, as kcat's format strings say or as JSON lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use base64::Engine as _;

use super::{args::Consume, broker::Connected, member::Member};
use crate::{
    record::{Outcome, RecordView, Unpacker, batch, marker},
    wire::{
        ErrorCode,
        fetch::{AbortedTransaction, FetchPartition, FetchRequest, FetchTopic},
    },
};

/// How long a fetch waits at the broker when nothing is there.
const MAX_WAIT_MS: i32 = 500;
const PARTITION_MAX_BYTES: i32 = 1 << 20;
/// Largest batch unpacked: a compressed one may claim anything.
const UNPACKED_LIMIT_BYTES: usize = 64 << 20;
/// How often a group's positions are committed.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// Where each partition is read from next.
type Positions = BTreeMap<i32, i64>;

/// Reads until told to stop, by count, by the end, or by ^C.
pub(super) async fn consume(mut broker: Connected, consume: Consume) -> anyhow::Result<()> {
    let format = Format::parse(&consume.format)?;
    let topic = consume.topic.as_str();
    let mut member = match &consume.group {
        Some(group) => Some(Member::join(&mut broker, group, topic).await?),
        None => None,
    };
    let mut positions = start(&mut broker, &consume, member.as_ref()).await?;
    let ends: BTreeMap<i32, i64> = match consume.exit {
        true => broker.offsets(topic, &positions.keys().copied().collect::<Vec<_>>(), -1).await?,
        false => BTreeMap::new(),
    };
    let mut left = consume.max_messages.unwrap_or(u64::MAX);
    let mut out =
        Printer { format, json: consume.json, unpacker: Unpacker::new(UNPACKED_LIMIT_BYTES), text: Vec::new() };
    let mut committed_at = Instant::now();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    while left > 0 {
        if consume.exit && positions.iter().all(|(p, at)| ends.get(p).is_none_or(|end| at >= end)) {
            break;
        }
        let fetched = tokio::select! {
            _stop = &mut interrupted => break,
            fetched = fetch(&mut broker, topic, &mut positions) => fetched?,
        };
        for found in fetched {
            let from = positions.get(&found.partition).copied().unwrap_or(0);
            let next = out.print(topic, &found, from, &mut left)?;
            positions.insert(found.partition, next);
        }
        if let Some(member) = &mut member {
            if committed_at.elapsed() > COMMIT_EVERY {
                commit(&mut broker, topic, member, &positions).await?;
                committed_at = Instant::now();
            }
            if member.heartbeat(&mut broker).await? {
                commit(&mut broker, topic, member, &positions).await?;
                member.rejoin(&mut broker).await?;
                positions = start(&mut broker, &consume, Some(member)).await?;
            }
        }
    }
    if let Some(mut member) = member {
        commit(&mut broker, topic, &mut member, &positions).await?;
        member.leave(&mut broker).await?;
    }
    Ok(())
}

async fn commit(broker: &mut Connected, topic: &str, member: &mut Member, positions: &Positions) -> anyhow::Result<()> {
    let offsets = positions.iter().map(|(p, o)| ((topic.to_owned(), *p), *o)).collect();
    broker.commit(&member.group, &offsets, Some((member.generation, &member.id))).await
}

/// Which partitions, and from where.
async fn start(broker: &mut Connected, consume: &Consume, member: Option<&Member>) -> anyhow::Result<Positions> {
    let topic = consume.topic.as_str();
    let mut partitions = match member {
        Some(member) => member.partitions.clone(),
        None => broker.partitions(topic).await?,
    };
    if let Some(only) = consume.partition {
        if member.is_some() {
            bail!("a group shares out the partitions itself: give --group or --partition, not both");
        }
        if !partitions.contains(&only) {
            bail!("{topic} has no partition {only}");
        }
        partitions = vec![only];
    }
    let starts = broker.offsets(topic, &partitions, -2).await?;
    let ends = broker.offsets(topic, &partitions, -1).await?;
    let committed = match member {
        Some(member) => broker.committed(&member.group).await?,
        None => BTreeMap::new(),
    };
    let mut positions = BTreeMap::new();
    for partition in partitions {
        let bound = |found: &BTreeMap<i32, i64>| found.get(&partition).copied().unwrap_or(0);
        let (start, end) = (bound(&starts), bound(&ends));
        let at = match (committed.get(&(topic.to_owned(), partition)), consume.offset) {
            (Some(at), _) if *at >= 0 => *at,
            (_, Some(offset)) if offset < 0 => end.saturating_add(offset),
            (_, Some(offset)) => offset,
            _ if consume.from_beginning => start,
            _ => end,
        };
        positions.insert(partition, at.clamp(start, end.max(start)));
    }
    Ok(positions)
}

/// One fetch from each leader. A position that fell off the log moves to its start, and says so.
async fn fetch(broker: &mut Connected, topic: &str, positions: &mut Positions) -> anyhow::Result<Vec<Fetched>> {
    let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for partition in positions.keys() {
        by_leader.entry(broker.leader_of(topic, *partition).unwrap_or(-1)).or_default().push(*partition);
    }
    if by_leader.is_empty() {
        // A group may give this member nothing.
        tokio::time::sleep(Duration::from_millis(u64::from(MAX_WAIT_MS.unsigned_abs()))).await;
    }
    let mut found = Vec::new();
    let leaders = i32::try_from(by_leader.len()).unwrap_or(1);
    for partitions in by_leader.into_values() {
        let wanted = partitions.iter().map(|partition| FetchPartition {
            partition: *partition,
            fetch_offset: positions[partition],
            partition_max_bytes: PARTITION_MAX_BYTES,
            ..Default::default()
        });
        let request = FetchRequest {
            max_wait_ms: MAX_WAIT_MS / leaders,
            min_bytes: 1,
            max_bytes: 8 * PARTITION_MAX_BYTES,
            isolation_level: 1,
            topics: vec![FetchTopic {
                topic: topic.to_owned(),
                topic_id: broker.topic_id(topic),
                partitions: wanted.collect(),
            }],
            ..Default::default()
        };
        let answer = broker.leader(topic, partitions[0], &request).await?;
        if answer.error_code.is_error() {
            bail!("reading {topic}: {}", answer.error_code);
        }
        for part in answer.responses.into_iter().flat_map(|t| t.partitions) {
            match part.error_code {
                ErrorCode::NONE => found.push(Fetched {
                    partition: part.partition_index,
                    batches: part.records,
                    aborted: part.aborted_transactions.unwrap_or_default(),
                }),
                ErrorCode::OFFSET_OUT_OF_RANGE => {
                    let index = part.partition_index;
                    let start = broker.offsets(topic, &[index], -2).await?.get(&index).copied().unwrap_or(0);
                    let was = positions.insert(index, start).unwrap_or(0);
                    // Nothing can be done if standard error is gone.
                    let _gone =
                        writeln!(std::io::stderr(), "{topic}-{index}: offset {was} is gone, going on at {start}");
                }
                code if code.is_retriable() => broker.refresh().await?,
                code => bail!("reading {topic}-{}: {code}", part.partition_index),
            }
        }
    }
    Ok(found)
}

/// What one partition gave.
struct Fetched {
    partition: i32,
    batches: bytes::Bytes,
    aborted: Vec<AbortedTransaction>,
}

/// Tells which batches of a fetch are no records for who reads committed.
struct Hidden {
    /// By first offset, the last first.
    aborted: Vec<AbortedTransaction>,
    /// Producers between the first record and the marker of an aborted transaction.
    open: BTreeSet<i64>,
}

impl Hidden {
    fn new(aborted: &[AbortedTransaction]) -> Self {
        let mut aborted = aborted.to_vec();
        aborted.sort_unstable_by_key(|a| std::cmp::Reverse(a.first_offset));
        Self { aborted, open: BTreeSet::new() }
    }

    /// Whether the batch, the next of the fetch, is hidden.
    fn hides(&mut self, header: &batch::Header, bytes: &[u8]) -> bool {
        while let Some(begun) = self.aborted.pop_if(|a| a.first_offset <= header.last_offset()) {
            self.open.insert(begun.producer_id);
        }
        if header.is_control() {
            if marker::outcome(bytes) == Ok(Outcome::Abort) {
                self.open.remove(&header.producer.id);
            }
            return true;
        }
        header.is_transactional() && self.open.contains(&header.producer.id)
    }
}

struct Printer {
    format: Format,
    json: bool,
    unpacker: Unpacker,
    text: Vec<u8>,
}

impl Printer {
    /// Prints the records from `from` on; the answer is where to go on.
    fn print(&mut self, topic: &str, fetched: &Fetched, from: i64, left: &mut u64) -> anyhow::Result<i64> {
        let (partition, mut next) = (fetched.partition, from);
        let mut hidden = Hidden::new(&fetched.aborted);
        self.text.clear();
        'batches: for found in batch::batches(&fetched.batches) {
            // A fetch may end within a batch; it comes whole with the next one.
            let Ok((header, bytes)) = found else { break };
            if hidden.hides(&header, bytes) {
                next = header.last_offset().saturating_add(1);
                continue;
            }
            for record in self.unpacker.records(bytes).context("a batch that cannot be read")? {
                let record = record.context("a record that cannot be read")?;
                if record.offset < from {
                    continue;
                }
                if *left == 0 {
                    break 'batches;
                }
                *left -= 1;
                next = record.offset.saturating_add(1);
                if self.json {
                    json_line(topic, partition, &record, &mut self.text)?;
                } else {
                    self.format.write(topic, partition, &record, &mut self.text);
                }
            }
            next = next.max(header.last_offset().saturating_add(1));
        }
        let mut out = std::io::stdout().lock();
        out.write_all(&self.text)?;
        out.flush()?;
        Ok(next)
    }
}

/// A record as JSON: keys and values as text where they are UTF-8, else in base64 under another name.
pub(super) fn json_line(topic: &str, partition: i32, record: &RecordView<'_>, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut line = serde_json::Map::new();
    line.insert("topic".into(), topic.into());
    line.insert("partition".into(), partition.into());
    line.insert("offset".into(), record.offset.into());
    line.insert("timestamp".into(), record.timestamp_ms.into());
    let mut text = |name: &str, bytes: Option<&[u8]>| match bytes.map(std::str::from_utf8) {
        None => line.insert(name.into(), serde_json::Value::Null),
        Some(Ok(text)) => line.insert(name.into(), text.into()),
        Some(Err(_)) => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(bytes.unwrap_or_default());
            line.insert(format!("{name}_base64"), encoded.into())
        }
    };
    text("key", record.key);
    text("value", record.value);
    let headers: Vec<serde_json::Value> = record
        .headers()
        .map(|h| serde_json::json!([lossy(h.key), h.value.map(|v| String::from_utf8_lossy(v).into_owned())]))
        .collect();
    line.insert("headers".into(), headers.into());
    serde_json::to_writer(&mut *out, &line)?;
    out.push(b'\n');
    Ok(())
}

fn lossy(text: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(text.as_ref()).into_owned()
}

/// A parsed format string.
struct Format(Vec<Piece>);

enum Piece {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key,
    Value,
    Timestamp,
    Headers,
    KeyLength,
    ValueLength,
}

impl Format {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let piece = match (c, if c == '%' || c == '\\' { chars.next() } else { None }) {
                ('%', Some('t')) => Piece::Topic,
                ('%', Some('p')) => Piece::Partition,
                ('%', Some('o')) => Piece::Offset,
                ('%', Some('k')) => Piece::Key,
                ('%', Some('s')) => Piece::Value,
                ('%', Some('T')) => Piece::Timestamp,
                ('%', Some('h')) => Piece::Headers,
                ('%', Some('K')) => Piece::KeyLength,
                ('%', Some('S')) => Piece::ValueLength,
                ('%', Some('%')) => {
                    literal.push(b'%');
                    continue;
                }
                ('\\', Some(escaped @ ('n' | 't' | 'r' | '0' | '\\'))) => {
                    literal.push(match escaped {
                        'n' => b'\n',
                        't' => b'\t',
                        'r' => b'\r',
                        '0' => 0,
                        _ => b'\\',
                    });
                    continue;
                }
                ('%' | '\\', other) => {
                    let other = other.map(String::from).unwrap_or_default();
                    bail!(
                        "format '{text}': '{c}{other}' is unknown; known: %t %p %o %k %s %T %h %K %S %% \\n \\t \\r \\0 \\\\"
                    );
                }
                (other, _) => {
                    literal.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            pieces.push(piece);
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self(pieces))
    }

    fn write(&self, topic: &str, partition: i32, record: &RecordView<'_>, out: &mut Vec<u8>) {
        let length = |bytes: Option<&[u8]>| bytes.map_or(-1, |b| i64::try_from(b.len()).unwrap_or(i64::MAX));
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Topic => out.extend_from_slice(topic.as_bytes()),
                Piece::Partition => out.extend_from_slice(partition.to_string().as_bytes()),
                Piece::Offset => out.extend_from_slice(record.offset.to_string().as_bytes()),
                Piece::Key => out.extend_from_slice(record.key.unwrap_or_default()),
                Piece::Value => out.extend_from_slice(record.value.unwrap_or_default()),
                Piece::Timestamp => out.extend_from_slice(record.timestamp_ms.to_string().as_bytes()),
                Piece::KeyLength => out.extend_from_slice(length(record.key).to_string().as_bytes()),
                Piece::ValueLength => out.extend_from_slice(length(record.value).to_string().as_bytes()),
                Piece::Headers => {
                    let mut text = String::new();
                    for (i, header) in record.headers().enumerate() {
                        let value = header.value.map_or_else(|| "NULL".into(), String::from_utf8_lossy);
                        let comma = if i == 0 { "" } else { "," };
                        // Writing to a String cannot fail.
                        let _ok = write!(text, "{comma}{}={value}", lossy(header.key));
                    }
                    out.extend_from_slice(text.as_bytes());
                }
            }
        }
    }
}
