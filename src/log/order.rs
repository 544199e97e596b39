//! Whose oldest chunk goes next where room is needed.
//!
//! An index of the partitions' first chunks by what is lost with them, by priority and by age, so that a full log looks
//! at the chunks it deletes and no others. Only a first chunk may go: a log has no holes. What holds nothing that may go
//! is not in it. Pure bookkeeping of the writer, which tells it of every first chunk that changed.

use std::collections::{BTreeSet, HashMap};

use super::{OnFull, partition::Part};

/// What is lost with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    /// Nothing: it is at every centre that wants it, or no link wants it.
    None,
    /// Records that a link still wants.
    Unmirrored,
}

/// What goes first sorts first: no loss, then the topic of the least importance (9 of 0 to 9), then the oldest seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    loss: Loss,
    importance: u8,
    seal: u64,
    id: u32,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Order {
    on_full: OnFull,
    places: BTreeSet<Place>,
    by_id: HashMap<u32, Place>,
}

impl Order {
    pub(super) fn new(on_full: OnFull) -> Self {
        Self { on_full, places: BTreeSet::new(), by_id: HashMap::new() }
    }

    /// Notes the partition's first chunk, or the one after `skipped` chunks that are about to go.
    pub(super) fn note(&mut self, part: &Part, skipped: usize) {
        self.forget(part.id);
        let inner = part.lock();
        let Some(chunk) = inner.chunks.get(skipped).filter(|_| part.is_live()) else { return };
        let loss = if chunk.last() < inner.mirrored() { Loss::None } else { Loss::Unmirrored };
        // Refusing new records is asked for so that nothing is lost before its time. What no link wants is nowhere
        // else, so it counts as what is not mirrored yet.
        let is_kept = self.on_full == OnFull::Reject && (loss == Loss::Unmirrored || !inner.is_wanted());
        if is_kept {
            return;
        }
        let place = Place { loss, importance: 9 - inner.policy.priority(), seal: chunk.seal, id: part.id };
        drop(inner);
        self.places.insert(place);
        self.by_id.insert(part.id, place);
    }

    /// The partition is gone or empty.
    pub(super) fn forget(&mut self, id: u32) {
        if let Some(place) = self.by_id.remove(&id) {
            self.places.remove(&place);
        }
    }

    /// The partition whose first chunk goes next, and what is lost.
    pub(super) fn next(&self) -> Option<(u32, Loss)> {
        self.places.first().map(|place| (place.id, place.loss))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        log::{layout::ChunkRef, retention::Policy},
        record::Partition,
    };

    fn part(id: u32, priority: &str, seals: &[u64]) -> Part {
        let settings = BTreeMap::from([("brooklet.priority".to_owned(), priority.to_owned())]);
        let part = Part::new(id, Partition::new("a", 0), Policy::new(&settings));
        for (index, seal) in (0..).zip(seals) {
            let (max_timestamp_ms, last_delta, intake_s, length) = (0, 9, 0, 100);
            let base = index * 10;
            let chunk = ChunkRef { seal: *seal, base, max_timestamp_ms, last_delta, intake_s, length };
            part.lock().push_chunk(chunk);
        }
        part
    }

    /// Deletes all there is, in order.
    fn all(order: &mut Order, parts: &[Part]) -> Vec<(u32, u64, Loss)> {
        let mut out = Vec::new();
        while let Some((id, loss)) = order.next() {
            let part = parts.iter().find(|p| p.id == id).unwrap();
            let seal = part.lock().pop_chunk().unwrap().seal;
            out.push((id, seal, loss));
            order.note(part, 0);
        }
        out
    }

    #[test]
    fn nothing_lost_first_then_the_least_important_then_the_oldest() {
        let link: Arc<str> = "central".into();
        let parts = [part(0, "0", &[1, 6]), part(1, "9", &[2, 7]), part(2, "5", &[3, 8]), part(3, "5", &[4, 5])];
        for (part, mirrored) in parts.iter().zip([20, 10, 10, 0]) {
            part.lock().set_mirrored(&link, mirrored);
        }
        let mut order = Order::new(OnFull::DropOldest);
        parts.iter().for_each(|p| order.note(p, 0));
        let expected = [
            (1, 2, Loss::None),
            (2, 3, Loss::None),
            (0, 1, Loss::None),
            (0, 6, Loss::None),
            (1, 7, Loss::Unmirrored),
            (3, 4, Loss::Unmirrored),
            (3, 5, Loss::Unmirrored),
            (2, 8, Loss::Unmirrored),
        ];
        assert_eq!(all(&mut order, &parts), expected);
    }

    #[test]
    fn two_links_count_by_the_slower() {
        let parts = [part(0, "5", &[1])];
        parts[0].lock().set_mirrored(&"a".into(), 10);
        parts[0].lock().set_mirrored(&"b".into(), 9);
        let mut order = Order::new(OnFull::DropOldest);
        order.note(&parts[0], 0);
        assert_eq!(order.next(), Some((0, Loss::Unmirrored)));
        parts[0].lock().set_mirrored(&"b".into(), 10);
        order.note(&parts[0], 0);
        assert_eq!(order.next(), Some((0, Loss::None)));
    }

    #[test]
    fn refusing_keeps_what_is_nowhere_else() {
        let parts = [part(0, "9", &[1]), part(1, "5", &[2, 3])];
        let mut order = Order::new(OnFull::Reject);
        parts[1].lock().set_mirrored(&"a".into(), 10);
        parts.iter().for_each(|p| order.note(p, 0));
        assert_eq!(all(&mut order, &parts), [(1, 2, Loss::None)]);
    }
}
