//! What the daemon wrote and flushed, and the file that a power cut may leave of it.
//!
//! The model: what a flush covered stays. Each 4 KiB block, or 512-byte sector, of what was written since is there or
//! not, on its own, so that blocks survive in any combination; that covers every order in which a disk writes. Not in the
//! model: damage to what was flushed, a disk that lies about flushes, metadata of the file system.

use std::{fs, path::Path};

use crate::dice::Dice;

const HEAD_BYTES: usize = 25;

/// What the shim recorded; see its head for the meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A write from `place` on; its bytes lie in the trace.
    Write {
        place: usize,
        is_durable: bool,
        from: usize,
        to: usize,
    },
    FlushBegins {
        number: u64,
    },
    Flushed {
        number: u64,
    },
    Resize {
        size: usize,
    },
    Named,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) at_ns: u64,
    pub(crate) kind: Kind,
}

/// A recorded run.
pub(crate) struct Trace {
    bytes: Vec<u8>,
    pub(crate) events: Vec<Event>,
}

impl Trace {
    pub(crate) fn read(file: &Path) -> Self {
        Self::parse(fs::read(file).unwrap())
    }

    /// An event at the end that was not recorded whole is one that had not been answered.
    fn parse(bytes: Vec<u8>) -> Self {
        let mut events = Vec::new();
        let mut at = 0;
        while let Some(head) = bytes.get(at..at + HEAD_BYTES) {
            let number = |from: usize| u64::from_le_bytes(head[from..from + 8].try_into().unwrap());
            let (at_ns, a, b) = (number(1), number(9), number(17));
            let (place, length) = (usize::try_from(a).unwrap(), usize::try_from(b).unwrap());
            let from = at + HEAD_BYTES;
            let kind = match head[0] {
                kind @ (b'W' | b'D') => {
                    if from + length > bytes.len() {
                        break;
                    }
                    Kind::Write { place, is_durable: kind == b'D', from, to: from + length }
                }
                b'B' => Kind::FlushBegins { number: a },
                b'S' => Kind::Flushed { number: a },
                b'T' => Kind::Resize { size: place },
                b'R' => Kind::Named,
                other => panic!("the trace has an event of kind {other}"),
            };
            at = from + length;
            events.push(Event { at_ns, kind });
        }
        Self { bytes, events }
    }

    /// When the third flush from `event` on was over: what is shown only after a later flush is shown by then.
    pub(crate) fn flushed_after_ns(&self, event: usize) -> u64 {
        let mut flushed = self.events[event..].iter().filter(|e| matches!(e.kind, Kind::Flushed { .. }));
        flushed.nth(2).map_or(u64::MAX, |e| e.at_ns)
    }

    /// When the third flush before `event` was over: what was written by then has been flushed before `event`, with
    /// whatever names it.
    pub(crate) fn flushed_before_ns(&self, event: usize) -> u64 {
        let mut flushed = self.events[..event].iter().rev().filter(|e| matches!(e.kind, Kind::Flushed { .. }));
        flushed.nth(2).map_or(0, |e| e.at_ns)
    }

    /// The next end of a flush, or `event` if none follows.
    pub(crate) fn next_flushed(&self, event: usize) -> usize {
        let later = self.events[event..].iter().position(|e| matches!(e.kind, Kind::Flushed { .. }));
        later.map_or(event, |after| event + after)
    }

    /// When flushes began.
    pub(crate) fn flushes_ns(&self) -> Vec<u64> {
        let begins = self.events.iter().filter(|e| matches!(e.kind, Kind::FlushBegins { .. }));
        begins.map(|e| e.at_ns).collect()
    }
}

/// A write that may or may not have reached the medium, by its event.
#[derive(Clone, Copy)]
struct Pending {
    event: usize,
    place: usize,
    from: usize,
    to: usize,
}

/// The medium, up to some event.
pub(crate) struct Medium<'a> {
    trace: &'a Trace,
    /// Nothing is ever flushed.
    is_lying: bool,
    next: usize,
    durable: Vec<u8>,
    is_named: bool,
    pending: Vec<Pending>,
    flushes: Vec<(u64, usize)>,
}

impl<'a> Medium<'a> {
    /// From a file that was there and durable; `None`: from nothing.
    pub(crate) fn new(trace: &'a Trace, before: Option<Vec<u8>>, is_lying: bool) -> Self {
        let is_named = before.is_some();
        let (pending, flushes) = (Vec::new(), Vec::new());
        Self { trace, is_lying, next: 0, durable: before.unwrap_or_default(), is_named, pending, flushes }
    }

    /// Lets everything before `event` happen.
    pub(crate) fn advance(&mut self, event: usize) {
        for index in self.next..event {
            match self.trace.events[index].kind {
                Kind::Write { place, is_durable, from, to } => {
                    if is_durable && !self.is_lying {
                        self.forget(place, place + to - from);
                        put(&mut self.durable, place, &self.trace.bytes[from..to]);
                    } else {
                        self.pending.push(Pending { event: index, place, from, to });
                    }
                }
                Kind::FlushBegins { number } => self.flushes.push((number, index)),
                Kind::Flushed { number } => {
                    let at = self.flushes.iter().position(|(n, _)| *n == number).expect("a flush begins first");
                    let (_, begun) = self.flushes.swap_remove(at);
                    if !self.is_lying {
                        self.flush(begun);
                    }
                }
                Kind::Resize { size } => self.durable.resize(size, 0),
                Kind::Named => self.is_named = true,
            }
        }
        self.next = self.next.max(event);
    }

    /// What was pending in `start..end` of the file lies below a durable write now.
    fn forget(&mut self, start: usize, end: usize) {
        let pending = std::mem::take(&mut self.pending);
        for write in pending {
            let (first, last) = (write.place, write.place + write.to - write.from);
            if last <= start || end <= first {
                self.pending.push(write);
                continue;
            }
            if first < start {
                self.pending.push(Pending { to: write.from + start - first, ..write });
            }
            if end < last {
                self.pending.push(Pending { place: end, from: write.from + end - first, ..write });
            }
        }
    }

    /// A page written twice comes out as it was written last, also where the first write was flushed later.
    fn flush(&mut self, begun: usize) {
        for write in self.pending.extract_if(.., |write| write.event < begun) {
            put(&mut self.durable, write.place, &self.trace.bytes[write.from..write.to]);
        }
    }

    /// The file after a power cut now: `None` if it has no name yet.
    pub(crate) fn cut(&self, dice: &mut Dice) -> Option<Vec<u8>> {
        let mut image = self.durable.clone();
        let at_cut = self.trace.events.get(self.next).map(|e| e.kind);
        let in_flight = match at_cut {
            Some(Kind::Write { place, from, to, .. }) => Some(Pending { event: self.next, place, from, to }),
            _ => None,
        };
        // One for all: from nothing to everything survives.
        let kept_quarters = dice.within(0, 5);
        for write in self.pending.iter().copied().chain(in_flight) {
            let step = if dice.is_one_in(4) { 512 } else { 4096 };
            let bytes = &self.trace.bytes[write.from..write.to];
            let mut at = 0;
            while at < bytes.len() {
                let place = write.place + at;
                let to = (at + step - place % step).min(bytes.len());
                if dice.within(0, 4) < kept_quarters {
                    put(&mut image, place, &bytes[at..to]);
                }
                at = to;
            }
        }
        self.is_named.then_some(image)
    }

    /// The file as the page cache has it: everything written.
    pub(crate) fn whole(&self) -> Vec<u8> {
        let mut image = self.durable.clone();
        for write in &self.pending {
            put(&mut image, write.place, &self.trace.bytes[write.from..write.to]);
        }
        image
    }
}

fn put(file: &mut Vec<u8>, place: usize, bytes: &[u8]) {
    let end = place + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[place..end].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u8, a: u64, data: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend([7u64, a, data.len() as u64].iter().flat_map(|n| n.to_le_bytes()));
        out.extend_from_slice(data);
        out
    }

    fn trace(events: &[(u8, u64, &[u8])]) -> Trace {
        Trace::parse(events.iter().flat_map(|(kind, a, data)| event(*kind, *a, data)).collect())
    }

    /// Every file that many cuts before `event` leave.
    fn files(trace: &Trace, event: usize) -> std::collections::BTreeSet<Vec<u8>> {
        let mut medium = Medium::new(trace, Some(vec![0; 8192]), false);
        medium.advance(event);
        (0..400).map(|seed| medium.cut(&mut Dice::new(seed, 0)).unwrap()).collect()
    }

    #[test]
    fn flushed_blocks_stay_and_others_may_go() {
        let (old, new) = ([1; 8192], [2; 8192]);
        let trace =
            trace(&[(b'W', 0, &old), (b'B', 1, b""), (b'S', 1, b""), (b'W', 0, &new), (b'B', 2, b""), (b'S', 2, b"")]);
        let kinds = |event: usize| {
            files(&trace, event).iter().map(|f| (f[0], f[4096])).collect::<std::collections::BTreeSet<_>>()
        };
        // The write at the cut may have happened.
        assert_eq!(kinds(0), [(0, 0), (0, 1), (1, 0), (1, 1)].into());
        assert_eq!(kinds(2), [(0, 0), (0, 1), (1, 0), (1, 1)].into());
        assert_eq!(kinds(3), [(1, 1), (1, 2), (2, 1), (2, 2)].into());
        assert_eq!(kinds(6), [(2, 2)].into());
        assert!(files(&trace, 5).iter().any(|f| f[..512] != f[512..1024]), "torn at a sector");
    }

    #[test]
    fn a_flush_covers_what_was_written_before_it_began() {
        let trace = trace(&[
            (b'W', 0, &[1; 8192]),
            (b'B', 1, b""),
            (b'W', 0, &[2; 8192]),
            (b'S', 1, b""),
            (b'D', 0, &[3; 100]),
        ]);
        let firsts = |event: usize| files(&trace, event).iter().map(|f| f[8191]).collect::<Vec<_>>();
        assert!(firsts(4).contains(&1) && firsts(4).contains(&2) && !firsts(4).contains(&0));
        assert!(files(&trace, 5).iter().all(|f| f[..100] == [3; 100]), "a durable write is not undone by an older one");
    }

    #[test]
    fn a_part_of_an_event_at_the_end_is_none() {
        let mut bytes = event(b'W', 0, &[1; 50]);
        bytes.extend(&event(b'W', 0, &[1; 50])[..40]);
        assert_eq!(Trace::parse(bytes).events.len(), 1);
    }
}
