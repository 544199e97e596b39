use proptest::prelude::*;

use super::*;

const TOPICS: u8 = 4;

fn topic(n: u8) -> TopicId {
    [n; 16]
}

/// Members with the topics that each wants and what it had; partitions by topic.
#[derive(Clone, Debug)]
struct Case {
    wants: Vec<BTreeSet<TopicId>>,
    partitions: BTreeMap<TopicId, i32>,
    had: Vec<BTreeSet<TopicPartition>>,
}

impl Case {
    fn assign(&self, assignor: Assignor) -> Vec<BTreeSet<TopicPartition>> {
        let ids: Vec<String> = (0..self.wants.len()).map(|n| format!("m{n:02}")).collect();
        let candidates: Vec<Candidate<'_>> = (self.wants.iter().zip(&self.had).zip(&ids))
            .map(|((topics, had), id)| Candidate { id, instance_id: None, topics, had })
            .collect();
        assignor.assign(&candidates, &self.partitions)
    }

    /// Every partition that somebody wants is with one who wants it, and nothing else is with anybody.
    fn check(&self, shares: &[BTreeSet<TopicPartition>]) {
        assert_eq!(shares.len(), self.wants.len());
        let mut seen = BTreeSet::new();
        for (share, wants) in shares.iter().zip(&self.wants) {
            for partition in share {
                assert!(wants.contains(&partition.0), "nobody gets what it does not want");
                assert!(seen.insert(*partition), "nothing goes to two");
            }
        }
        let wanted: BTreeSet<TopicId> = self.wants.iter().flatten().copied().collect();
        let all: BTreeSet<TopicPartition> = (self.partitions.iter().filter(|(topic, _)| wanted.contains(*topic)))
            .flat_map(|(topic, n)| (0..*n).map(|index| (*topic, index)))
            .collect();
        assert_eq!(seen, all, "nothing is left");
    }

    fn is_homogeneous(&self) -> bool {
        self.wants.windows(2).all(|pair| pair[0] == pair[1])
    }
}

fn spread(shares: &[BTreeSet<TopicPartition>]) -> usize {
    let sizes = || shares.iter().map(BTreeSet::len);
    sizes().max().unwrap_or(0) - sizes().min().unwrap_or(0)
}

fn kept(before: &[BTreeSet<TopicPartition>], after: &[BTreeSet<TopicPartition>]) -> usize {
    before.iter().zip(after).map(|(b, a)| b.intersection(a).count()).sum()
}

fn case() -> impl Strategy<Value = Case> {
    let topics = prop::collection::btree_set((0..TOPICS).prop_map(topic), 0..=usize::from(TOPICS));
    let wants = prop_oneof![
        (topics.clone(), 1..8usize).prop_map(|(topics, n)| vec![topics; n]),
        prop::collection::vec(topics, 1..8),
    ];
    let partitions = prop::collection::btree_map((0..TOPICS).prop_map(topic), 1..9i32, 0..=usize::from(TOPICS));
    // Owners of partitions by chance, of topics that are gone and that nobody wants too.
    let had = prop::collection::btree_map(((0..TOPICS).prop_map(topic), 0..10i32), 0..8usize, 0..20);
    (wants, partitions, had).prop_map(|(wants, partitions, owners)| {
        let mut had = vec![BTreeSet::new(); wants.len()];
        for (partition, owner) in owners {
            let at = owner % wants.len();
            had[at].insert(partition);
        }
        Case { wants, partitions, had }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn everything_wanted_goes_to_one_who_wants_it(case in case()) {
        for assignor in [Assignor::Uniform, Assignor::Range] {
            let shares = case.assign(assignor);
            case.check(&shares);
            let again = Case { had: shares.clone(), ..case.clone() };
            prop_assert_eq!(again.assign(assignor), shares, "nothing moves without a cause");
        }
    }

    #[test]
    fn uniform_balances(case in case()) {
        let shares = case.assign(Assignor::Uniform);
        if case.is_homogeneous() {
            prop_assert!(spread(&shares) <= 1);
        }
        // Nobody has two more than another who wants the same topic.
        for (giver, share) in shares.iter().enumerate() {
            for (topic, _) in share {
                for (taker, wants) in case.wants.iter().enumerate() {
                    prop_assert!(!wants.contains(topic) || shares[taker].len() + 2 > shares[giver].len());
                }
            }
        }
    }

    /// One member comes to, or leaves, a balanced group: no more moves than the balance needs.
    #[test]
    fn uniform_is_sticky(members in 1..7usize, partitions in 1..30i32) {
        let of = |n: usize, had: Vec<BTreeSet<TopicPartition>>| Case {
            wants: vec![BTreeSet::from([topic(0)]); n],
            partitions: BTreeMap::from([(topic(0), partitions)]),
            had,
        };
        let total = usize::try_from(partitions).unwrap();
        let before = of(members, vec![BTreeSet::new(); members]).assign(Assignor::Uniform);
        let mut with_one_more = before.clone();
        with_one_more.push(BTreeSet::new());
        let after = of(members + 1, with_one_more.clone()).assign(Assignor::Uniform);
        prop_assert_eq!(kept(&with_one_more, &after), total - after[members].len(), "only what the new one gets moves");

        let left = after[..members].to_vec();
        let rest = of(members, left.clone()).assign(Assignor::Uniform);
        prop_assert_eq!(kept(&left, &rest), left.iter().map(BTreeSet::len).sum::<usize>(), "the others keep all they have");
    }
}

#[test]
fn range_gives_neighbours_and_the_same_numbers_of_all_topics() {
    let wants = BTreeSet::from([topic(0), topic(1)]);
    let case = Case {
        wants: vec![wants; 3],
        partitions: BTreeMap::from([(topic(0), 4), (topic(1), 4)]),
        had: vec![BTreeSet::new(); 3],
    };
    let shares = case.assign(Assignor::Range);
    let indexes = |at: usize, n: u8| shares[at].iter().filter(|p| p.0 == topic(n)).map(|p| p.1).collect::<Vec<_>>();
    for n in [0, 1] {
        assert_eq!((indexes(0, n), indexes(1, n), indexes(2, n)), (vec![0, 1], vec![2], vec![3]));
    }
}

#[test]
fn range_goes_by_static_names_first() {
    let topics = BTreeSet::from([topic(0)]);
    let nothing = BTreeSet::new();
    let member = |id, instance_id| Candidate { id, instance_id, topics: &topics, had: &nothing };
    let members = [member("a", None), member("z", Some("one")), member("b", Some("two"))];
    let shares = Assignor::Range.assign(&members, &BTreeMap::from([(topic(0), 3)]));
    let indexes: Vec<i32> = shares.iter().flatten().map(|p| p.1).collect();
    assert_eq!(indexes, [2, 0, 1]);
}
