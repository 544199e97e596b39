use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    log::{Bounds, Change, Topic},
    metrics::Registry,
    record::{Builder, Codec, Producer, batch},
};

const NOW_MS: i64 = 1_800_000_000_000;

struct Rig {
    txns: Txns,
    log: Log,
    topic: Arc<Topic>,
    stop: CancellationToken,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn rig(dir: &std::path::Path) -> Rig {
    rig_with(dir, Config::default()).await
}

async fn rig_with(dir: &std::path::Path, config: Config) -> Rig {
    let mut log_config = log::Config::new(dir);
    (log_config.linger, log_config.ack_linger) = (Duration::ZERO, Duration::ZERO);
    log_config.quota_bytes = Some(16 << 20);
    let log = Log::open(log_config, &Registry::default()).unwrap();
    let create = Change::Create { name: "t".into(), partitions: 3, settings: BTreeMap::new() };
    let topic = match log.change(create, Vec::new()).await {
        Ok(topic) => topic,
        Err(_) => Arc::clone(log.topics().borrow().get("t").unwrap()),
    };
    let txns = Txns::open(log.clone(), config, Arc::new(|| NOW_MS), &Registry::default()).await.unwrap();
    let stop = CancellationToken::new();
    let (task, token) = (txns.clone(), stop.clone());
    tokio::spawn(async move { task.run(token).await });
    Rig { txns, log, topic, stop }
}

fn part(index: i32) -> Partition {
    Partition::new("t", index)
}

/// One record of a transaction.
fn data(who: Identity, sequence: i32) -> Bytes {
    let mut builder = Builder::new();
    builder.set_producer(Producer { id: who.id, epoch: who.epoch, sequence });
    builder.push(5, None, Some(b"value"), &[]).unwrap();
    batch::transactional(&builder.finish(Codec::None, 0))
}

impl Rig {
    async fn write(&self, id: &str, who: Identity, index: i32, sequence: i32, flow: Flow) -> Result<(), Error> {
        let mut admission = self.txns.admission(id).await?;
        admission.admit(who, &part(index), flow)?;
        let batches = vec![Append { partition: part(index), batch: data(who, sequence) }];
        let entered = self.log.enter(Write { batches, ..Write::default() }).await?;
        drop(admission);
        entered.durable().await?;
        Ok(())
    }

    fn bounds(&self, index: i32) -> Bounds {
        *self.log.watch(&part(index)).unwrap().borrow()
    }

    fn position(&self, group: &str) -> Option<i64> {
        offsets::committed(&self.log, group, &part(0)).unwrap().map(|c| c.offset)
    }

    async fn state(&self, id: &str) -> Option<State> {
        self.txns.describe(id).await.unwrap().map(|d| d.state)
    }

    async fn stage(&self, who: Identity, group: &str, offset: i64) -> Result<(), Error> {
        let positions = vec![(self.topic.id, 0, Committed::at(offset, NOW_MS))];
        self.txns.stage("id", who, group, positions, Flow::Second).await
    }
}

#[tokio::test]
async fn a_transaction_over_partitions_and_groups_ends_in_one_commit() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path()).await;
    let mut who = rig.txns.init("id", None, 60_000).await.unwrap();
    for (outcome, offset) in [(Outcome::Commit, Some(11)), (Outcome::Abort, Some(11))] {
        for index in 0..3 {
            rig.write("id", who, index, 0, Flow::Second).await.unwrap();
        }
        let staged = if outcome == Outcome::Commit { 11 } else { 99 };
        rig.stage(who, "g", staged).await.unwrap();
        assert!(rig.txns.is_pending("g", rig.topic.id, 0) && !rig.txns.is_pending("g", rig.topic.id, 1));
        let open = rig.bounds(1);
        assert!(open.last_stable < open.high_watermark);
        let commits = rig.log.usage().commits;
        let next = rig.txns.end("id", who, outcome, Flow::Second).await.unwrap();
        assert_eq!(rig.log.usage().commits, commits + 1, "all of it at once");
        assert_eq!(rig.position("g"), offset);
        assert!(!rig.txns.is_pending("g", rig.topic.id, 0));
        for index in 0..3 {
            let bounds = rig.bounds(index);
            assert_eq!(bounds.last_stable, bounds.high_watermark);
        }
        assert_eq!(rig.log.states(record::OWNER, &[record::STAGED_KIND]).unwrap(), []);
        // The answer was lost.
        assert_eq!(rig.txns.end("id", who, outcome, Flow::Second).await, Ok(next));
        assert_eq!(rig.log.usage().commits, commits + 1);
        who = next;
    }
    let slice = rig.log.read_committed(&part(2), 0, 1 << 20).await.unwrap();
    assert_eq!(slice.aborted.len(), 1);
}

#[tokio::test]
async fn a_transaction_goes_on_after_a_restart_and_nothing_stays_open_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let first = rig(dir.path()).await;
    let who = first.txns.init("id", None, 60_000).await.unwrap();
    let old = first.txns.init("old", None, 60_000).await.unwrap();
    let idle = first.txns.init("idle", None, 60_000).await.unwrap();
    // With the second version nothing but the batch says that there is a transaction.
    first.write("id", who, 0, 0, Flow::Second).await.unwrap();
    first.stage(who, "g", 7).await.unwrap();
    first.txns.add_partitions("old", old, vec![part(1), part(2)]).await.unwrap();
    first.txns.add_group("old", old, "h").await.unwrap();
    first.write("old", old, 1, 0, Flow::First).await.unwrap();
    // A transaction whose id has been forgotten, as by a broker of before.
    let nobody = Identity { id: 4711, epoch: 3 };
    let batches = vec![Append { partition: part(2), batch: data(nobody, 0) }];
    first.log.commit(Write { batches, ..Write::default() }).await.unwrap();
    first.log.close().await;
    drop(first);

    let rig = rig(dir.path()).await;
    assert_eq!(rig.state("id").await, Some(State::Ongoing));
    assert_eq!(rig.state("old").await, Some(State::Ongoing));
    assert_eq!(rig.state("idle").await, Some(State::Empty));
    assert_eq!(rig.state("other").await, None);
    let open: Vec<_> = rig.log.open_transactions().await.unwrap().into_iter().map(|p| p.producer_id).collect();
    assert_eq!(open, [who.id, old.id], "that of nobody is aborted");
    assert_eq!(rig.log.read_committed(&part(2), 0, 1 << 20).await.unwrap().aborted[0].producer_id, 4711);
    // Added before, written only now.
    rig.write("old", old, 2, 0, Flow::First).await.unwrap();
    assert_eq!(rig.write("old", old, 0, 0, Flow::First).await, Err(Error::NotInTransaction));
    assert!(rig.txns.is_pending("g", rig.topic.id, 0));
    rig.txns.end("id", who, Outcome::Commit, Flow::Second).await.unwrap();
    rig.txns.end("old", old, Outcome::Abort, Flow::First).await.unwrap();
    assert_eq!(rig.position("g"), Some(7));
    assert_eq!(rig.log.open_transactions().await.unwrap(), []);
    // Who went on with the old identity would be fenced, who starts again is not.
    assert_eq!(rig.txns.init("idle", Some(idle), 60_000).await.unwrap().epoch, idle.epoch + 1);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path()).await;
    let who = rig.txns.init("id", None, 5_000).await.unwrap();
    rig.write("id", who, 0, 0, Flow::Second).await.unwrap();
    tokio::time::sleep(Duration::from_millis(4_900)).await;
    assert_eq!(rig.state("id").await, Some(State::Ongoing));
    while rig.state("id").await == Some(State::Ongoing) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(rig.state("id").await, Some(State::CompleteAbort));
    assert_eq!(rig.log.read_committed(&part(0), 0, 1 << 20).await.unwrap().aborted.len(), 1);
    assert_eq!(rig.write("id", who, 0, 1, Flow::Second).await, Err(Error::Fenced));
    assert_eq!(rig.txns.end("id", who, Outcome::Commit, Flow::Second).await, Err(Error::Fenced));
    assert_eq!(rig.txns.init("id", Some(who), 5_000).await, Err(Error::Fenced));
    let again = rig.txns.init("id", None, 5_000).await.unwrap();
    assert_eq!((again.id, again.epoch), (who.id, who.epoch + 2));
}

#[tokio::test(start_paused = true)]
async fn ids_that_nobody_uses_are_forgotten_by_time_and_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig_with(dir.path(), Config { max_ids: 3, ..Config::default() }).await;
    let mut first = None;
    for id in ["a", "b", "c", "d"] {
        let who = rig.txns.init(id, None, 900_000).await.unwrap();
        first.get_or_insert(who);
        rig.txns.add_partitions(id, who, vec![part(0)]).await.unwrap();
        if id != "b" {
            rig.txns.end(id, who, Outcome::Abort, Flow::First).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ids = |listed: Vec<Listed>| listed.into_iter().map(|l| l.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(rig.txns.list().await), ["b", "c", "d"], "the longest unused gives way");
    let gone = rig.txns.end("a", first.unwrap(), Outcome::Abort, Flow::First).await;
    assert_eq!(gone, Err(Error::UnknownProducer));
    let week_ms = Config::default().expiration_ms;
    tokio::time::sleep(Duration::from_millis(week_ms / 2)).await;
    rig.txns.init("d", None, 900_000).await.unwrap();
    tokio::time::sleep(Duration::from_millis(week_ms / 2 + 7_200_000)).await;
    assert_eq!(ids(rig.txns.list().await), ["d"]);
    assert_eq!(rig.log.states(record::OWNER, &[record::ID_KIND]).unwrap().len(), 1);
}

#[tokio::test]
async fn a_topic_that_is_deleted_does_not_keep_a_transaction_from_ending() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path()).await;
    let who = rig.txns.init("id", None, 60_000).await.unwrap();
    let create = Change::Create { name: "u".into(), partitions: 1, settings: BTreeMap::new() };
    rig.log.change(create, Vec::new()).await.unwrap();
    rig.write("id", who, 0, 0, Flow::Second).await.unwrap();
    rig.txns.add_partitions("id", who, vec![Partition::new("u", 0)]).await.unwrap();
    rig.log.change(Change::Delete { name: "u".into() }, Vec::new()).await.unwrap();
    rig.txns.end("id", who, Outcome::Commit, Flow::Second).await.unwrap();
    assert_eq!(rig.bounds(0).last_stable, 2);
}

#[tokio::test]
async fn what_waits_for_transactions_is_bounded_and_ids_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig_with(dir.path(), Config { staged_limit_bytes: 400, ..Config::default() }).await;
    let who = rig.txns.init("id", None, 60_000).await.unwrap();
    rig.stage(who, "g", 1).await.unwrap();
    rig.stage(who, "g", 2).await.unwrap();
    rig.stage(who, "h", 2).await.unwrap();
    assert_eq!(rig.stage(who, "i", 2).await, Err(Error::NotAvailable));
    rig.txns.end("id", who, Outcome::Abort, Flow::First).await.unwrap();
    rig.stage(who, "i", 2).await.unwrap();
    assert_eq!(rig.txns.init("", None, 1).await, Err(Error::InvalidId));
    assert_eq!(rig.txns.init(&"x".repeat(400), None, 1).await, Err(Error::InvalidId));
    assert!(rig.txns.init(&"x".repeat(399), None, 1).await.is_ok());
    for timeout_ms in [0, -1, 900_001] {
        assert_eq!(rig.txns.init("id", None, timeout_ms).await, Err(Error::InvalidTimeout));
    }
    let stranger = Identity::NONE;
    assert_eq!(rig.txns.add_partitions("id", stranger, vec![part(0)]).await, Err(Error::UnknownProducer));
}
