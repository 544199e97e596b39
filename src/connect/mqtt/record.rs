//! A message becomes a record: topic and key by the map, the payload untouched, what MQTT knows about it as headers.
//!
//! | header | when |
//! |---|---|
//! | `mqtt.topic`, `mqtt.qos` | always |
//! | `mqtt.retained` = `true` | the broker had kept the message from before the subscription |
//! | `mqtt.dup` = `true` | the broker says it sent the message before (which does not say that it arrived) |
//! | `mqtt.content_type`, `mqtt.response_topic`, `mqtt.correlation_data`, `mqtt.message_expiry_s` | MQTT 5 |
//! | the user properties, by their own names | MQTT 5 |
//! | `mqtt.error`, `mqtt.packet_bytes` | in the topic of dead letters |

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Config,
    config::EmptyPayload,
    packet::Publish,
    topic::{Routes, Target},
};
use crate::connect::SourceRecord;

/// Turns messages into records.
#[derive(Debug)]
pub(super) struct Mapper {
    pub(super) routes: Routes,
    dead_letters: Arc<str>,
    empty_payload: EmptyPayload,
    has_retained: bool,
    has_headers: bool,
}

impl Mapper {
    /// The mapper of a configuration that was checked.
    pub(super) fn new(config: &Config, connector: &str) -> Result<Self, String> {
        let dead_letters = match &config.dead_letters {
            Some(topic) => Arc::from(topic.as_str()),
            None => {
                let plain: String = connector
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' })
                    .collect();
                Arc::from(format!("{plain}.dlq"))
            }
        };
        Ok(Self {
            routes: Routes::new(config)?,
            dead_letters,
            empty_payload: config.empty_payload,
            has_retained: config.retained,
            has_headers: config.headers,
        })
    }

    /// The record of a message, or `None` if it makes none. `subscribed` are the rows that were subscribed to with an
    /// identifier of their own.
    pub(super) fn record(&self, publish: &Publish, subscribed: &[usize]) -> Option<SourceRecord> {
        let topic = publish.topic.as_str();
        if publish.is_retained && !self.has_retained {
            return None;
        }
        if let Some(properties) = &publish.properties
            && !self.routes.is_wanted(topic, &properties.subscription_identifiers, subscribed)
        {
            return None;
        }
        // A subscription of an earlier configuration that is still being taken back.
        let row = self.routes.find(topic)?;
        if let Some(bytes) = publish.oversize_bytes {
            let reason = format!("a packet of {bytes} bytes is over max_packet_bytes; its payload was not kept");
            return Some(self.dead_letter(publish, &reason, None));
        }
        let value = match (publish.payload.is_empty(), self.empty_payload) {
            (true, EmptyPayload::Skip) => return None,
            (true, EmptyPayload::Tombstone) => None,
            _ => Some(publish.payload.clone()),
        };
        match self.routes.target(row, topic, &publish.payload) {
            Ok(Target { topic, key }) => Some(SourceRecord {
                topic,
                partition: None,
                key: key.map(Bytes::from),
                value,
                headers: if self.has_headers { headers(publish) } else { Vec::new() },
                timestamp_ms: None,
            }),
            Err(reason) => Some(self.dead_letter(publish, &reason, value)),
        }
    }

    /// The record that says why a message could not be taken as it should.
    pub(super) fn dead_letter(&self, publish: &Publish, reason: &str, value: Option<Bytes>) -> SourceRecord {
        let mut headers = headers(publish);
        headers.push(("mqtt.error".to_owned(), Some(Bytes::copy_from_slice(reason.as_bytes()))));
        if let Some(bytes) = publish.oversize_bytes {
            headers.push(("mqtt.packet_bytes".to_owned(), Some(Bytes::from(bytes.to_string()))));
        }
        SourceRecord {
            topic: Arc::clone(&self.dead_letters),
            partition: None,
            key: Some(publish.topic.bytes().clone()),
            value,
            headers,
            timestamp_ms: None,
        }
    }
}

fn headers(publish: &Publish) -> Vec<(String, Option<Bytes>)> {
    let mut headers = Vec::with_capacity(2);
    let mut add = |key: &str, value: Bytes| headers.push((key.to_owned(), Some(value)));
    add("mqtt.topic", publish.topic.bytes().clone());
    add("mqtt.qos", Bytes::from_static([b"0", b"1", b"2"][usize::from(publish.qos.min(2))]));
    if publish.is_retained {
        add("mqtt.retained", Bytes::from_static(b"true"));
    }
    if publish.is_repeat {
        add("mqtt.dup", Bytes::from_static(b"true"));
    }
    if let Some(properties) = &publish.properties {
        if let Some(text) = &properties.content_type {
            add("mqtt.content_type", Bytes::copy_from_slice(text.as_bytes()));
        }
        if let Some(text) = &properties.response_topic {
            add("mqtt.response_topic", Bytes::copy_from_slice(text.as_bytes()));
        }
        if let Some(data) = &properties.correlation_data {
            add("mqtt.correlation_data", data.clone());
        }
        if let Some(seconds) = properties.message_expiry_interval {
            add("mqtt.message_expiry_s", Bytes::from(seconds.to_string()));
        }
        for (key, value) in &properties.user_properties {
            add(key, Bytes::copy_from_slice(value.as_bytes()));
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::mqtt::packet::Topic;

    fn mapper(more: &str) -> Mapper {
        let text = format!(
            "url = 'mqtt://h'\nmap = [ {{ filter = 's/#', topic = 't', key = '{{{{ levels[1] }}}}' }} ]\n{more}"
        );
        Mapper::new(&toml::from_str(&text).unwrap(), "my sensors").unwrap()
    }

    fn message(topic: &'static str, payload: &'static str) -> Publish {
        Publish {
            topic: Topic::new(topic.into()).unwrap(),
            payload: payload.into(),
            qos: 1,
            packet_id: 7,
            ..Publish::default()
        }
    }

    fn header<'a>(record: &'a SourceRecord, key: &str) -> Option<&'a [u8]> {
        record.headers.iter().find(|(k, _)| k == key).and_then(|(_, v)| v.as_deref())
    }

    #[test]
    fn the_payload_is_untouched_and_the_rest_is_in_headers() {
        let mut m = message("s/1/x", "\u{0} 21.5 ");
        m.is_retained = true;
        m.properties = Some(Box::default());
        m.properties.as_mut().unwrap().user_properties = vec![("unit".into(), "C".into()), ("unit".into(), "K".into())];
        let record = mapper("").record(&m, &[]).unwrap();
        assert_eq!((record.topic.as_ref(), record.key.as_deref()), ("t", Some(&b"1"[..])));
        assert_eq!(record.value.as_deref(), Some(&b"\0 21.5 "[..]));
        assert_eq!(header(&record, "mqtt.topic"), Some(&b"s/1/x"[..]));
        assert_eq!(header(&record, "mqtt.qos"), Some(&b"1"[..]));
        assert_eq!(header(&record, "mqtt.retained"), Some(&b"true"[..]));
        assert_eq!(record.headers.iter().filter(|(k, _)| k == "unit").count(), 2);
        assert!(mapper("headers = false").record(&m, &[]).unwrap().headers.is_empty());
        assert!(mapper("retained = false").record(&m, &[]).is_none());
    }

    #[test]
    fn an_empty_payload_is_what_the_setting_says() {
        let m = message("s/1", "");
        assert_eq!(mapper("").record(&m, &[]).unwrap().value.as_deref(), Some(&b""[..]));
        assert_eq!(mapper("empty_payload = 'tombstone'").record(&m, &[]).unwrap().value, None);
        assert!(mapper("empty_payload = 'skip'").record(&m, &[]).is_none());
    }

    #[test]
    fn what_cannot_be_mapped_is_a_dead_letter_with_its_reason() {
        let record = mapper("").record(&message("s", "v"), &[]).unwrap();
        assert_eq!((record.topic.as_ref(), record.value.as_deref()), ("my_sensors.dlq", Some(&b"v"[..])));
        assert!(std::str::from_utf8(header(&record, "mqtt.error").unwrap()).unwrap().contains("key template"));
        let mut large = message("s/1", "");
        large.oversize_bytes = Some(5_000_000);
        let record = mapper("dead_letters = 'd'").record(&large, &[]).unwrap();
        assert_eq!((record.topic.as_ref(), header(&record, "mqtt.packet_bytes")), ("d", Some(&b"5000000"[..])));
        assert!(mapper("").record(&message("other", "v"), &[]).is_none());
    }
}
