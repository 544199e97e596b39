//! Cutting, stamping and sending batches, and what their answers mean.

use std::collections::{BTreeSet, HashMap};

use bytes::BytesMut;

use super::{
    super::{
        client,
        delivery::{Hold, Now, Stamp},
    },
    BLOCKED_MS, Event, FLUSH_MS, LaneId, Link,
    cutter::CutError,
    is_about_leader,
    lane::{Lane, Outcome},
};
use crate::{
    log,
    record::{Producer, batch},
    wire::{
        ErrorCode,
        produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData},
    },
};

/// Requests in flight on one connection; Kafka works on one at a time, the rest hides the round trip.
const REQUESTS: usize = 5;
/// Bytes in flight over all connections of a link.
const IN_FLIGHT_BYTES: usize = 2 << 20;
/// How long the target may keep an answer back while replicas are behind.
const PRODUCE_TIMEOUT_MS: i32 = 30_000;
/// What is read ahead for a partition is kept only while few partitions do so.
const READ_AHEAD_LANES: usize = 16;

impl Link {
    /// Cuts and sends for the lanes that may, several partitions in a request, as long as there is room.
    pub(super) async fn send(
        &mut self,
        senders: &BTreeSet<LaneId>,
        now: Now,
        deadline_ms: &mut u64,
    ) -> Result<(), log::Error> {
        let order = order(senders.iter().map(|id| (*id, self.lanes[id].is_first)), self.turns);
        let nodes: BTreeSet<i32> = order.iter().filter_map(|id| Some(self.lanes[id].leader?.0)).collect();
        let most_bytes = usize::try_from(self.config.max_request_size.as_u64()).unwrap_or(usize::MAX);
        for node_id in nodes {
            let lanes: Vec<LaneId> =
                order.iter().copied().filter(|id| self.lanes[id].leader.is_some_and(|(n, _)| n == node_id)).collect();
            loop {
                let has_room =
                    self.nodes.get(&node_id).is_some_and(|n| n.connection.is_some() && n.requests < REQUESTS);
                if !has_room || self.in_flight_bytes >= IN_FLIGHT_BYTES {
                    break;
                }
                let mut batches: Vec<(LaneId, BytesMut)> = Vec::new();
                let mut bytes = 0;
                for id in &lanes {
                    if bytes >= most_bytes {
                        break;
                    }
                    if let Some(batch) = self.next_batch(*id, most_bytes - bytes, bytes == 0, now, deadline_ms).await? {
                        bytes += batch.len();
                        batches.push((*id, batch));
                        self.turns[usize::from(self.lanes[id].is_first)] = *id + 1;
                    }
                }
                if batches.is_empty() {
                    break;
                }
                self.request(node_id, batches, bytes).await;
            }
        }
        Ok(())
    }

    /// The lane's next batch, stamped and in flight; `None` if it has none, must wait, or does not fit.
    pub(super) async fn next_batch(
        &mut self,
        id: LaneId,
        room: usize,
        is_first: bool,
        now: Now,
        deadline_ms: &mut u64,
    ) -> Result<Option<BytesMut>, log::Error> {
        let keep_buffer = self.lanes.len() <= READ_AHEAD_LANES;
        let Some(lane) = self.lanes.get_mut(&id) else { return Ok(None) };
        let Some(from) = lane.delivery.sendable(now) else { return Ok(None) };
        if lane.cut.as_ref().is_none_or(|c| c.first != from) {
            lane.cut = None;
            if !batch::Header::parse(&lane.buffer).is_ok_and(|h| (h.base_offset..=h.last_offset()).contains(&from)) {
                lane.buffer = bytes::Bytes::new();
            }
            let cut = self.cutter.cut(&self.log, &lane.source, &mut lane.buffer, from, lane.limit).await;
            if !keep_buffer {
                lane.buffer = bytes::Bytes::new();
            }
            match cut {
                Ok(cut) => lane.cut = cut,
                Err(CutError::Hole { next }) => {
                    lane.hole_end = next;
                    *deadline_ms = now.mono_ms;
                    return Ok(None);
                }
                Err(CutError::Log(log::Error::OutOfRange { .. } | log::Error::UnknownPartition(_))) => return Ok(None),
                Err(CutError::Log(error)) => return Err(error),
                Err(error @ CutError::Batch { .. }) => {
                    // Damaged or impossible: it stays here, and people are told; the other partitions go on.
                    tracing::error!(link = %self.name, partition = %lane.source, "cannot mirror: {error}");
                    lane.error = Some(error.to_string());
                    lane.hold_ms = now.mono_ms + BLOCKED_MS;
                    return Ok(None);
                }
            }
        }
        let Some(cut) = lane.cut.take() else { return Ok(None) };
        if cut.bytes.len() > room && !is_first {
            lane.cut = Some(cut);
            return Ok(None);
        }
        let Stamp { producer_id, epoch, sequence } = match lane.delivery.offer(cut.first, cut.end, cut.max_ts_ms, now) {
            Ok(stamp) => stamp,
            Err(hold) => {
                if let Hold::Until(until_ms) = hold {
                    lane.hold_ms = until_ms;
                    *deadline_ms = (*deadline_ms).min(until_ms);
                }
                lane.cut = (hold != Hold::Moved).then_some(cut);
                return Ok(None);
            }
        };
        let mut bytes = cut.bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let producer = Producer { id: producer_id, epoch, sequence };
        if let Err(error) = batch::restamp(&mut bytes, producer) {
            // Not sent: the machine must not wait for its answer.
            tracing::error!(link = %self.name, partition = %lane.source, offset = cut.first, "cannot mirror: {error}");
            lane.error = Some(format!("batch at offset {}: {error}", cut.first));
            let number = lane.sent();
            lane.answered(number, Outcome::Refused(BLOCKED_MS), now);
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    pub(super) async fn request(&mut self, node_id: i32, batches: Vec<(LaneId, BytesMut)>, bytes: usize) {
        let Some(node) = self.nodes.get_mut(&node_id) else { return };
        let Some(connection) = node.connection.clone() else { return };
        let mut topics: Vec<TopicProduceData> = Vec::new();
        let mut sent = Vec::with_capacity(batches.len());
        for (id, batch) in batches {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            sent.push((id, lane.sent()));
            let partition = PartitionProduceData { index: lane.source.index, records: Some(batch.freeze()) };
            match topics.iter_mut().find(|t| *t.name == *lane.target) {
                Some(topic) => topic.partition_data.push(partition),
                None => topics.push(TopicProduceData {
                    name: lane.target.to_string(),
                    topic_id: lane.target_topic,
                    partition_data: vec![partition],
                }),
            }
        }
        let request =
            ProduceRequest { transactional_id: None, acks: -1, timeout_ms: PRODUCE_TIMEOUT_MS, topic_data: topics };
        node.requests += 1;
        self.in_flight_bytes += bytes;
        let session = node.session;
        match connection.send(&request).await {
            Ok(answer) => {
                self.meters.sent_bytes.add(bytes as u64);
                self.tasks
                    .push(Box::pin(async move { Event::Produced(node_id, session, sent, bytes, answer.get().await) }));
            }
            Err(error) => {
                connection.close(&error.to_string());
                self.tasks.push(Box::pin(async move { Event::Produced(node_id, session, sent, bytes, Err(error)) }));
            }
        }
    }

    pub(super) fn produced(
        &mut self,
        node_id: i32,
        session: u64,
        sent: &[(LaneId, u64)],
        bytes: usize,
        result: Result<ProduceResponse, client::Error>,
        now: Now,
    ) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
        if let Some(node) = self.nodes.get_mut(&node_id)
            && node.session == session
        {
            node.requests = node.requests.saturating_sub(1);
        }
        // Without an answer the connection is closed, which is an event of its own.
        let Ok(response) = result else { return };
        let mut outcomes = HashMap::new();
        for topic in response.responses {
            for partition in topic.partition_responses {
                let place = (topic.name.clone(), topic.topic_id, partition.index);
                outcomes.insert(place, (partition.error_code, partition.base_offset, partition.error_message));
            }
        }
        for (id, number) in sent {
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            if lane.session != Some(session) {
                continue;
            }
            let by_name = (lane.target.to_string(), [0; 16], lane.source.index);
            let by_id = (String::new(), lane.target_topic, lane.source.index);
            let found = outcomes.get(&by_name).or_else(|| outcomes.get(&by_id));
            let outcome = match found {
                Some((ErrorCode::NONE, base_offset, _)) => Outcome::Stored(*base_offset),
                Some((code, _, message)) => {
                    self.look |= is_about_leader(*code);
                    refusal(&self.name, lane, *code, message.as_deref(), self.config.batch_size.as_u64())
                }
                None => Outcome::Refused(0),
            };
            let safe = lane.answered(*number, outcome, now);
            self.meters.acked_records.add(safe);
            if lane.dirty {
                self.write_ms.get_or_insert(now.mono_ms + FLUSH_MS);
            }
        }
        self.acked_bytes += bytes as u64;
    }
}

/// Alerts first, strictly: topics of `brooklet.priority` 0. Within each of the two, whoever came last begins next time, so
/// that none waits for ever when there is not room for all. `turns`: where to begin among the others and the first.
fn order(senders: impl Iterator<Item = (LaneId, bool)>, turns: [LaneId; 2]) -> Vec<LaneId> {
    let mut order: Vec<(LaneId, bool)> = senders.collect();
    order.sort_by_key(|(id, is_first)| (!is_first, *id < turns[usize::from(*is_first)], *id));
    order.into_iter().map(|(id, _)| id).collect()
}

/// What a refused batch means for its lane.
fn refusal(link: &str, lane: &mut Lane, code: ErrorCode, message: Option<&str>, batch_bytes: u64) -> Outcome {
    match code {
        // The leader is asked at once; that is all there is to do.
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
        | ErrorCode::INVALID_PRODUCER_EPOCH
        | ErrorCode::UNKNOWN_PRODUCER_ID
        | ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Outcome::Refused(0),
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE if lane.limit != Some(1) => {
            let was = lane.limit.unwrap_or_else(|| usize::try_from(batch_bytes).unwrap_or(usize::MAX));
            lane.limit = Some(if was <= 1 << 10 { 1 } else { was / 2 });
            tracing::info!(link, partition = %lane.source, limit = ?lane.limit, "batch too large for the target: splitting");
            Outcome::Refused(0)
        }
        code if code.is_retriable() => Outcome::Refused(0),
        code => {
            let offset = lane.delivery.acked();
            let why = message.map(|m| format!(": {m}")).unwrap_or_default();
            let text = format!("refused from offset {offset} on: {code}{why}");
            if lane.error.as_ref() != Some(&text) {
                tracing::error!(link, partition = %lane.source, "{text}");
            }
            lane.error = Some(text);
            Outcome::Refused(BLOCKED_MS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_go_first_and_everybody_gets_a_turn() {
        let senders = [(0, false), (1, true), (2, false), (3, false), (4, true)];
        assert_eq!(order(senders.into_iter(), [0, 0]), [1, 4, 0, 2, 3]);
        assert_eq!(order(senders.into_iter(), [3, 2]), [4, 1, 3, 0, 2]);
        assert_eq!(order(senders.into_iter(), [9, 5]), [1, 4, 0, 2, 3]);
    }
}
