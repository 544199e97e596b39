//! A Kafka client on [`crate::wire`]: finds brokers, keeps one connection to each, routes a request to the broker that
//! answers it.
//!
//! The mirror and the command line share it; it speaks to any Kafka. Never retries by itself and never interprets an
//! error code within a response: who asks knows what a repetition means.

mod connection;
mod sasl;
mod security;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use connection::{Answer, Connection};
pub use security::{Mechanism, Protocol, Sasl, Security};
pub use tls::{Tls, TlsFiles};
use tokio::sync::Mutex;

use crate::wire::{
    self, ErrorCode, Request,
    find_coordinator::FindCoordinatorRequest,
    metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse},
};

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Host name or address; an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// Reads `HOST:PORT` or `[V6]:PORT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not HOST:PORT");
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        if host.is_empty() || (bare.is_none() && host.contains(':')) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| wrong())? })
    }
}

/// Why a call failed. Errors that Kafka puts into a response are not among them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No connection came about.
    #[error("cannot connect to {endpoint}: {reason}")]
    Connect {
        /// The broker.
        endpoint: Endpoint,
        /// Why.
        reason: String,
    },
    /// The TLS handshake or its files failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The broker refused the sign-in.
    #[error("sign-in failed: {0}")]
    SignIn(String),
    /// The connection ended before the answer.
    #[error("connection to {endpoint} closed: {reason}")]
    Closed {
        /// The broker.
        endpoint: Endpoint,
        /// Why.
        reason: String,
    },
    /// No answer within the time.
    #[error("no answer from {endpoint} to {api} within {limit:?}")]
    Timeout {
        /// The broker.
        endpoint: Endpoint,
        /// What was asked.
        api: &'static str,
        /// The time.
        limit: Duration,
    },
    /// The answer is not what it should be.
    #[error("answer to {api}: {error}")]
    Wire {
        /// What was asked.
        api: &'static str,
        /// What is wrong.
        error: wire::Error,
    },
    /// The broker speaks no version of this API that we speak.
    #[error("the broker does not support {0}")]
    Unsupported(&'static str),
    /// The metadata names no such leader, coordinator or broker.
    #[error("{0}")]
    NoBroker(String),
    /// Kafka's own error while looking for the broker to ask.
    #[error("{what}: {code}")]
    Kafka {
        /// What was looked for.
        what: String,
        /// Kafka's code.
        code: ErrorCode,
    },
}

impl Error {
    /// True if asking again soon is pointless: credentials or certificates must change first.
    pub fn is_security(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::SignIn(_))
    }
}

/// How a client behaves. `Default` suits a command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Named in every request; brokers log it and set quotas by it.
    pub client_id: String,
    /// Longest wait for a connection with its sign-in.
    pub connect_timeout: Duration,
    /// Longest wait for an answer; beyond it the connection is closed.
    pub request_timeout: Duration,
    /// Largest answer taken, in bytes.
    pub max_response_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            client_id: format!("brooklet/{}", env!("CARGO_PKG_VERSION")),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(40),
            max_response_bytes: 64 << 20,
        }
    }
}

/// One cluster. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bootstrap: Vec<Endpoint>,
    security: Security,
    options: Options,
    turn: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    any: Option<Connection>,
    by_node: HashMap<i32, Connection>,
    brokers: BTreeMap<i32, Endpoint>,
    controller: i32,
}

impl Client {
    /// A client that begins at one of `bootstrap`. Connects on first use.
    pub fn new(bootstrap: Vec<Endpoint>, security: Security, options: Options) -> Self {
        let state = Mutex::new(State { controller: -1, ..State::default() });
        Self(Arc::new(Inner { bootstrap, security, options, turn: AtomicUsize::new(0), state }))
    }

    /// A connection to any broker: a known one, else the first bootstrap server that answers.
    pub async fn any(&self) -> Result<Connection, Error> {
        let mut state = self.0.state.lock().await;
        if let Some(open) = state.any.iter().chain(state.by_node.values()).find(|c| !c.is_closed()) {
            return Ok(open.clone());
        }
        let known = state.brokers.values().filter(|b| !self.0.bootstrap.contains(b)).cloned();
        let all: Vec<Endpoint> = self.0.bootstrap.iter().cloned().chain(known).collect();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let mut failure = Error::NoBroker("no bootstrap server given".into());
        for i in 0..all.len() {
            match self.connect(&all[(turn + i) % all.len()]).await {
                Ok(connection) => {
                    state.any = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The connection to one broker by its id, as the last metadata named it.
    pub async fn broker(&self, node_id: i32) -> Result<Connection, Error> {
        let mut state = self.0.state.lock().await;
        if let Some(open) = state.by_node.get(&node_id).filter(|c| !c.is_closed()) {
            return Ok(open.clone());
        }
        let endpoint = state.brokers.get(&node_id).cloned();
        let endpoint = endpoint.ok_or_else(|| Error::NoBroker(format!("broker {node_id} is not known")))?;
        // The bootstrap connection serves as well if it is to that very broker.
        let reuse = state.any.as_ref().filter(|c| !c.is_closed() && *c.endpoint() == endpoint).cloned();
        let connection = match reuse {
            Some(connection) => connection,
            None => self.connect(&endpoint).await?,
        };
        state.by_node.insert(node_id, connection.clone());
        Ok(connection)
    }

    /// Asks for brokers and topics (`None`: all topics) and remembers the brokers. Creates no topic.
    pub async fn metadata(&self, topics: Option<&[String]>) -> Result<MetadataResponse, Error> {
        let connection = self.any().await?;
        let version = connection.version::<MetadataRequest>()?;
        let wanted = |t: &String| MetadataRequestTopic { name: Some(t.clone()), ..MetadataRequestTopic::default() };
        let mut topics = topics.map(|t| t.iter().map(wanted).collect::<Vec<_>>());
        if version == 0 {
            topics.get_or_insert_default();
        }
        let request = MetadataRequest { topics, allow_auto_topic_creation: false, ..MetadataRequest::default() };
        let response = connection.call(&request).await?;
        let mut state = self.0.state.lock().await;
        let endpoint = |b: &wire::metadata::MetadataResponseBroker| {
            Some((b.node_id, Endpoint { host: b.host.clone(), port: u16::try_from(b.port).ok()? }))
        };
        state.brokers = response.brokers.iter().filter_map(endpoint).collect();
        state.controller = response.controller_id;
        let State { by_node, brokers, .. } = &mut *state;
        by_node.retain(|node, c| !c.is_closed() && brokers.get(node) == Some(c.endpoint()));
        Ok(response)
    }

    /// The connection to the leader of a partition, by fresh metadata.
    pub async fn leader(&self, topic: &str, partition: i32) -> Result<Connection, Error> {
        let metadata = self.metadata(Some(&[topic.to_owned()])).await?;
        let found = metadata.topics.iter().find(|t| t.name.as_deref() == Some(topic));
        let found = found.ok_or_else(|| Error::NoBroker(format!("topic '{topic}' is not in the metadata")))?;
        if found.error_code.is_error() {
            return Err(Error::Kafka { what: format!("topic '{topic}'"), code: found.error_code });
        }
        let leader = found.partitions.iter().find(|p| p.partition_index == partition).map(|p| p.leader_id);
        match leader {
            Some(leader) if leader >= 0 => self.broker(leader).await,
            Some(_) => Err(Error::NoBroker(format!("partition {topic}-{partition} has no leader"))),
            None => Err(Error::NoBroker(format!("topic '{topic}' has no partition {partition}"))),
        }
    }

    /// The connection to a group's coordinator.
    pub async fn coordinator(&self, group: &str) -> Result<Connection, Error> {
        let connection = self.any().await?;
        let version = connection.version::<FindCoordinatorRequest>()?;
        let request = if version >= 4 {
            FindCoordinatorRequest { coordinator_keys: vec![group.to_owned()], ..Default::default() }
        } else {
            FindCoordinatorRequest { key: group.to_owned(), ..Default::default() }
        };
        let mut response = connection.call(&request).await?;
        let (code, node, host, port) = match response.coordinators.pop() {
            Some(c) => (c.error_code, c.node_id, c.host, c.port),
            None => (response.error_code, response.node_id, response.host, response.port),
        };
        if code.is_error() {
            return Err(Error::Kafka { what: format!("coordinator of group '{group}'"), code });
        }
        let port = u16::try_from(port).map_err(|_| Error::NoBroker(format!("coordinator at port {port}")))?;
        self.0.state.lock().await.brokers.insert(node, Endpoint { host, port });
        self.broker(node).await
    }

    /// The connection to the controller, which creates and deletes topics; any broker where none is named.
    pub async fn controller(&self) -> Result<Connection, Error> {
        self.metadata(Some(&[])).await?;
        let controller = self.0.state.lock().await.controller;
        if controller >= 0 { self.broker(controller).await } else { self.any().await }
    }

    /// Asks any broker.
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Response, Error> {
        self.any().await?.call(request).await
    }

    /// Asks the leader of a partition.
    pub async fn call_leader<R: Request>(
        &self,
        topic: &str,
        partition: i32,
        request: &R,
    ) -> Result<R::Response, Error> {
        self.leader(topic, partition).await?.call(request).await
    }

    /// Asks the coordinator of a group.
    pub async fn call_coordinator<R: Request>(&self, group: &str, request: &R) -> Result<R::Response, Error> {
        self.coordinator(group).await?.call(request).await
    }

    /// Asks the controller.
    pub async fn call_controller<R: Request>(&self, request: &R) -> Result<R::Response, Error> {
        self.controller().await?.call(request).await
    }

    /// Closes all connections; the next call opens new ones.
    pub async fn close(&self) {
        let mut state = self.0.state.lock().await;
        state.any.take().into_iter().chain(state.by_node.drain().map(|(_, c)| c)).for_each(|c| c.close("closed by us"));
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Connection, Error> {
        Connection::open(endpoint, &self.0.security, &self.0.options).await
    }
}
