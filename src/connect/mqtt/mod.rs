//! MQTT in: a client of any broker whose messages become records, acknowledged after the commit that holds them.
//!
//! # What is promised
//!
//! | QoS of the subscription | a message that the broker has for us arrives |
//! |---|---|
//! | 0 | at most once: the broker does not send it again |
//! | 1 | at least once |
//! | 2 | exactly once |
//!
//! whichever side is killed, and also what was published while we were away, as long as the broker keeps the session:
//! the client id never changes and is never shared, and the session outlives the connection (`clean_session = 0`; in
//! MQTT 5 for `session_expiry`).
//!
//! # QoS 2 at every point where we may be killed
//!
//! The broker calls a message by a packet identifier and calls another message the same only after PUBCOMP. We keep
//! the identifiers of recorded messages in the connector's positions. `->` is sent by us.
//!
//! | killed after | what is durable | the broker, when we are back | we |
//! |---|---|---|---|
//! | PUBLISH | nothing | sends it again | record it |
//! | commit of record and identifier, together | both | sends it again | recognise it, -> PUBREC |
//! | -> PUBREC | both | sends it again or PUBREL | recognise it, or see next line |
//! | PUBREL | both | sends PUBREL again | release the identifier, -> PUBCOMP |
//! | commit of the release | the record | sends PUBREL again | know it as released, -> PUBCOMP |
//! | -> PUBCOMP | the record | may use the identifier anew | find it free |
//!
//! So PUBCOMP must not leave before the release is durable, or a new message under an old identifier would be taken for
//! a repetition and lost. That is why rumqttc's event loop is not used: it answers PUBREL by itself at once, also with
//! manual acknowledgement, and after a reconnection it takes a repeated PUBREL for an error, for ever. What is used of
//! rumqttc are its packets and codecs for both versions.
//!
//! If the broker lost the session, the identifiers are removed, durably, before anything is subscribed to.
//!
//! # A broker that forgets
//!
//! A broker that is killed and comes back with an older state may send under an identifier we hold a message we do not
//! know. An identifier is therefore kept with a digest of its message: the same message is taken for a repetition,
//! another one is recorded. And it may send again what it had finished; nobody can tell that from a new message.
//!
//! Mosquitto 2.0.11 also sends a message anew, which the standard forbids, after PUBREL if two connections in a row
//! break there; so released identifiers are remembered for a while (see the session).
//!
//! One window stays open: a broker that lost the session, and a kill of ours between its answer and the removal of the
//! old identifiers, and then the same text under the same identifier, marked as repeated.
//!
//! # When the log is full
//!
//! Nothing is acknowledged; the connection ends and is tried again, and the broker keeps the messages. A message the
//! log will never take (too large) goes to the topic of dead letters without its payload, so that it does not stop
//! those behind it.

mod config;
mod connection;
mod link;
mod packet;
mod record;
mod session;
mod source;
mod topic;

pub use config::{Config, EmptyPayload, Map, Protocol};
pub use source::MqttSource;
