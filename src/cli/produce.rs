//! `brooklet produce`: the lines of standard input become records, in batches, acknowledged before the command ends.

use std::{
    io::{BufRead as _, IsTerminal as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{args::Produce, broker::Connected, status::now_ms, topics::key_value};
use crate::{
    record::{Builder, Codec, partition_for_key},
    wire::produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
};

/// A batch leaves when it has this many bytes, or has waited this long for lines.
const BATCH_BYTES: usize = 256 * 1024;
const LINGER: Duration = Duration::from_millis(100);
/// How often a batch is sent again after a retriable error.
const ATTEMPTS: u32 = 10;

/// Reads lines until the end of the input.
pub(super) async fn produce(mut broker: Connected, produce: Produce) -> anyhow::Result<()> {
    let codec = codec(&produce.compression)?;
    let headers: Vec<(String, String)> = produce.header.iter().map(|h| key_value(h)).collect::<Result<_, _>>()?;
    let headers: Vec<(&str, Option<&[u8]>)> = headers.iter().map(|(k, v)| (k.as_str(), Some(v.as_bytes()))).collect();
    let count = i32::try_from(broker.partitions_or_create(&produce.topic).await?.len()).unwrap_or(i32::MAX);
    if count == 0 {
        bail!("the broker names no partition of {}", produce.topic);
    }
    if let Some(partition) = produce.partition
        && partition >= count
    {
        bail!("{} has no partition {partition}: they are 0 to {}", produce.topic, count - 1);
    }

    // Lines are read on a thread of their own so that a slow writer of the pipe does not hold back what is there.
    let (sender, mut lines) = tokio::sync::mpsc::channel::<std::io::Result<Vec<u8>>>(1024);
    let is_terminal = std::io::stdin().is_terminal();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    let mut builders: Vec<Builder> = (0..count).map(|_| Builder::new()).collect();
    let (mut sticky, mut oldest): (i32, Option<Instant>) = (0, None);
    loop {
        let wait = oldest.map_or(Duration::from_secs(3600), |o| LINGER.saturating_sub(o.elapsed()));
        let line = match tokio::time::timeout(wait, lines.recv()).await {
            Ok(Some(line)) => line.context("reading standard input")?,
            Ok(None) => break,
            Err(_elapsed) => {
                flush(&mut broker, &produce.topic, &mut builders, codec).await?;
                (sticky, oldest) = ((sticky + 1) % count, None);
                continue;
            }
        };
        let (key, value) = match &produce.key_separator {
            None => (None, &line[..]),
            Some(separator) => {
                let at = find(&line, separator.as_bytes());
                let at = at.with_context(|| {
                    format!("no key separator '{separator}' in the line '{}'", String::from_utf8_lossy(&line))
                })?;
                (Some(&line[..at]), &line[at + separator.len()..])
            }
        };
        let value = (!(produce.null_value && value.is_empty())).then_some(value);
        let partition = produce.partition.unwrap_or_else(|| key.map_or(sticky, |k| partition_for_key(k, count)));
        let builder = &mut builders[usize::try_from(partition).unwrap_or_default()];
        builder.push(now_ms(), key, value, &headers)?;
        oldest.get_or_insert_with(Instant::now);
        if is_terminal || builder.size_bytes() >= BATCH_BYTES {
            flush(&mut broker, &produce.topic, &mut builders, codec).await?;
            (sticky, oldest) = ((sticky + 1) % count, None);
        }
    }
    flush(&mut broker, &produce.topic, &mut builders, codec).await
}

fn codec(name: &str) -> anyhow::Result<Codec> {
    let found = Codec::ALL.into_iter().find(|c| c.name() == name);
    found.with_context(|| format!("compression '{name}': expected none, gzip, snappy, lz4 or zstd"))
}

fn find(line: &[u8], separator: &[u8]) -> Option<usize> {
    line.windows(separator.len().max(1)).position(|w| w == separator)
}

/// Sends what every partition has, and waits until it is acknowledged.
async fn flush(broker: &mut Connected, topic: &str, builders: &mut [Builder], codec: Codec) -> anyhow::Result<()> {
    for (index, builder) in builders.iter_mut().enumerate().filter(|(_, b)| !b.is_empty()) {
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        let records = builder.finish(codec, codec.default_level());
        let mut attempt = 0;
        loop {
            attempt += 1;
            let request = ProduceRequest {
                transactional_id: None,
                acks: -1,
                timeout_ms: 30_000,
                topic_data: vec![TopicProduceData {
                    name: topic.to_owned(),
                    topic_id: broker.topic_id(topic),
                    partition_data: vec![PartitionProduceData { index, records: Some(records.clone()) }],
                }],
            };
            let answer = broker.leader(topic, index, &request).await?;
            let part = answer.responses.first().and_then(|t| t.partition_responses.first());
            let part = part.context("the broker's answer names no partition")?;
            if !part.error_code.is_error() {
                break;
            }
            if !part.error_code.is_retriable() || attempt == ATTEMPTS {
                let why = part.error_message.clone().unwrap_or_default();
                bail!("{topic}-{index} refused the records: {} {why}", part.error_code);
            }
            tokio::time::sleep(Duration::from_millis(100 << attempt.min(5))).await;
            broker.refresh().await?;
        }
    }
    Ok(())
}
