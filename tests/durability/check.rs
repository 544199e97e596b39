//! Whether a daemon that was started on what a cut left keeps every promise, asked as its clients would.
//!
//! First what it has is compared with the facts, with nothing written; then producers go on. What is wrong comes back as
//! sentences; an error of the connection is one too, because a daemon that was started has to answer.

use std::{collections::BTreeMap, io, net::SocketAddr};

use brooklet::{
    record::{Builder, Codec, Partition, batch},
    wire::ErrorCode,
};
use bytes::Bytes;

use crate::{
    client::Client,
    facts::{Known, Part},
    load::{GROUPS, MIRRORED, OUTPUTS, PARTITIONS, TOPICS, WRITTEN, partitions},
};

/// Batches of an idempotent producer that a broker remembers.
const REMEMBERED: usize = 5;

/// When a cut was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// What was known before counts.
    pub(crate) at_ns: u64,
    /// What had reached the medium by the cut was shown to readers by then.
    pub(crate) shown_ns: u64,
    /// What a reader was told before of the log's start is still so. With `pipelined` this lies before the cut: what is
    /// being deleted cannot be read any more, and is there again if the power goes.
    pub(crate) deleted_ns: u64,
}

/// What all cuts of one run share.
pub(crate) struct Truth {
    pub(crate) known: Known,
    /// By output partition, in its order: the offset, and the partition and offset of the record it was made from.
    outputs: BTreeMap<Partition, Vec<(i64, i32, i64)>>,
    /// By mirrored partition: the end in the source that its target was seen to have, and when that look began.
    mirrored: BTreeMap<Partition, Vec<(i64, u64)>>,
}

/// What a partition has.
struct Found {
    start: i64,
    end: i64,
}

impl Truth {
    /// Also finds what is wrong in the facts themselves: an input with two outputs, a record twice at the target.
    pub(crate) fn new(mut known: Known) -> Self {
        let inputs = known.places("in");
        let mut outputs = BTreeMap::new();
        let mut next: BTreeMap<i32, BTreeMap<i64, u64>> = BTreeMap::new();
        for partition in partitions(&OUTPUTS) {
            let Some(part) = known.parts.get(&partition) else { continue };
            let mut rows = Vec::new();
            for (offset, number) in &part.numbers {
                let Some((source, at)) = inputs.get(number) else {
                    known.wrong.push(format!("{partition}: no reader saw the input of offset {offset}"));
                    continue;
                };
                rows.push((*offset, *source, *at));
                if let Some(first) = next.entry(*source).or_default().insert(*at, *number) {
                    known.wrong.push(format!("{partition}: input {first} has a second output at {offset}"));
                }
            }
            outputs.insert(partition, rows);
        }
        let mut mirrored = BTreeMap::new();
        for topic in MIRRORED {
            let places = known.places(topic);
            for partition in partitions(&[topic]) {
                let sights = known.mirrored.get(&partition).cloned().unwrap_or_default();
                let mut ends: Vec<(i64, u64)> = Vec::new();
                for (number, begun_ns) in sights {
                    let Some((_, offset)) = places.get(&number) else {
                        known.wrong.push(format!("{partition}: the target has record {number}, the source never had"));
                        continue;
                    };
                    if ends.last().is_some_and(|(end, _)| *end > *offset) {
                        known.wrong.push(format!("{partition}: the target has offset {offset} twice or late"));
                    }
                    ends.push((offset + 1, begun_ns));
                }
                mirrored.insert(partition, ends);
            }
        }
        Self { known, outputs, mirrored }
    }

    /// Compares what the daemon has with what was known before the cut, then lets producers go on.
    pub(crate) fn check(&self, address: SocketAddr, moment: Moment) -> Vec<String> {
        self.told(address, |client, wrong| {
            let found = self.ask(client, moment, wrong)?;
            self.go_on(client, &found, moment.at_ns, wrong)
        })
    }

    /// The first half of it.
    pub(crate) fn compare(&self, address: SocketAddr, moment: Moment) -> Vec<String> {
        self.told(address, |client, wrong| self.ask(client, moment, wrong).map(drop))
    }

    fn told(
        &self,
        address: SocketAddr,
        work: impl FnOnce(&mut Client, &mut Vec<String>) -> io::Result<()>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Err(error) = Client::connect(address).and_then(|mut client| work(&mut client, &mut wrong)) {
            wrong.push(format!("the daemon does not answer: {error}"));
        }
        wrong
    }

    fn ask(
        &self,
        client: &mut Client,
        moment: Moment,
        wrong: &mut Vec<String>,
    ) -> io::Result<BTreeMap<Partition, Found>> {
        let found = self.read(client, moment, wrong)?;
        self.groups(client, moment.at_ns, wrong)?;
        self.stream(client, &found, wrong)?;
        self.mirror(client, &found, moment.at_ns, wrong)?;
        Ok(found)
    }

    /// Every batch of every partition.
    fn read(
        &self,
        client: &mut Client,
        Moment { at_ns, shown_ns, deleted_ns }: Moment,
        wrong: &mut Vec<String>,
    ) -> io::Result<BTreeMap<Partition, Found>> {
        let nothing = Part::default();
        let part_of = |partition: &Partition| self.known.parts.get(partition).unwrap_or(&nothing);
        let mut found: BTreeMap<Partition, Found> = BTreeMap::new();
        // A place before the log's start is answered with the start.
        let mut places: Vec<(Partition, i64)> = partitions(&TOPICS).into_iter().map(|p| (p, 0)).collect();
        while !places.is_empty() {
            let answer = client.fetch(&places, 0)?;
            let mut next = Vec::new();
            for (partition, data) in answer {
                let (_, at) = places.iter().find(|(p, _)| *p == partition).unwrap();
                let mut at = *at;
                match data.error_code {
                    ErrorCode::NONE => {}
                    ErrorCode::OFFSET_OUT_OF_RANGE if !found.contains_key(&partition) && at == 0 => {
                        let start = client.earliest(&partition)?;
                        if start > 0 {
                            next.push((partition, start));
                        } else {
                            wrong.push(format!("{partition}: neither offset 0 nor another start"));
                        }
                        continue;
                    }
                    // The stream makes its own at some time after the start.
                    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                        if at_ns <= self.known.created_ns || !WRITTEN.contains(&&*partition.topic) =>
                    {
                        continue;
                    }
                    code => {
                        wrong.push(format!("{partition}: cannot be read at {at}: {code}"));
                        continue;
                    }
                }
                found
                    .entry(partition.clone())
                    .or_insert(Found { start: data.log_start_offset, end: data.high_watermark });
                for item in batch::batches(&data.records) {
                    let Ok((header, bytes)) = item else { break };
                    // A trimmed log starts within a batch.
                    let is_first = at == found[&partition].start;
                    if header.base_offset > at || header.base_offset < at && !is_first {
                        wrong.push(format!("{partition}: offset {at} is missing, {} follows", header.base_offset));
                    }
                    if let Err(error) = batch::check(bytes) {
                        wrong.push(format!("{partition}: the batch at {at} is damaged: {error}"));
                    }
                    match part_of(&partition).matches(&header, bytes) {
                        Some(true) => {}
                        Some(false) => wrong.push(format!("{partition}: another batch lies at {}", header.base_offset)),
                        None => wrong.push(format!("{partition}: nobody wrote the batch at {}", header.base_offset)),
                    }
                    at = header.last_offset() + 1;
                }
                if at < data.high_watermark {
                    next.push((partition, at));
                }
            }
            if next == places {
                wrong.push(format!("{next:?} cannot be read on"));
                break;
            }
            places = next;
        }
        for partition in partitions(&TOPICS) {
            let part = part_of(&partition);
            let must_end = part.end_at(at_ns);
            let Some(Found { start, end }) = found.get(&partition) else {
                if must_end > 0 {
                    wrong.push(format!("{partition} is gone: it ended at {must_end}"));
                }
                continue;
            };
            if *end < must_end {
                wrong.push(format!("{partition} ends at {end}: lost up to {must_end}"));
            }
            if part.starts.least_at(deleted_ns).is_some_and(|least| *start < least) {
                wrong.push(format!("{partition} starts at {start}: it had been deleted further"));
            }
            let trimmed = part.trims.iter().filter(|(_, acked_ns)| *acked_ns < at_ns).map(|(start, _)| *start).max();
            if trimmed.is_some_and(|trimmed| *start < trimmed) {
                wrong.push(format!("{partition} starts at {start}: it had been trimmed to {trimmed:?}"));
            }
            if part.starts.most_at(shown_ns).is_some_and(|most| *start > most) {
                wrong.push(format!("{partition} starts at {start}: too much was deleted"));
            }
        }
        Ok(found)
    }

    fn groups(&self, client: &mut Client, at_ns: u64, wrong: &mut Vec<String>) -> io::Result<()> {
        for group in GROUPS {
            for partition in partitions(&["plain"]) {
                let Some(commits) = self.known.commits.get(&(group.to_owned(), partition.clone())) else { continue };
                let least = commits.iter().filter(|c| c.acked_ns < at_ns).map(|c| c.offset).max().unwrap_or(-1);
                let most = commits.iter().filter(|c| c.sent_ns < at_ns).map(|c| c.offset).max().unwrap_or(-1);
                let has = client.committed(group, &partition)?;
                if has < least || has > most {
                    wrong.push(format!("{group} has committed {has} of {partition}: expected {least} to {most}"));
                }
            }
        }
        Ok(())
    }

    /// Each input before the stream's position has one output, none after it has.
    fn stream(
        &self,
        client: &mut Client,
        found: &BTreeMap<Partition, Found>,
        wrong: &mut Vec<String>,
    ) -> io::Result<()> {
        let mut has = [0i64; PARTITIONS as usize];
        let mut last = [-1i64; PARTITIONS as usize];
        for (partition, rows) in &self.outputs {
            let end = found.get(partition).map_or(0, |f| f.end);
            for (_, source, at) in rows.iter().take_while(|(offset, _, _)| *offset < end) {
                let source = usize::try_from(*source).unwrap();
                has[source] += 1;
                last[source] = last[source].max(*at);
            }
        }
        for (index, partition) in partitions(&["in"]).into_iter().enumerate() {
            let position = client.committed("split", &partition)?.max(0);
            if has[index] != position || last[index] >= position {
                let (count, last) = (has[index], last[index]);
                wrong.push(format!("split is at {position} of {partition}: {count} outputs, of inputs up to {last}"));
            }
        }
        Ok(())
    }

    fn mirror(
        &self,
        client: &mut Client,
        found: &BTreeMap<Partition, Found>,
        at_ns: u64,
        wrong: &mut Vec<String>,
    ) -> io::Result<()> {
        for (partition, ends) in &self.mirrored {
            let position = client.committed("mirror-central", partition)?;
            let Some(first) = ends.iter().position(|(_, begun_ns)| *begun_ns > at_ns) else { continue };
            // Looks are joined where they found the same: the first that began later tells an end that held by then.
            let most = ends[first].0;
            if position > most {
                wrong.push(format!("the mirror is at {position} of {partition}: its target had up to {most}"));
            }
            let end = found.get(partition).map_or(0, |f| f.end);
            if position > end {
                wrong.push(format!("the mirror is at {position} of {partition}, which ends at {end}"));
            }
        }
        Ok(())
    }

    /// Producers go on: idempotent ones repeat themselves first.
    fn go_on(
        &self,
        client: &mut Client,
        found: &BTreeMap<Partition, Found>,
        at_ns: u64,
        wrong: &mut Vec<String>,
    ) -> io::Result<()> {
        for partition in partitions(&["idem"]) {
            let (Some(part), Some(Found { end, .. })) = (self.known.parts.get(&partition), found.get(&partition))
            else {
                continue;
            };
            let there = part.sent.partition_point(|sent| sent.base < *end);
            let acked = part.sent.partition_point(|sent| sent.acked_ns < at_ns);
            let mut end = *end;
            for (index, sent) in
                part.sent.iter().enumerate().take(there.max(acked) + 2).skip(there.saturating_sub(REMEMBERED))
            {
                let answer = client.produce(&partition, &sent.batch)?;
                let expected = if index < there { sent.base } else { end };
                if answer != Ok(expected) {
                    wrong.push(format!(
                        "{partition}: the batch of {} was sent again and answered {answer:?} instead of {expected}",
                        sent.base
                    ));
                    break;
                }
                end = end.max(expected + sent.count);
            }
        }
        let mut builder = Builder::new();
        builder.push(1, None, Some(b"{\"n\":0,\"kind\":0}"), &[]).unwrap();
        let fresh: Bytes = builder.finish(Codec::None, Codec::None.default_level());
        for partition in partitions(&["plain", "loose", "in", "out.a"]) {
            let Some(Found { end, .. }) = found.get(&partition) else { continue };
            let answer = client.produce(&partition, &fresh)?;
            if answer != Ok(*end) {
                wrong.push(format!("{partition} ends at {end}: a new record was answered {answer:?}"));
            }
        }
        Ok(())
    }
}
