//! What a group knows of one member, and the words in which a member asks and is answered.

use std::sync::Arc;

use bytes::Bytes;

use super::Error;

/// Names one parked request; the caller's own number, never used twice.
pub(super) type Ticket = u64;

/// Milliseconds of uptime; only differences mean something.
pub(super) type Uptime = u64;

/// One way of assigning partitions that a member can follow, and what it tells the leader for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Its name, such as `range`.
    pub name: Arc<str>,
    /// Opaque to the broker: consumers, Streams and Connect put different things here.
    pub metadata: Bytes,
}

/// A request to join a group.
#[derive(Clone, Debug)]
pub struct Join {
    /// The id the member was given, or empty.
    pub member_id: String,
    /// Name of a static member (KIP-345).
    pub instance_id: Option<Arc<str>>,
    /// The client's own name, for people and for generated member ids.
    pub client_id: Arc<str>,
    /// Where it connects from, as `/address`.
    pub client_host: Arc<str>,
    /// Without a sign of life for so long the member is removed.
    pub session_timeout_ms: i32,
    /// How long a rebalance waits for the member to join again.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect` …; the same for all members.
    pub protocol_type: Arc<str>,
    /// In order of preference.
    pub protocols: Vec<Protocol>,
    /// The member must come back with the id it is told (KIP-394, from version 4 on).
    pub requires_known_member_id: bool,
    /// The client knows `skip_assignment` (KIP-814, from version 9 on).
    pub can_skip_assignment: bool,
}

/// The answer to a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The generation joined.
    pub generation: i32,
    /// The type of the group.
    pub protocol_type: Arc<str>,
    /// The protocol chosen.
    pub protocol: Arc<str>,
    /// Member id of the leader.
    pub leader: Arc<str>,
    /// The member's own id.
    pub member_id: Arc<str>,
    /// The leader need not assign: the assignment in force stays.
    pub skips_assignment: bool,
    /// All members, for the leader; empty for the others.
    pub members: Vec<JoinedMember>,
}

/// What the leader is told of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// The member's id.
    pub member_id: Arc<str>,
    /// Its name as a static member.
    pub instance_id: Option<Arc<str>>,
    /// What it said for the protocol chosen.
    pub metadata: Bytes,
}

/// The answer to a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The type of the group.
    pub protocol_type: Arc<str>,
    /// The protocol chosen.
    pub protocol: Arc<str>,
    /// The member's share; empty if the leader left it out.
    pub assignment: Bytes,
}

/// A request for one's share, with everybody's shares if it comes from the leader.
#[derive(Clone, Debug, Default)]
pub struct Sync {
    /// The member's id.
    pub member_id: String,
    /// Its name as a static member.
    pub instance_id: Option<Arc<str>>,
    /// The generation it joined.
    pub generation: i32,
    /// The type it believes in, if it says so (version 5).
    pub protocol_type: Option<String>,
    /// The protocol it believes in, if it says so (version 5).
    pub protocol: Option<String>,
    /// Member ids and their shares.
    pub assignments: Vec<(String, Bytes)>,
}

/// The answer to a request that could not always be answered at once.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Join(Ticket, Result<Joined, Error>),
    Sync(Ticket, Result<Synced, Error>),
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: Arc<str>,
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) client_id: Arc<str>,
    pub(super) client_host: Arc<str>,
    pub(super) session_timeout_ms: u64,
    pub(super) rebalance_timeout_ms: u64,
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    /// Its parked join; only while the group prepares a rebalance.
    pub(super) join: Option<Ticket>,
    /// Its parked sync; only while the group completes a rebalance.
    pub(super) sync: Option<Ticket>,
    /// It joined the current generation but has not asked for its share.
    pub(super) owes_sync: bool,
    /// It has not completed a join yet.
    pub(super) is_new: bool,
    /// The client has been told this id, so that it can come back with it.
    pub(super) knows_id: bool,
    /// When it is removed, unless it is parked.
    pub(super) session_ends: Uptime,
}

/// Longest time a member that never completed a join stays parked. Its client may not know its id yet, so nobody else
/// could end it; Kafka uses the same five minutes.
const NEW_MEMBER_LIMIT_MS: u64 = 5 * 60 * 1000;

impl Member {
    pub(super) fn new(id: Arc<str>, request: &Join, now: Uptime) -> Self {
        let mut member = Self {
            id,
            instance_id: request.instance_id.clone(),
            client_id: Arc::clone(&request.client_id),
            client_host: Arc::clone(&request.client_host),
            session_timeout_ms: 0,
            rebalance_timeout_ms: 0,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            join: None,
            sync: None,
            owes_sync: false,
            is_new: true,
            knows_id: !request.member_id.is_empty(),
            session_ends: 0,
        };
        member.update(request);
        member.session_ends = now + NEW_MEMBER_LIMIT_MS.max(member.session_timeout_ms);
        member
    }

    pub(super) fn update(&mut self, request: &Join) {
        self.session_timeout_ms = u64::try_from(request.session_timeout_ms).unwrap_or(0).max(1);
        self.rebalance_timeout_ms = u64::try_from(request.rebalance_timeout_ms).unwrap_or(0).max(1);
        self.protocols.clone_from(&request.protocols);
        self.client_id = Arc::clone(&request.client_id);
        self.client_host = Arc::clone(&request.client_host);
    }

    /// Notes a sign of life.
    pub(super) fn refresh(&mut self, now: Uptime) {
        self.session_ends = now + self.session_timeout_ms;
    }

    /// When the session ends; a parked member is alive as long as its request is.
    pub(super) fn expiry(&self) -> Option<Uptime> {
        let is_parked = self.sync.is_some() || (self.join.is_some() && !self.is_new);
        (!is_parked).then_some(self.session_ends)
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|p| &*p.name == protocol)
    }

    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|p| &*p.name == protocol).map(|p| p.metadata.clone()).unwrap_or_default()
    }

    /// Bytes that a client decided the size of.
    pub(super) fn size_bytes(&self) -> usize {
        let protocols: usize = self.protocols.iter().map(|p| p.name.len() + p.metadata.len() + 64).sum();
        self.id.len() + self.client_id.len() + protocols + self.assignment.len() + 256
    }
}
