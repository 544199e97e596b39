//! What the log will cost the card: bytes per day and years.
//!
//! Pure. The figures for a trickle are those of `src/log/tests/wear.rs` and docs/durability.md: exact page counts with a
//! full log and all its state. What a running daemon really wrote is in its status, and better.

use bytesize::ByteSize;

use super::Finding;
use crate::log::WearBudget;

/// Bytes written by a commit that holds one record of 200 bytes, at most; 50 records a second that each come alone write
/// 65 to 95 times their bytes.
const LONE_COMMIT_BYTES: u64 = 25 << 10;
/// Seconds in a day.
const DAY_S: u64 = 86_400;

/// What is to be expected with this budget, on a card or not, and the rating of the card if it is known.
pub(super) fn expect(budget: WearBudget, is_card: bool, endurance_bytes: Option<u64>) -> Vec<Finding> {
    let lone = LONE_COMMIT_BYTES * DAY_S;
    let mut findings = vec![Finding::ok(
        "wear",
        format!(
            "a record that comes alone costs about {}: one a second {} a day; records that share a commit cost little \
             more than their bytes, and nothing is written while nothing arrives",
            size(LONE_COMMIT_BYTES),
            size(lone)
        ),
    )];
    let per_day = budget.bytes_per_day(is_card);
    findings.push(match per_day {
        Some(bytes) => Finding::ok(
            "wear",
            format!(
                "log.wear_budget: after {} in a day producers wait up to log.linger to share commits, which makes 50 \
                 records a second 11 GB a day instead of up to 110; nothing is refused",
                size(bytes)
            ),
        ),
        None if is_card => Finding::note(
            "wear",
            "log.wear_budget is off, and this is an SD card or eMMC: 50 records a second that come alone write up to \
             110 GB a day",
            "set log.wear_budget = \"auto\" unless the card is made for that",
        ),
        None => Finding::ok("wear", "no budget: this is neither SD card nor eMMC (log.wear_budget sets one)"),
    });
    findings.extend(match (endurance_bytes, per_day) {
        (Some(endurance), Some(per_day)) => Some(Finding::ok(
            "wear",
            format!(
                "log.endurance: {} last {} at the whole budget, longer with less",
                size(endurance),
                years(endurance, per_day)
            ),
        )),
        (None, _) if is_card => Some(Finding::note(
            "wear",
            "what the card is rated for is not known, so neither are the years it will last",
            "set log.endurance to the maker's TBW, such as \"30TB\"; cards without one bear a few hundred times their size",
        )),
        _ => None,
    });
    findings
}

/// What a daemon wrote per day of uptime, and how long the card bears that.
pub(super) fn so_far(per_day_bytes: u64, endurance_bytes: Option<u64>) -> Finding {
    let lasts =
        endurance_bytes.map(|endurance| format!("; log.endurance lasts {} of that", years(endurance, per_day_bytes)));
    Finding::ok("wear", format!("so far {} a day on average{}", size(per_day_bytes), lasts.unwrap_or_default()))
}

fn years(endurance_bytes: u64, per_day_bytes: u64) -> String {
    let days = endurance_bytes / per_day_bytes.max(1);
    match days {
        0..=729 => format!("{days} days"),
        _ => format!("{} years", days / 365),
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn years_follow_from_budget_and_rating() {
        let findings = expect(WearBudget::Auto, true, Some(30_000_000_000_000));
        assert!(findings[1].found.contains("20.0 GB in a day"), "{findings:?}");
        assert!(findings[2].found.contains("last 4 years"), "{findings:?}");
        let findings = expect(WearBudget::BytesPerDay(1_000_000_000_000), false, Some(30_000_000_000_000));
        assert!(findings[2].found.contains("last 30 days"), "{findings:?}");
        assert!(so_far(10_000_000_000, Some(30_000_000_000_000)).found.ends_with("lasts 8 years of that"));
    }

    #[test]
    fn a_card_without_budget_or_rating_is_told() {
        let levels = |findings: Vec<Finding>| findings.iter().map(|f| f.level).collect::<Vec<_>>();
        assert_eq!(levels(expect(WearBudget::Off, true, None)), [Level::Ok, Level::Note, Level::Note]);
        assert_eq!(levels(expect(WearBudget::Auto, false, None)), [Level::Ok, Level::Ok]);
    }
}
