//! One connection to a broker, from CONNECT to its end: reads, commits, acknowledges, pings.
//!
//! Never acknowledges anything the log has not answered for, and never returns while a commit is under way. What is
//! read but not durable is bounded; beyond that the socket is left alone and the broker waits.

use std::{future::Future, pin::Pin, pin::pin, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    config::{Address, Protocol},
    link::{self, Stream},
    packet::{ConnAck, Connect, Decoder, Encoder, Inbound, PacketError, Publish, Subscription},
    session::{self, Identity, Session, Taken},
    source::Plan,
};
use crate::{
    connect::{Intake, IntakeError, SourceRecord},
    log::{self, Urgency},
};

/// Longest wait for a connection and for the answer to CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for the last acknowledgements to leave when stopping.
const FAREWELL: Duration = Duration::from_millis(500);
/// Room made for each read; small, because an idle connection keeps it.
const READ_BYTES: usize = 8 << 10;
/// A read buffer larger than this is given back when it is empty.
const KEPT_BUFFER_BYTES: usize = 32 << 10;
/// Messages the log refused for good that are remembered until they come again.
const MOST_REFUSED: usize = 64;
/// So many records one by one, and the refused one does not come again.
const CAREFUL_RECORDS: usize = 1000;

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// We were told to stop.
    Stopped,
    /// The network or the broker; one line for people.
    Lost(String),
    /// The log did not take a commit.
    NotCommitted(IntakeError),
}

impl From<PacketError> for End {
    fn from(error: PacketError) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Messages the log will never take. They must not come back for ever: after a refusal the next connection commits one
/// record at a time, and the one that is refused then goes to the dead letters.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Records still to be committed one at a time.
    careful_left: usize,
    /// The message that a careful connection is committing.
    under_way: Option<u64>,
    /// The log refused them.
    refused: Vec<u64>,
}

impl Suspects {
    fn note(&mut self, error: &IntakeError) {
        if !is_refusal(error) {
            return;
        }
        if let Some(digest) = self.under_way {
            if self.refused.len() >= MOST_REFUSED {
                self.refused.remove(0);
            }
            self.refused.push(digest);
        }
        self.careful_left = CAREFUL_RECORDS;
    }
}

/// True if the log will not take this write however often it is tried.
fn is_refusal(error: &IntakeError) -> bool {
    matches!(
        error,
        IntakeError::Record(..)
            | IntakeError::Log(log::Error::TooLarge(_) | log::Error::InvalidTopic { .. } | log::Error::Corrupt(_))
    )
}

type Flying = Pin<Box<dyn Future<Output = Result<(), IntakeError>> + Send>>;

/// Runs one connection to its end.
pub(super) async fn run(
    plan: &Plan,
    address: &Address,
    identity: Identity,
    intake: &Intake,
    suspects: &mut Suspects,
    stop: &CancellationToken,
) -> End {
    let opened = tokio::select! {
        () = stop.cancelled() => return End::Stopped,
        opened = timeout(CONNECT_TIMEOUT, open(plan, address)) => opened,
    };
    let (stream, inbound, ack) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(reason)) => return End::Lost(reason),
        Err(_) => return End::Lost(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
    };
    let most_bytes = max_packet_bytes(plan).max(1 << 20);
    let positions = match intake.positions(&identity.packet_ids()) {
        Ok(positions) => positions,
        Err(error) => return End::NotCommitted(error),
    };
    suspects.under_way = None;
    let mut session = Session::new(identity, &positions, most_bytes, suspects.careful_left > 0);
    if !ack.is_session_present && session.held() > 0 {
        let forgotten = session.forget();
        tracing::info!(broker = %address, packets = forgotten.len(), "the broker has no session of ours; its QoS 2 state is forgotten");
        if let Err(error) = intake.commit(Vec::new(), forgotten, Urgency::Waited).await {
            return End::NotCommitted(error);
        }
    }
    tracing::info!(broker = %address, client_id = plan.client_id, session_present = ack.is_session_present, "MQTT connected");
    let (reader, writer) = tokio::io::split(stream);
    let mut connection = Connection {
        plan,
        address,
        identity,
        intake,
        suspects,
        session,
        commits: FuturesOrdered::new(),
        reader,
        writer,
        inbound,
        outbound: BytesMut::new(),
        decoder: Decoder::new(plan.config.protocol, max_packet_bytes(plan)),
        encoder: Encoder(plan.config.protocol),
        subscribing: Vec::new(),
        granted: 0,
        rows: Vec::new(),
        to_save: None,
    };
    let end = match connection.subscribe(&ack) {
        Ok(()) => connection.serve(&ack, stop).await,
        Err(end) => end,
    };
    connection.finish(&end).await;
    if let End::NotCommitted(error) = &end {
        connection.suspects.note(error);
    }
    end
}

/// Opens the way and signs in.
async fn open(plan: &Plan, address: &Address) -> Result<(Box<dyn Stream>, BytesMut, ConnAck), String> {
    let config = &plan.config;
    let mut stream = link::connect(address, config).await?;
    let connect = Connect {
        client_id: plan.client_id.clone(),
        username: config.username.clone(),
        password: link::password(config)?,
        keep_alive_s: u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX),
        session_expiry_s: u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX),
        receive_maximum: config.receive_maximum,
        max_packet_bytes: u32::try_from(max_packet_bytes(plan)).unwrap_or(u32::MAX),
    };
    let mut buffer = BytesMut::new();
    Encoder(config.protocol).connect(&connect, &mut buffer).map_err(|e| e.to_string())?;
    stream.write_all_buf(&mut buffer).await.map_err(|e| e.to_string())?;
    let mut decoder = Decoder::new(config.protocol, 64 << 10);
    loop {
        buffer.reserve(1024);
        if stream.read_buf(&mut buffer).await.map_err(|e| e.to_string())? == 0 {
            return Err("the broker closed the connection instead of answering".to_owned());
        }
        match decoder.next(&mut buffer).map_err(|e| e.to_string())? {
            None => {}
            Some(Inbound::ConnAck(ConnAck { refused: Some(reason), .. })) => return Err(format!("refused: {reason}")),
            Some(Inbound::ConnAck(ack)) => return Ok((stream, buffer, ack)),
            Some(_) => return Err("the broker sent something else before its answer".to_owned()),
        }
    }
}

fn max_packet_bytes(plan: &Plan) -> usize {
    usize::try_from(plan.config.max_packet_bytes.as_u64()).unwrap_or(usize::MAX)
}

struct Connection<'a> {
    plan: &'a Plan,
    address: &'a Address,
    identity: Identity,
    intake: &'a Intake,
    suspects: &'a mut Suspects,
    session: Session,
    /// In the order in which they were begun, which is the order in which they become durable.
    commits: FuturesOrdered<Flying>,
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    inbound: BytesMut,
    outbound: BytesMut,
    decoder: Decoder,
    encoder: Encoder,
    /// Subscriptions that were not answered yet.
    subscribing: Vec<(u16, Subscription)>,
    granted: usize,
    /// Rows of the map that were subscribed to with an identifier.
    rows: Vec<usize>,
    /// The filters to remember once they are granted, if they changed.
    to_save: Option<Bytes>,
}

impl Connection<'_> {
    /// Writes SUBSCRIBE for every filter, also when the broker kept the session: a broker that was killed may have
    /// kept the session and lost a subscription, and that would be silence for ever.
    fn subscribe(&mut self, ack: &ConnAck) -> Result<(), End> {
        let wanted = self.plan.mapper.routes.subscriptions();
        let has_ids = self.plan.config.protocol == Protocol::V5 && ack.has_subscription_ids;
        let mut packet_id = 0u16;
        for (row, subscription) in &wanted {
            packet_id += 1;
            let mut subscription = subscription.clone();
            subscription.qos = subscription.qos.min(ack.greatest_qos);
            self.encoder.subscribe(packet_id, &subscription, has_ids.then_some(row + 1), &mut self.outbound)?;
            self.subscribing.push((packet_id, subscription));
        }
        let saved = self.intake.positions(&self.identity.subscriptions()).map_err(End::NotCommitted)?;
        let saved = saved.into_iter().next().map(|(_, value)| value).unwrap_or_default();
        let filters: Bytes = wanted.iter().map(|(_, s)| s.filter.as_str()).collect::<Vec<_>>().join("\n").into();
        if ack.is_session_present {
            for filter in std::str::from_utf8(&saved).unwrap_or_default().lines() {
                if !wanted.iter().any(|(_, s)| s.filter == filter) {
                    packet_id += 1;
                    self.encoder.unsubscribe(packet_id, filter, &mut self.outbound)?;
                }
            }
        }
        if has_ids {
            self.rows = wanted.iter().map(|(row, _)| *row).collect();
        }
        self.to_save = (saved != filters).then_some(filters);
        Ok(())
    }

    /// Reads, commits and acknowledges until something ends it.
    async fn serve(&mut self, ack: &ConnAck, stop: &CancellationToken) -> End {
        let keep_alive = ack.keep_alive_s.map_or(self.plan.config.keep_alive, |s| Duration::from_secs(s.into()));
        // Zero is a broker that does not want pings; we want to know whether it is there.
        let keep_alive = if keep_alive.is_zero() { Duration::from_secs(60) } else { keep_alive };
        let ping_every = keep_alive.mul_f64(0.75);
        let mut timer = pin!(sleep_until(Instant::now() + ping_every));
        let mut is_heard = true;
        loop {
            if let Err(end) = self.take_packets() {
                return end;
            }
            self.begin_commits();
            for ack in self.session.ready() {
                if let Err(error) = self.encoder.ack(ack, &mut self.outbound) {
                    return error.into();
                }
            }
            let may_read = self.may_read();
            if may_read {
                self.make_room();
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                Some(result) = self.commits.next(), if !self.commits.is_empty() => match result {
                    Ok(()) => self.note_durable(),
                    Err(error) => return End::NotCommitted(error),
                },
                result = self.writer.write(&self.outbound), if !self.outbound.is_empty() => match result {
                    Ok(0) => return End::Lost("the connection was closed".to_owned()),
                    Ok(written) => self.outbound.advance(written),
                    Err(error) => return End::Lost(error.to_string()),
                },
                result = self.reader.read_buf(&mut self.inbound), if may_read => match result {
                    Ok(0) => return End::Lost("the broker closed the connection".to_owned()),
                    Ok(_) => is_heard = true,
                    Err(error) => return End::Lost(error.to_string()),
                },
                () = &mut timer => {
                    if !self.subscribing.is_empty() {
                        return End::Lost("no answer to SUBSCRIBE".to_owned());
                    }
                    if !is_heard && may_read {
                        return End::Lost(format!("no answer to a ping within {} s", ping_every.as_secs()));
                    }
                    is_heard = !may_read;
                    self.encoder.ping(&mut self.outbound);
                    timer.as_mut().reset(Instant::now() + ping_every);
                }
            }
        }
    }

    fn may_read(&self) -> bool {
        self.session.has_room() && !self.session.must_commit()
    }

    /// Takes every packet that is whole.
    fn take_packets(&mut self) -> Result<(), End> {
        while self.may_read() {
            let Some(packet) = self.decoder.next(&mut self.inbound)? else { break };
            match packet {
                Inbound::Publish(publish) => self.take_message(&publish),
                Inbound::PubRel(packet_id) => self.session.release(packet_id),
                Inbound::SubAck(packet_id, granted) => self.take_granted(packet_id, granted)?,
                Inbound::UnsubAck | Inbound::PingResp => {}
                Inbound::Disconnect(reason) => return Err(End::Lost(format!("the broker disconnected us: {reason}"))),
                Inbound::ConnAck(_) => return Err(PacketError::Malformed("a second CONNACK").into()),
            }
        }
        Ok(())
    }

    fn take_message(&mut self, publish: &Publish) {
        let mapper = &self.plan.mapper;
        let taken = if self.suspects.careful_left == 0 {
            self.session.publish(publish, Instant::now(), || mapper.record(publish, &self.rows))
        } else {
            let digest = session::digest(publish);
            self.suspects.under_way = Some(digest);
            let record = || -> Option<SourceRecord> {
                if self.suspects.refused.contains(&digest) {
                    tracing::error!(
                        topic = publish.topic.as_str(),
                        "the log refuses this message; it goes to the dead letters without its payload"
                    );
                    return Some(mapper.dead_letter(publish, "the log refused the record", None));
                }
                mapper.record(publish, &self.rows)
            };
            self.session.publish(publish, Instant::now(), record)
        };
        match taken {
            Taken::Recorded | Taken::Skipped => {}
            Taken::Repeated => tracing::debug!(packet_id = publish.packet_id, "a QoS 2 message came again"),
            Taken::Replaced => tracing::warn!(
                broker = %self.address,
                packet_id = publish.packet_id,
                "another QoS 2 message under an identifier in use: the broker lost its side of the session"
            ),
        }
        if let Some(bytes) = publish.oversize_bytes {
            tracing::error!(topic = publish.topic.as_str(), bytes, "a packet over max_packet_bytes was not kept");
        }
    }

    fn take_granted(&mut self, packet_id: u16, granted: Vec<Result<u8, String>>) -> Result<(), End> {
        let Some(at) = self.subscribing.iter().position(|(id, _)| *id == packet_id) else { return Ok(()) };
        let (_, Subscription { filter, qos }) = self.subscribing.swap_remove(at);
        match granted.into_iter().next() {
            Some(Ok(got)) => {
                self.granted += 1;
                if got < qos {
                    tracing::warn!(broker = %self.address, filter, asked = qos, got, "the broker grants a lower QoS");
                }
            }
            Some(Err(reason)) => {
                tracing::error!(broker = %self.address, filter, reason, "the broker refuses the subscription")
            }
            None => return Err(PacketError::Malformed("an empty SUBACK").into()),
        }
        if self.subscribing.is_empty() {
            if self.granted == 0 {
                return Err(End::Lost("the broker refuses every subscription".to_owned()));
            }
            if let Some(filters) = self.to_save.take() {
                self.session.remember((self.identity.subscriptions(), Some(filters)));
            }
        }
        Ok(())
    }

    fn begin_commits(&mut self) {
        while let Some(commit) = self.session.next_commit() {
            let intake = self.intake.clone();
            self.commits.push_back(Box::pin(async move {
                intake.commit(commit.records, commit.positions, commit.urgency).await
            }));
        }
    }

    fn note_durable(&mut self) {
        self.session.committed(Instant::now());
        if self.suspects.careful_left == 0 {
            return;
        }
        self.suspects.careful_left -= 1;
        if let Some(digest) = self.suspects.under_way.take()
            && let Some(at) = self.suspects.refused.iter().position(|d| *d == digest)
        {
            self.suspects.refused.swap_remove(at);
            self.suspects.careful_left = 0;
        }
        if self.suspects.careful_left == 0 {
            self.session.be_careless();
        }
    }

    /// Room for the next read; a buffer that a large packet left behind is given back.
    fn make_room(&mut self) {
        if self.inbound.is_empty() && self.inbound.capacity() > KEPT_BUFFER_BYTES {
            self.inbound = BytesMut::new();
        }
        if self.inbound.capacity() - self.inbound.len() < READ_BYTES / 4 {
            self.inbound.reserve(READ_BYTES);
        }
    }

    /// Waits for what is under way, because the next connection reads what is durable. After a stop the broker hears
    /// of it too, so that it need not send it again.
    async fn finish(&mut self, end: &End) {
        let mut is_durable = matches!(end, End::Stopped);
        while let Some(result) = self.commits.next().await {
            is_durable &= result.is_ok();
            if is_durable {
                self.session.committed(Instant::now());
            }
        }
        if !is_durable {
            return;
        }
        let farewell = async {
            for ack in self.session.ready() {
                if self.encoder.ack(ack, &mut self.outbound).is_err() {
                    return;
                }
            }
            self.encoder.disconnect(&mut self.outbound);
            // What does not get through will be sent again.
            let _unheard = self.writer.write_all_buf(&mut self.outbound).await;
            let _unheard = self.writer.shutdown().await;
        };
        let _in_time = timeout(FAREWELL, farewell).await;
    }
}
