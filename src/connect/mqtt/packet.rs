//! MQTT packets of both versions as the connector sees them, over rumqttc's codecs.
//!
//! Reads only what a broker may send to a client that never publishes; anything else ends the connection. A frame is
//! handed to the codec only when it is complete, so a codec that asks for more bytes has met a malformed packet. A
//! packet over the limit is skipped without being buffered: only its topic and identifier are kept, so that it can be
//! acknowledged and does not come back for ever. Never panics on what a peer sends; never allocates by a length that
//! was only announced.

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::{mqttbytes::v4, v5::mqttbytes::v5};

use super::config::Protocol;

/// A packet that came in.
#[derive(Debug)]
pub(super) enum Inbound {
    /// The answer to CONNECT.
    ConnAck(ConnAck),
    /// A message.
    Publish(Publish),
    /// The broker has our PUBREC and forgets the message.
    PubRel(u16),
    /// The answer to the SUBSCRIBE of that identifier: per filter the granted QoS, or why not.
    SubAck(u16, Vec<Result<u8, String>>),
    /// The answer to UNSUBSCRIBE.
    UnsubAck,
    /// The answer to PINGREQ.
    PingResp,
    /// The broker ends the connection (MQTT 5).
    Disconnect(String),
}

/// The answer to CONNECT.
#[derive(Debug)]
pub(super) struct ConnAck {
    /// True if the broker kept our session.
    pub(super) is_session_present: bool,
    /// Why the broker refused.
    pub(super) refused: Option<String>,
    /// The keep-alive the broker wants instead of ours, in seconds.
    pub(super) keep_alive_s: Option<u16>,
    /// Greatest QoS the broker grants.
    pub(super) greatest_qos: u8,
    /// False if the broker cannot tell which subscription a message matched.
    pub(super) has_subscription_ids: bool,
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Publish {
    /// The broker sent it before.
    pub(super) is_repeat: bool,
    /// 0, 1 or 2.
    pub(super) qos: u8,
    /// It was kept by the broker from before the subscription.
    pub(super) is_retained: bool,
    /// The topic; UTF-8 was checked.
    pub(super) topic: Topic,
    /// Not zero for QoS 1 and 2.
    pub(super) packet_id: u16,
    /// The payload, or of a packet over the limit nothing.
    pub(super) payload: Bytes,
    /// Size of a packet over the limit, whose payload was thrown away.
    pub(super) oversize_bytes: Option<usize>,
    /// MQTT 5 properties.
    pub(super) properties: Option<Box<v5::PublishProperties>>,
}

/// A topic's text in shared bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Topic(Bytes);

impl Topic {
    /// The text, if it is UTF-8 and a topic one can publish to.
    pub(super) fn new(bytes: Bytes) -> Result<Self, PacketError> {
        match std::str::from_utf8(&bytes) {
            Ok(text) if !text.is_empty() && !text.contains(['\0', '+', '#']) => Ok(Self(bytes)),
            _ => Err(PacketError::Malformed("topic")),
        }
    }

    /// The text.
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The text's bytes, shared.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// A packet that answers one of the broker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    /// PUBACK: QoS 1 is durable.
    Done(u16),
    /// PUBREC: QoS 2 is durable, with its packet identifier.
    Received(u16),
    /// PUBCOMP: the packet identifier is durably forgotten.
    Complete(u16),
}

/// What we ask for when connecting.
#[derive(Clone, Debug)]
pub(super) struct Connect {
    pub(super) client_id: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) keep_alive_s: u16,
    pub(super) session_expiry_s: u32,
    pub(super) receive_maximum: u16,
    pub(super) max_packet_bytes: u32,
}

/// One filter to subscribe to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) filter: String,
    pub(super) qos: u8,
}

/// What came in cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    #[error("the broker sent a malformed packet ({0})")]
    Malformed(&'static str),
    #[error("the broker sent a malformed packet ({0})")]
    Codec(String),
    #[error("the broker sent a packet of type {0}, which has no place here")]
    Unexpected(u8),
}

/// Cuts the stream into packets.
#[derive(Debug)]
pub(super) struct Decoder {
    protocol: Protocol,
    max_packet_bytes: usize,
    /// What is left of a packet over the limit.
    skip_bytes: usize,
}

impl Decoder {
    pub(super) fn new(protocol: Protocol, max_packet_bytes: usize) -> Self {
        Self { protocol, max_packet_bytes, skip_bytes: 0 }
    }

    /// The next whole packet of `stream`, or `None` when more bytes are needed.
    pub(super) fn next(&mut self, stream: &mut BytesMut) -> Result<Option<Inbound>, PacketError> {
        if self.skip_bytes > 0 {
            let now = self.skip_bytes.min(stream.len());
            stream.advance(now);
            self.skip_bytes -= now;
            if self.skip_bytes > 0 {
                return Ok(None);
            }
        }
        let Some((header_bytes, remaining_bytes)) = fixed_header(stream)? else { return Ok(None) };
        let frame_bytes = header_bytes + remaining_bytes;
        let kind = stream[0] >> 4;
        if frame_bytes > self.max_packet_bytes {
            return if kind == 3 {
                self.oversize(stream, header_bytes, frame_bytes)
            } else {
                Err(PacketError::Malformed("length"))
            };
        }
        if stream.len() < frame_bytes {
            return Ok(None);
        }
        let mut frame = stream.split_to(frame_bytes);
        match (self.protocol, kind) {
            (_, 2 | 3 | 6 | 9 | 11 | 13) | (Protocol::V5, 14) => {}
            (_, other) => return Err(PacketError::Unexpected(other)),
        }
        match self.protocol {
            Protocol::V3 => old(v4::Packet::read(&mut frame, usize::MAX).map_err(codec_v4)?),
            // A broker that does not speak MQTT 5 answers with the short CONNACK of 3.1.1.
            Protocol::V5 if kind == 2 && remaining_bytes == 2 => Ok(Inbound::ConnAck(ConnAck {
                is_session_present: false,
                refused: Some(format!("code {}: it does not speak MQTT 5, set protocol = \"3.1.1\"", frame[3])),
                keep_alive_s: None,
                greatest_qos: 2,
                has_subscription_ids: false,
            })),
            // Reason alone, without the length of properties: the codec asks for more bytes.
            Protocol::V5 if kind == 14 && remaining_bytes <= 1 => {
                Ok(Inbound::Disconnect(format!("reason 0x{:02x}", frame.get(2).copied().unwrap_or(0))))
            }
            Protocol::V5 => new(v5::Packet::read(&mut frame, None).map_err(codec_v5)?),
        }
        .map(Some)
    }

    fn oversize(
        &mut self,
        stream: &mut BytesMut,
        header_bytes: usize,
        frame_bytes: usize,
    ) -> Result<Option<Inbound>, PacketError> {
        let flags = stream[0];
        let qos = (flags >> 1) & 3;
        let known = stream.len().min(frame_bytes);
        let mut rest = &stream[header_bytes..known];
        let topic_bytes = if rest.len() >= 2 { usize::from(rest.get_u16()) } else { return Ok(None) };
        let id_bytes = if qos == 0 { 0 } else { 2 };
        if header_bytes + 2 + topic_bytes + id_bytes > frame_bytes || qos > 2 {
            return Err(PacketError::Malformed("oversized PUBLISH"));
        }
        if rest.len() < topic_bytes + id_bytes {
            return Ok(None);
        }
        let topic = Topic::new(Bytes::copy_from_slice(&rest[..topic_bytes]))?;
        rest.advance(topic_bytes);
        let packet_id = if qos == 0 { 0 } else { rest.get_u16() };
        if qos > 0 && packet_id == 0 {
            return Err(PacketError::Malformed("packet identifier"));
        }
        stream.advance(known);
        self.skip_bytes = frame_bytes - known;
        Ok(Some(Inbound::Publish(Publish {
            is_repeat: flags & 8 != 0,
            qos,
            is_retained: flags & 1 != 0,
            topic,
            packet_id,
            payload: Bytes::new(),
            oversize_bytes: Some(frame_bytes),
            properties: None,
        })))
    }
}

/// Length of the fixed header and of what follows it.
fn fixed_header(stream: &[u8]) -> Result<Option<(usize, usize)>, PacketError> {
    let mut remaining = 0;
    for (i, byte) in stream.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((i + 2, remaining)));
        }
    }
    if stream.len() >= 5 { Err(PacketError::Malformed("length")) } else { Ok(None) }
}

fn codec_v4(error: rumqttc::mqttbytes::Error) -> PacketError {
    PacketError::Codec(error.to_string())
}

fn codec_v5(error: rumqttc::v5::mqttbytes::Error) -> PacketError {
    PacketError::Codec(error.to_string())
}

fn old(packet: v4::Packet) -> Result<Inbound, PacketError> {
    Ok(match packet {
        v4::Packet::ConnAck(ack) => Inbound::ConnAck(ConnAck {
            is_session_present: ack.session_present,
            refused: (ack.code != v4::ConnectReturnCode::Success).then(|| format!("{:?}", ack.code)),
            keep_alive_s: None,
            greatest_qos: 2,
            has_subscription_ids: false,
        }),
        v4::Packet::Publish(p) => Inbound::Publish(Publish {
            is_repeat: p.dup,
            qos: p.qos as u8,
            is_retained: p.retain,
            topic: Topic::new(Bytes::from(p.topic))?,
            packet_id: p.pkid,
            payload: p.payload,
            oversize_bytes: None,
            properties: None,
        }),
        v4::Packet::PubRel(p) => Inbound::PubRel(p.pkid),
        v4::Packet::SubAck(ack) => Inbound::SubAck(
            ack.pkid,
            ack.return_codes
                .into_iter()
                .map(|code| match code {
                    v4::SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                    v4::SubscribeReasonCode::Failure => Err("refused".to_owned()),
                })
                .collect(),
        ),
        v4::Packet::UnsubAck(_) => Inbound::UnsubAck,
        v4::Packet::PingResp => Inbound::PingResp,
        _ => return Err(PacketError::Malformed("kind")),
    })
}

fn new(packet: v5::Packet) -> Result<Inbound, PacketError> {
    Ok(match packet {
        v5::Packet::ConnAck(ack) => {
            let properties = ack.properties.as_ref();
            let refused = (ack.code != v5::ConnectReturnCode::Success).then(|| {
                match properties.and_then(|p| p.reason_string.as_ref()) {
                    Some(reason) => format!("{:?}: {reason}", ack.code),
                    None => format!("{:?}", ack.code),
                }
            });
            Inbound::ConnAck(ConnAck {
                is_session_present: ack.session_present,
                refused,
                keep_alive_s: properties.and_then(|p| p.server_keep_alive),
                greatest_qos: properties.and_then(|p| p.max_qos).unwrap_or(2).min(2),
                has_subscription_ids: properties.and_then(|p| p.subscription_identifiers_available) != Some(0),
            })
        }
        v5::Packet::Publish(p) => Inbound::Publish(Publish {
            is_repeat: p.dup,
            qos: p.qos as u8,
            is_retained: p.retain,
            // Empty only with a topic alias, which we do not offer.
            topic: Topic::new(p.topic)?,
            packet_id: p.pkid,
            payload: p.payload,
            oversize_bytes: None,
            properties: p.properties.map(Box::new),
        }),
        v5::Packet::PubRel(p) => Inbound::PubRel(p.pkid),
        v5::Packet::SubAck(ack) => Inbound::SubAck(
            ack.pkid,
            ack.return_codes
                .into_iter()
                .map(|code| match code {
                    v5::SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                    other => Err(format!("{other:?}")),
                })
                .collect(),
        ),
        v5::Packet::UnsubAck(_) => Inbound::UnsubAck,
        v5::Packet::PingResp(_) => Inbound::PingResp,
        v5::Packet::Disconnect(d) => {
            let text = d.properties.and_then(|p| p.reason_string);
            Inbound::Disconnect(match text {
                Some(text) => format!("{:?}: {text}", d.reason_code),
                None => format!("{:?}", d.reason_code),
            })
        }
        _ => return Err(PacketError::Malformed("kind")),
    })
}

/// Writes packets of one version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoder(pub(super) Protocol);

impl Encoder {
    /// CONNECT with a session that outlives the connection.
    pub(super) fn connect(self, connect: &Connect, out: &mut BytesMut) -> Result<(), PacketError> {
        let user = connect.username.clone().unwrap_or_default();
        let password = connect.password.clone().unwrap_or_default();
        let has_login = connect.username.is_some() || connect.password.is_some();
        let start = out.len();
        match self.0 {
            Protocol::V3 => {
                let mut packet = v4::Connect::new(connect.client_id.clone());
                packet.keep_alive = connect.keep_alive_s;
                packet.clean_session = false;
                packet.login = has_login.then(|| v4::Login::new(user, password));
                packet.write(out).map_err(codec_v4)?;
            }
            Protocol::V5 => {
                let mut properties = v5::ConnectProperties::new();
                properties.session_expiry_interval = Some(connect.session_expiry_s);
                properties.receive_maximum = Some(connect.receive_maximum);
                properties.max_packet_size = Some(connect.max_packet_bytes);
                let packet = v5::Connect {
                    keep_alive: connect.keep_alive_s,
                    client_id: connect.client_id.clone(),
                    clean_start: false,
                    properties: Some(properties),
                };
                let login = has_login.then(|| v5::Login::new(user, password));
                packet.write(&None, &login, out).map_err(codec_v5)?;
            }
        }
        debug_assert!(out.len() > start);
        Ok(())
    }

    /// SUBSCRIBE to one filter; `id` tells MQTT 5 brokers how to name it in messages.
    pub(super) fn subscribe(
        self,
        packet_id: u16,
        subscription: &Subscription,
        id: Option<usize>,
        out: &mut BytesMut,
    ) -> Result<(), PacketError> {
        match self.0 {
            Protocol::V3 => {
                let qos = rumqttc::mqttbytes::qos(subscription.qos).map_err(codec_v4)?;
                let mut packet = v4::Subscribe::new(subscription.filter.clone(), qos);
                packet.pkid = packet_id;
                packet.write(out).map_err(codec_v4)?;
            }
            Protocol::V5 => {
                let qos = rumqttc::v5::mqttbytes::qos(subscription.qos).ok_or(PacketError::Malformed("QoS"))?;
                let mut filter = v5::Filter::new(subscription.filter.clone(), qos);
                // Retained messages come once, not again after each reconnection. A shared subscription has none.
                filter.retain_forward_rule = v5::RetainForwardRule::OnNewSubscribe;
                let properties = id.map(|id| v5::SubscribeProperties { id: Some(id), user_properties: Vec::new() });
                let mut packet = v5::Subscribe::new(filter, properties);
                packet.pkid = packet_id;
                packet.write(out).map_err(codec_v5)?;
            }
        }
        Ok(())
    }

    /// UNSUBSCRIBE from one filter.
    pub(super) fn unsubscribe(self, packet_id: u16, filter: &str, out: &mut BytesMut) -> Result<(), PacketError> {
        match self.0 {
            Protocol::V3 => {
                let mut packet = v4::Unsubscribe::new(filter);
                packet.pkid = packet_id;
                packet.write(out).map_err(codec_v4)?;
            }
            Protocol::V5 => {
                let mut packet = v5::Unsubscribe::new(filter, None);
                packet.pkid = packet_id;
                packet.write(out).map_err(codec_v5)?;
            }
        }
        Ok(())
    }

    /// PUBACK, PUBREC or PUBCOMP with success, which both versions write alike.
    pub(super) fn ack(self, ack: Ack, out: &mut BytesMut) -> Result<(), PacketError> {
        match ack {
            Ack::Done(id) => v4::PubAck::new(id).write(out),
            Ack::Received(id) => v4::PubRec::new(id).write(out),
            Ack::Complete(id) => v4::PubComp::new(id).write(out),
        }
        .map(|_bytes| ())
        .map_err(codec_v4)
    }

    /// PINGREQ.
    pub(super) fn ping(self, out: &mut BytesMut) {
        out.extend_from_slice(&[0xc0, 0]);
    }

    /// DISCONNECT; the session stays with the broker.
    pub(super) fn disconnect(self, out: &mut BytesMut) {
        out.extend_from_slice(&[0xe0, 0]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(protocol: Protocol, bytes: &[u8]) -> Result<Option<Inbound>, PacketError> {
        Decoder::new(protocol, 1 << 16).next(&mut BytesMut::from(bytes))
    }

    fn publish(protocol: Protocol, bytes: &[u8]) -> Publish {
        match decode(protocol, bytes) {
            Ok(Some(Inbound::Publish(publish))) => publish,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_of_both_versions_are_read_alike() {
        let old = publish(Protocol::V3, b"\x3d\x08\0\x03a/b\0\x07x");
        assert_eq!((old.qos, old.packet_id, old.is_repeat, old.is_retained), (2, 7, true, true));
        assert_eq!((old.topic.as_str(), &old.payload[..]), ("a/b", &b"x"[..]));
        let new = publish(Protocol::V5, b"\x33\x12\0\x03a/b\0\x07\x09\x0b\x02\x26\0\x01k\0\x01vx");
        assert_eq!((new.qos, new.packet_id, new.is_repeat, new.is_retained), (1, 7, false, true));
        assert_eq!(new.properties.unwrap().subscription_identifiers, [2]);
    }

    #[test]
    fn packets_may_come_in_pieces() {
        let bytes = b"\x30\x06\0\x03a/bx\xd0\0";
        let mut decoder = Decoder::new(Protocol::V3, 100);
        let mut stream = BytesMut::new();
        let mut seen = Vec::new();
        for byte in bytes {
            stream.extend_from_slice(&[*byte]);
            while let Some(packet) = decoder.next(&mut stream).unwrap() {
                seen.push(packet);
            }
        }
        assert!(matches!(seen.as_slice(), [Inbound::Publish(_), Inbound::PingResp]), "{seen:?}");
    }

    #[test]
    fn a_packet_over_the_limit_is_skipped_and_can_be_acknowledged() {
        let mut bytes = b"\x32\xc8\x01\0\x03a/b\0\x09".to_vec();
        bytes.extend(std::iter::repeat_n(0xff, 193));
        bytes.extend_from_slice(b"\xd0\0");
        let mut decoder = Decoder::new(Protocol::V5, 100);
        let mut stream = BytesMut::new();
        let mut seen = Vec::new();
        let mut most = 0;
        for piece in bytes.chunks(7) {
            stream.extend_from_slice(piece);
            while let Some(packet) = decoder.next(&mut stream).unwrap() {
                seen.push(packet);
            }
            most = most.max(stream.len());
        }
        let [Inbound::Publish(large), Inbound::PingResp] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!((large.packet_id, large.topic.as_str(), large.oversize_bytes), (9, "a/b", Some(203)));
        assert!(most <= 14, "{most} bytes were kept");
    }

    #[test]
    fn what_a_broker_must_not_send_ends_the_connection() {
        for bytes in [&b"\x10\0"[..], b"\x40\x02\0\x01", b"\x82\x02\0\x01", b"\xf0\0", b"\x30\xff\xff\xff\xff\x01"] {
            assert!(decode(Protocol::V3, bytes).is_err(), "{bytes:?}");
        }
        // Malformed inside a whole frame: more bytes would not help.
        assert!(decode(Protocol::V5, b"\x30\x05\0\x03a/b").is_err());
        assert!(decode(Protocol::V3, b"\x32\x05\0\x03a/b").is_err());
        // A topic that is empty, a filter, or not UTF-8.
        for bytes in [&b"\x30\x03\0\0x"[..], b"\x30\x04\0\x01#x", b"\x30\x04\0\x01\xffx"] {
            assert!(decode(Protocol::V3, bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn an_old_broker_is_named_when_mqtt_5_was_asked_for() {
        match decode(Protocol::V5, b"\x20\x02\0\x01") {
            Ok(Some(Inbound::ConnAck(ack))) => assert!(ack.refused.unwrap().contains("protocol = \"3.1.1\"")),
            other => panic!("{other:?}"),
        }
        assert!(
            matches!(decode(Protocol::V5, b"\xe0\x01\x8e"), Ok(Some(Inbound::Disconnect(r))) if r.contains("0x8e"))
        );
    }

    #[test]
    fn what_is_written_can_be_read_by_the_codec() {
        let connect = Connect {
            client_id: "c".into(),
            username: Some("u".into()),
            password: Some("p".into()),
            keep_alive_s: 60,
            session_expiry_s: 7,
            receive_maximum: 100,
            max_packet_bytes: 1000,
        };
        let subscription = Subscription { filter: "a/#".into(), qos: 2 };
        let mut out = BytesMut::new();
        let encoder = Encoder(Protocol::V5);
        encoder.connect(&connect, &mut out).unwrap();
        encoder.subscribe(1, &subscription, Some(3), &mut out).unwrap();
        encoder.unsubscribe(2, "b", &mut out).unwrap();
        for ack in [Ack::Done(5), Ack::Received(6), Ack::Complete(7)] {
            encoder.ack(ack, &mut out).unwrap();
        }
        let read = |out: &mut BytesMut| v5::Packet::read(out, None).unwrap();
        match read(&mut out) {
            v5::Packet::Connect(c, None, Some(login)) => {
                assert!(!c.clean_start, "the session must survive");
                assert_eq!(c.properties.unwrap().session_expiry_interval, Some(7));
                assert_eq!((login.username.as_str(), login.password.as_str()), ("u", "p"));
            }
            other => panic!("{other:?}"),
        }
        match read(&mut out) {
            v5::Packet::Subscribe(s) => {
                assert_eq!(s.filters[0].retain_forward_rule, v5::RetainForwardRule::OnNewSubscribe);
                assert_eq!(s.properties.unwrap().id, Some(3));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(read(&mut out), v5::Packet::Unsubscribe(_)));
        assert!(matches!(read(&mut out), v5::Packet::PubAck(p) if p.pkid == 5));
        assert!(matches!(read(&mut out), v5::Packet::PubRec(p) if p.pkid == 6));
        assert!(matches!(read(&mut out), v5::Packet::PubComp(p) if p.pkid == 7));
        let mut out = BytesMut::new();
        Encoder(Protocol::V3).connect(&connect, &mut out).unwrap();
        assert!(matches!(v4::Packet::read(&mut out, 1000), Ok(v4::Packet::Connect(c)) if !c.clean_session));
    }

    proptest! {
        /// Nothing a broker sends panics, and what is not a packet yet stays small.
        #[test]
        fn no_bytes_panic(
            head in prop::sample::select(vec![0x20u8, 0x30, 0x32, 0x35, 0x62, 0x90, 0xb0, 0xd0, 0xe0]),
            body in prop::collection::vec(any::<u8>(), 0..100), is_new: bool, max in 5usize..60,
        ) {
            let protocol = if is_new { Protocol::V5 } else { Protocol::V3 };
            let mut stream = BytesMut::from(&[head, body.len() as u8][..]);
            stream.extend_from_slice(&body);
            let mut decoder = Decoder::new(protocol, max);
            while let Ok(Some(_)) = decoder.next(&mut stream) {}
        }
    }
}
