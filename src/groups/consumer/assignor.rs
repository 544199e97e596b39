//! Who of a group gets which partition: Kafka's two server-side assignors, pure.
//!
//! Every partition of a topic that somebody wants goes to exactly one who wants it. `uniform` balances and leaves as much
//! as it can where it is; `range` gives neighbours of every topic to the same member and does not look at what was.
//! Never decides when to assign, nor when a member may have what it is meant to have.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use crate::log::TopicId;

/// A partition, by the id of its topic: a topic that was made anew is another one.
pub(in crate::groups) type TopicPartition = (TopicId, i32);

/// A way of sharing partitions out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assignor {
    /// Balanced over all topics, sticky.
    Uniform,
    /// Topic by topic in the order of the members, so that partitions of the same number meet.
    Range,
}

impl Assignor {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// The one with that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Uniform, Self::Range].into_iter().find(|assignor| assignor.name() == name)
    }

    /// Shares out, in the order of the members. `partitions` says how many each topic has; topics that are not in it are
    /// nobody's.
    pub(super) fn assign(
        self,
        members: &[Candidate<'_>],
        partitions: &BTreeMap<TopicId, i32>,
    ) -> Vec<BTreeSet<TopicPartition>> {
        let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (at, member) in members.iter().enumerate() {
            for topic in member.topics.iter().filter(|topic| partitions.contains_key(*topic)) {
                subscribers.entry(*topic).or_default().push(at);
            }
        }
        match self {
            Self::Uniform => uniform(members, partitions, &subscribers),
            Self::Range => range(members, partitions, &subscribers),
        }
    }
}

/// A member as an assignor sees it.
pub(super) struct Candidate<'a> {
    pub(super) id: &'a str,
    pub(super) instance_id: Option<&'a str>,
    /// What it wants.
    pub(super) topics: &'a BTreeSet<TopicId>,
    /// What it was meant to have so far. No two members were meant to have the same.
    pub(super) had: &'a BTreeSet<TopicPartition>,
}

type Subscribers = BTreeMap<TopicId, Vec<usize>>;

fn uniform(
    members: &[Candidate<'_>],
    partitions: &BTreeMap<TopicId, i32>,
    subscribers: &Subscribers,
) -> Vec<BTreeSet<TopicPartition>> {
    let exists = |(topic, index): &TopicPartition| partitions.get(topic).is_some_and(|n| (0..*n).contains(index));
    let mut taken = BTreeSet::new();
    let mut shares: Vec<BTreeSet<TopicPartition>> = Vec::with_capacity(members.len());
    for member in members {
        let kept = member.had.iter().filter(|p| member.topics.contains(&p.0) && exists(p));
        shares.push(kept.filter(|p| taken.insert(**p)).copied().collect());
    }
    let mut free: Vec<TopicPartition> = Vec::new();
    for topic in subscribers.keys() {
        free.extend((0..partitions[topic]).map(|index| (*topic, index)).filter(|p| !taken.contains(p)));
    }
    let is_homogeneous = subscribers.values().all(|all| all.len() == members.len());
    if is_homogeneous {
        fill_to_quota(&mut shares, free);
    } else {
        // Who has the fewest takers is given first, or nobody with room for it may be left.
        free.sort_by_key(|(topic, _)| subscribers[topic].len());
        for partition in free {
            let least = subscribers[&partition.0].iter().copied().min_by_key(|at| shares[*at].len());
            if let Some(at) = least {
                shares[at].insert(partition);
            }
        }
        even_out(&mut shares, subscribers);
    }
    shares
}

/// All want the same: each gets the same number, and one more where it does not come out even. Those who have most keep
/// the extra ones, so that nothing moves without need.
fn fill_to_quota(shares: &mut [BTreeSet<TopicPartition>], mut free: Vec<TopicPartition>) {
    let total = free.len() + shares.iter().map(BTreeSet::len).sum::<usize>();
    let (Some(least), Some(extra)) = (total.checked_div(shares.len()), total.checked_rem(shares.len())) else { return };
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|at| Reverse(shares[*at].len()));
    let quota = |rank: usize| least + usize::from(rank < extra);
    for (rank, at) in order.iter().enumerate() {
        while shares[*at].len() > quota(rank) {
            free.extend(shares[*at].pop_last());
        }
    }
    let mut free = free.into_iter();
    for (rank, at) in order.iter().enumerate() {
        let missing = quota(rank).saturating_sub(shares[*at].len());
        shares[*at].extend(free.by_ref().take(missing));
    }
}

/// Moves one partition at a time from who has most to who has least and wants it, while that helps. Each move makes the
/// sum of the squares smaller, so it ends.
fn even_out(shares: &mut [BTreeSet<TopicPartition>], subscribers: &Subscribers) {
    loop {
        let mut order: Vec<usize> = (0..shares.len()).collect();
        order.sort_by_key(|at| Reverse(shares[*at].len()));
        let movable = order.iter().find_map(|from| {
            let mut last_topic = None;
            let of_each_topic = shares[*from].iter().rev().filter(|p| last_topic.replace(p.0) != Some(p.0));
            let takers = of_each_topic.filter_map(|partition| {
                let to = subscribers.get(&partition.0)?.iter().copied().min_by_key(|at| shares[*at].len())?;
                (shares[to].len() + 2 <= shares[*from].len()).then_some((shares[to].len(), to, *partition))
            });
            takers.min().map(|(_, to, partition)| (*from, to, partition))
        });
        let Some((from, to, partition)) = movable else { return };
        shares[from].remove(&partition);
        shares[to].insert(partition);
    }
}

fn range(
    members: &[Candidate<'_>],
    partitions: &BTreeMap<TopicId, i32>,
    subscribers: &Subscribers,
) -> Vec<BTreeSet<TopicPartition>> {
    let mut shares = vec![BTreeSet::new(); members.len()];
    for (topic, subscribed) in subscribers {
        let mut order = subscribed.clone();
        // Static members first and by their names: a restart, which brings a new id, moves nothing.
        order.sort_by_key(|at| (members[*at].instance_id.is_none(), members[*at].instance_id, members[*at].id));
        let total = usize::try_from(partitions[topic]).unwrap_or(0);
        let (least, extra) = (total / order.len(), total % order.len());
        let mut next = 0..partitions[topic];
        for (rank, at) in order.into_iter().enumerate() {
            let quota = least + usize::from(rank < extra);
            shares[at].extend(next.by_ref().take(quota).map(|index| (*topic, index)));
        }
    }
    shares
}

#[cfg(test)]
mod tests;
