//! Fetch sessions (KIP-227): what one connection reads, remembered, so that a wide consumer sends and gets what changes.
//!
//! A connection has one session at most, and it ends with it: clients begin anew after a reconnect, because they cannot
//! know whether their last request came through. All sessions share a little memory; who gets none goes on with whole
//! requests, as the protocol allows. Never holds records, and never waits.
//!
//! Invariant: a session's epoch counts the requests that were taken, so a request that is repeated or lost is noticed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::wire::{
    ErrorCode, Uuid,
    fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData},
};

/// What all sessions may take: a thousand clients of three partitions, or one of thousands.
pub(super) const ALL_BYTES: usize = 512 << 10;
/// What one partition takes, about, but for its topic's name.
const PARTITION_BYTES: usize = size_of::<(Key, Part)>() + 32;
/// The epoch of a request that begins a session.
const FIRST: i32 = 0;
/// The epoch of a request that wants none.
const NONE: i32 = -1;

/// A topic by name, or from version 13 on by id, and a partition.
type Key = (String, Uuid, i32);

/// One partition of a session.
struct Part {
    asked: FetchPartition,
    /// What was last answered; -1 after an error, so that its end is told.
    high_watermark: i64,
    start: i64,
}

struct Session {
    id: i32,
    /// Of the next request.
    epoch: i32,
    by_id: bool,
    parts: BTreeMap<Key, Part>,
    room: OwnedSemaphorePermit,
}

/// The session of one connection.
#[derive(Default)]
pub(super) struct FetchSession(Mutex<Option<Session>>);

/// How a request is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whole; with a session from now on if it has an id.
    Full(i32),
    /// What has changed.
    Incremental(i32),
}

impl FetchSession {
    /// Takes a request in; an incremental one becomes whole by what the session knows.
    ///
    /// # Errors
    /// Kafka's, upon which clients begin a new session.
    pub(super) fn begin(
        &self,
        request: &mut FetchRequest,
        version: i16,
        room: &Arc<Semaphore>,
    ) -> Result<Kind, ErrorCode> {
        let mut held = self.lock();
        let by_id = version >= 13;
        if let FIRST | NONE = request.session_epoch {
            // Whether it closes its session or begins another, the one before has ended.
            *held = None;
            if request.session_epoch == FIRST && version >= 7 {
                *held = Session::new(request, by_id, room);
            }
            return Ok(Kind::Full(held.as_ref().map_or(0, |session| session.id)));
        }
        let session = held.as_mut().filter(|session| session.id == request.session_id);
        let session = session.ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.epoch != request.session_epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        session.epoch = if session.epoch == i32::MAX { 1 } else { session.epoch + 1 };
        let id = session.id;
        let is_whole = session.update(request, room);
        request.topics = session.topics();
        if is_whole && !session.parts.is_empty() {
            return Ok(Kind::Incremental(id));
        }
        // It has outgrown its room, or nothing is left of it: answered whole, and without a session from here on.
        *held = None;
        Ok(Kind::Full(0))
    }

    /// Puts the session into an answer, and leaves out of an incremental one what the client knows.
    pub(super) fn end(&self, kind: Kind, response: &mut FetchResponse) {
        let (id, is_incremental) = match kind {
            Kind::Full(id) => (id, false),
            Kind::Incremental(id) => (id, true),
        };
        response.session_id = id;
        let mut held = self.lock();
        let Some(session) = held.as_mut().filter(|session| session.id == id) else { return };
        for topic in &mut response.responses {
            let mut key: Key = (std::mem::take(&mut topic.topic), topic.topic_id, 0);
            topic.partitions.retain(|answer| {
                key.2 = answer.partition_index;
                let is_news = session.parts.get_mut(&key).is_none_or(|part| part.is_news(answer));
                is_news || !is_incremental
            });
            topic.topic = key.0;
        }
        response.responses.retain(|topic| !topic.partitions.is_empty() || !is_incremental);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// A session of what a whole request asks for; `None` if there is no room, or nothing to remember.
    fn new(request: &FetchRequest, by_id: bool, room: &Arc<Semaphore>) -> Option<Self> {
        let mut id = [0; 4];
        let filled = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
        // 0 says that there is none.
        let id = (i32::from_ne_bytes(id) & i32::MAX).max(1);
        let held = Arc::clone(room).try_acquire_many_owned(0).ok()?;
        let mut session = Self { id, epoch: 1, by_id, parts: BTreeMap::new(), room: held };
        let is_whole = filled.is_ok() && session.add(&request.topics, room);
        (is_whole && !session.parts.is_empty()).then_some(session)
    }

    /// Adds, changes and forgets partitions; false if there is no room for them.
    fn update(&mut self, request: &FetchRequest, room: &Arc<Semaphore>) -> bool {
        let is_whole = self.add(&request.topics, room);
        for topic in &request.forgotten_topics_data {
            let mut key: Key = (topic.topic.clone(), topic.topic_id, 0);
            for index in &topic.partitions {
                key.2 = *index;
                if self.parts.remove(&key).is_some() {
                    drop(self.room.split(bytes_of(&key)));
                }
            }
        }
        is_whole
    }

    fn add(&mut self, topics: &[FetchTopic], room: &Arc<Semaphore>) -> bool {
        let mut is_whole = true;
        for topic in topics {
            for asked in &topic.partitions {
                let key: Key = (topic.topic.clone(), topic.topic_id, asked.partition);
                if let Some(part) = self.parts.get_mut(&key) {
                    part.asked = asked.clone();
                    continue;
                }
                let bytes = u32::try_from(bytes_of(&key)).unwrap_or(u32::MAX);
                match Arc::clone(room).try_acquire_many_owned(bytes) {
                    Ok(more) => self.room.merge(more),
                    // Kept for this one answer; the session ends with it.
                    Err(_) => is_whole = false,
                }
                self.parts.insert(key, Part { asked: asked.clone(), high_watermark: -1, start: -1 });
            }
        }
        is_whole
    }

    /// All of it as a whole request would say it.
    fn topics(&self) -> Vec<FetchTopic> {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for ((topic, topic_id, _), part) in &self.parts {
            match topics.last_mut() {
                Some(last) if last.topic == *topic && last.topic_id == *topic_id => {
                    last.partitions.push(part.asked.clone());
                }
                _ => topics.push(FetchTopic {
                    topic: topic.clone(),
                    topic_id: *topic_id,
                    partitions: vec![part.asked.clone()],
                }),
            }
        }
        topics
    }
}

impl Part {
    /// Whether an answer tells the client something; what it tells is known from here on.
    fn is_news(&mut self, answer: &PartitionData) -> bool {
        let has_error = answer.error_code.is_error();
        let high_watermark = if has_error { -1 } else { answer.high_watermark };
        let is_changed = (self.high_watermark, self.start) != (high_watermark, answer.log_start_offset);
        (self.high_watermark, self.start) = (high_watermark, answer.log_start_offset);
        is_changed || has_error || !answer.records.is_empty()
    }
}

fn bytes_of((topic, ..): &Key) -> usize {
    PARTITION_BYTES + topic.len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::fetch::{FetchableTopicResponse, ForgottenTopic};

    fn request(session_id: i32, session_epoch: i32, parts: &[(&str, i32, i64)]) -> FetchRequest {
        let topics = parts.iter().map(|(topic, partition, fetch_offset)| FetchTopic {
            topic: (*topic).into(),
            partitions: vec![FetchPartition {
                partition: *partition,
                fetch_offset: *fetch_offset,
                ..FetchPartition::default()
            }],
            ..FetchTopic::default()
        });
        FetchRequest { session_id, session_epoch, topics: topics.collect(), ..FetchRequest::default() }
    }

    fn asked(request: &FetchRequest) -> Vec<(&str, i32, i64)> {
        let parts = |topic: &FetchTopic| topic.partitions.clone();
        let of = |topic| parts(topic).into_iter().map(|p| (topic.topic.as_str(), p.partition, p.fetch_offset));
        request.topics.iter().flat_map(of).collect()
    }

    fn answer(parts: &[(&str, i32, i64, &'static [u8])]) -> FetchResponse {
        let responses = parts.iter().map(|(topic, partition_index, high_watermark, records)| FetchableTopicResponse {
            topic: (*topic).into(),
            partitions: vec![PartitionData {
                partition_index: *partition_index,
                high_watermark: *high_watermark,
                records: Bytes::from_static(records),
                ..PartitionData::default()
            }],
            ..FetchableTopicResponse::default()
        });
        FetchResponse { responses: responses.collect(), ..FetchResponse::default() }
    }

    fn told(response: &FetchResponse) -> Vec<(&str, i32)> {
        let of = |t: &'_ FetchableTopicResponse| t.partitions.iter().map(|p| p.partition_index).collect::<Vec<_>>();
        response.responses.iter().flat_map(|t| of(t).into_iter().map(|p| (t.topic.as_str(), p))).collect()
    }

    fn room() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(ALL_BYTES))
    }

    #[test]
    fn a_session_asks_and_tells_what_changes() {
        let (session, room) = (FetchSession::default(), room());
        let mut first = request(0, 0, &[("a", 0, 5), ("b", 1, 7)]);
        let Ok(Kind::Full(id)) = session.begin(&mut first, 12, &room) else { panic!() };
        assert!(id > 0);
        let mut response = answer(&[("a", 0, 5, b""), ("b", 1, 7, b"")]);
        session.end(Kind::Full(id), &mut response);
        assert_eq!((response.session_id, told(&response)), (id, vec![("a", 0), ("b", 1)]), "the first is whole");

        let mut next = request(id, 1, &[("b", 1, 8)]);
        assert_eq!(session.begin(&mut next, 12, &room), Ok(Kind::Incremental(id)));
        assert_eq!(asked(&next), [("a", 0, 5), ("b", 1, 8)]);
        let mut response = answer(&[("a", 0, 5, b""), ("b", 1, 8, b"")]);
        session.end(Kind::Incremental(id), &mut response);
        assert_eq!(told(&response), [("b", 1)], "its high watermark moved");

        let mut next = request(id, 2, &[("c", 0, 0)]);
        next.forgotten_topics_data =
            vec![ForgottenTopic { topic: "b".into(), partitions: vec![1], ..Default::default() }];
        assert_eq!(session.begin(&mut next, 12, &room), Ok(Kind::Incremental(id)));
        assert_eq!(asked(&next), [("a", 0, 5), ("c", 0, 0)]);
        let mut response = answer(&[("a", 0, 5, b"x"), ("c", 0, 0, b"")]);
        response.responses[1].partitions[0].error_code = ErrorCode::OFFSET_OUT_OF_RANGE;
        session.end(Kind::Incremental(id), &mut response);
        assert_eq!(told(&response), [("a", 0), ("c", 0)], "records and errors are always told");
        let mut next = request(id, 3, &[]);
        assert_eq!(session.begin(&mut next, 12, &room), Ok(Kind::Incremental(id)));
        let mut response = answer(&[("a", 0, 5, b""), ("c", 0, 0, b"")]);
        session.end(Kind::Incremental(id), &mut response);
        assert_eq!(told(&response), [("c", 0)], "that the error has ended");
    }

    #[test]
    fn who_lost_count_begins_anew() {
        let (session, room) = (FetchSession::default(), room());
        let Ok(Kind::Full(id)) = session.begin(&mut request(0, 0, &[("a", 0, 0)]), 12, &room) else { panic!() };
        let begin = |id, epoch, version| session.begin(&mut request(id, epoch, &[]), version, &room);
        assert_eq!(begin(id, 2, 12), Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH));
        assert_eq!(begin(id, 1, 13), Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR));
        assert_eq!(begin(id.wrapping_add(1), 1, 12), Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND));
        assert_eq!(begin(id, 1, 12), Ok(Kind::Incremental(id)));
        assert_eq!(begin(id, -1, 12), Ok(Kind::Full(0)), "the end of it");
        assert_eq!(begin(id, 2, 12), Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND));
        assert_eq!(room.available_permits(), ALL_BYTES);
    }

    #[test]
    fn without_room_there_is_no_session_and_nothing_is_left_out() {
        let room = Arc::new(Semaphore::new(2 * PARTITION_BYTES + 2));
        let session = FetchSession::default();
        let three = [("a", 0, 0), ("a", 1, 0), ("a", 2, 0)];
        assert_eq!(session.begin(&mut request(0, 0, &three), 12, &room), Ok(Kind::Full(0)));
        assert_eq!(room.available_permits(), 2 * PARTITION_BYTES + 2, "given back");
        let Ok(Kind::Full(id)) = session.begin(&mut request(0, 0, &three[..2]), 12, &room) else { panic!() };
        let mut next = request(id, 1, &three[2..]);
        assert_eq!(session.begin(&mut next, 12, &room), Ok(Kind::Full(0)), "answered whole, then it ends");
        assert_eq!(asked(&next), three);
        assert_eq!(room.available_permits(), 2 * PARTITION_BYTES + 2);
    }

    #[test]
    fn what_is_forgotten_gives_its_room_back() {
        let (session, room) = (FetchSession::default(), room());
        let Ok(Kind::Full(id)) = session.begin(&mut request(0, 0, &[("a", 0, 0), ("a", 1, 0)]), 12, &room) else {
            panic!()
        };
        let taken = ALL_BYTES - room.available_permits();
        let mut next = request(id, 1, &[]);
        next.forgotten_topics_data =
            vec![ForgottenTopic { topic: "a".into(), partitions: vec![1], ..Default::default() }];
        session.begin(&mut next, 12, &room).unwrap();
        assert_eq!(ALL_BYTES - room.available_permits(), taken / 2);
    }
}
