//! The topic `brooklet.events`.

use serde_json::{Value, json};

use super::*;
use crate::record::Unpacker;

/// All events that can be read, with their keys.
pub(super) async fn events(log: &Log) -> Vec<(String, Value)> {
    let p = Partition::new(EVENTS_TOPIC, 0);
    let Ok(watch) = log.watch(&p) else { return Vec::new() };
    let start = watch.borrow().start;
    let mut out = Vec::new();
    for batch in read_all(log, &p, start, 1 << 20).await {
        let mut unpacker = Unpacker::new(1 << 20);
        for record in unpacker.records(&batch).unwrap() {
            let record = record.unwrap();
            let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
            out.push((key, serde_json::from_slice(record.value.unwrap()).unwrap()));
        }
    }
    out
}

#[tokio::test]
async fn an_event_makes_its_topic_and_says_what_when_and_in_which_boot() {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicI64::new(1_790_000_000_000));
    let log = open_with(dir.path(), |c| c.clock = clock_at(&now));
    assert!(log.topics().borrow().get(EVENTS_TOPIC).is_none(), "nothing to tell, no topic");
    log.tell(Event::new(EventKind::Quarantine, "two records of a set aside", json!({"topic": "a"}))).await.unwrap();
    now.store(5_000, Ordering::Relaxed);
    log.tell(Event::new(EventKind::SpaceAgain, "there is room again", json!({}))).await.unwrap();
    log.close().await;
    let log = open(dir.path());
    let topic = log.topics().borrow().get(EVENTS_TOPIC).cloned().unwrap();
    assert_eq!((topic.partitions, topic.settings["brooklet.priority"].as_str()), (1, "0"));
    let found = events(&log).await;
    assert_eq!(
        found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        ["quarantine", "space-again", "clock-jump"]
    );
    let (first, second) = (&found[0].1, &found[1].1);
    assert_eq!(first["kind"], "quarantine");
    assert_eq!(first["text"], "two records of a set aside");
    assert_eq!(first["data"], json!({"topic": "a"}));
    assert_eq!(first["time_ms"], 1_790_000_000_000_i64);
    assert!(first["uptime_ms"].as_u64().unwrap() > 0 && first["boot_id"].as_str().unwrap().len() == 36);
    let second_ms = second["time_ms"].as_i64().unwrap();
    assert!((0..600_000).contains(&(second_ms - 1_790_000_000_000)), "a time goes on with the uptime: {second_ms}");
    assert_eq!(found[2].1["data"]["to_ms"], 5_000);

    let dir = tempfile::tempdir().unwrap();
    let log = open_with(dir.path(), |c| c.clock = clock_at(&now));
    log.tell(Event::new(EventKind::SpaceAgain, "there is room again", json!({}))).await.unwrap();
    assert_eq!(events(&log).await[0].1["time_ms"], Value::Null, "a clock of 1970 is not believed");
}
