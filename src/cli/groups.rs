//! `brooklet groups`: list, describe, reset offsets and delete, against any Kafka.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{args::GroupsCommand, broker::Connected, print, table::Table};
use crate::wire::{
    ErrorCode,
    consumer_group_describe::ConsumerGroupDescribeRequest,
    consumer_protocol::{ConsumerProtocolAssignment, decode_versioned},
    delete_groups::DeleteGroupsRequest,
    describe_groups::{DescribeGroupsRequest, DescribedGroup},
    list_groups::ListGroupsRequest,
};

/// Runs one of the subcommands.
pub(super) async fn groups(mut broker: Connected, command: GroupsCommand) -> anyhow::Result<()> {
    match command {
        GroupsCommand::List { json } => list(&mut broker, json).await,
        GroupsCommand::Describe { groups, json } => describe(&mut broker, groups, json).await,
        GroupsCommand::ResetOffsets {
            group,
            topic,
            to_earliest,
            to_latest,
            to_offset,
            shift_by,
            to_datetime,
            execute,
        } => {
            let target = match (to_earliest, to_latest, to_offset, shift_by, to_datetime) {
                (true, ..) => Target::Time(-2),
                (_, true, ..) => Target::Time(-1),
                (_, _, Some(offset), ..) => Target::Offset(offset),
                (_, _, _, Some(by), _) => Target::Shift(by),
                (.., Some(time)) => Target::Time(time_ms(&time)?),
                _ => bail!("give one of --to-earliest, --to-latest, --to-offset, --shift-by, --to-datetime"),
            };
            reset(&mut broker, &group, &topic, &target, execute).await
        }
        GroupsCommand::Delete { groups } => delete(&mut broker, &groups).await,
    }
}

enum Target {
    Offset(i64),
    Shift(i64),
    /// Milliseconds since 1970, or ListOffsets' -1 and -2.
    Time(i64),
}

fn time_ms(text: &str) -> anyhow::Result<i64> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let time = humantime::parse_rfc3339_weak(text).with_context(|| {
        format!("'{text}': expected milliseconds since 1970 or a time such as 2026-11-21T08:00:00Z")
    })?;
    Ok(i64::try_from(time.duration_since(std::time::UNIX_EPOCH)?.as_millis())?)
}

async fn names(broker: &mut Connected) -> anyhow::Result<BTreeMap<String, (String, String)>> {
    let request = ListGroupsRequest { states_filter: Vec::new(), types_filter: Vec::new() };
    let mut found = BTreeMap::new();
    for answer in broker.every(&request).await? {
        if answer.error_code.is_error() {
            bail!("listing groups: {}", answer.error_code);
        }
        for g in answer.groups {
            found.insert(g.group_id, (g.group_state, g.protocol_type));
        }
    }
    Ok(found)
}

async fn list(broker: &mut Connected, json: bool) -> anyhow::Result<()> {
    let found = names(broker).await?;
    if json {
        let rows: Vec<_> =
            found.iter().map(|(n, (s, p))| json!({ "group": n, "state": s, "protocol_type": p })).collect();
        return print(&(serde_json::to_string(&rows)? + "\n"));
    }
    let mut table = Table::new(&["GROUP", "STATE", "TYPE"]);
    for (name, (state, kind)) in found {
        table.row([name, state, if kind.is_empty() { "-".into() } else { kind }]);
    }
    print(&table.text())
}

/// What is shown of a group, whichever protocol it follows.
struct Described {
    state: String,
    members: usize,
    /// Which member holds which partition: member id, client id and host.
    owners: BTreeMap<(String, i32), (String, String, String)>,
}

async fn described(broker: &mut Connected, group: &str) -> anyhow::Result<Described> {
    let request = DescribeGroupsRequest { groups: vec![group.to_owned()], include_authorized_operations: false };
    let answer = broker.coordinator(group, &request).await?;
    let found = answer.groups.into_iter().next().context("the broker's answer names no group")?;
    // A group of the consumer protocol is not found, or said to be dead by older versions.
    if (found.error_code == ErrorCode::GROUP_ID_NOT_FOUND || found.group_state == "Dead")
        && let Some(consumers) = described_consumers(broker, group).await
    {
        return Ok(consumers);
    }
    if found.error_code.is_error() {
        bail!("{group}: {}", found.error_message.unwrap_or_else(|| found.error_code.to_string()));
    }
    Ok(Described { owners: owners(&found), state: found.group_state, members: found.members.len() })
}

/// A group of the consumer protocol (KIP-848), if it is one and the broker knows such groups.
async fn described_consumers(broker: &mut Connected, group: &str) -> Option<Described> {
    let request =
        ConsumerGroupDescribeRequest { group_ids: vec![group.to_owned()], include_authorized_operations: false };
    let answer = broker.coordinator(group, &request).await.ok()?;
    let found = answer.groups.into_iter().next().filter(|found| !found.error_code.is_error())?;
    let mut owners = BTreeMap::new();
    for member in &found.members {
        for topic in &member.assignment.topic_partitions {
            for partition in &topic.partitions {
                let who = (member.member_id.clone(), member.client_id.clone(), member.client_host.clone());
                owners.insert((topic.topic_name.clone(), *partition), who);
            }
        }
    }
    Some(Described { owners, state: found.group_state, members: found.members.len() })
}

/// Which member of a classic group holds which partition: member id, client id and host.
fn owners(group: &DescribedGroup) -> BTreeMap<(String, i32), (String, String, String)> {
    let mut owners = BTreeMap::new();
    for member in &group.members {
        // Connect and Streams assign in their own formats; what is not a consumer's is left out.
        let Ok(assignment) = decode_versioned::<ConsumerProtocolAssignment>(member.member_assignment.clone()) else {
            continue;
        };
        for topic in assignment.assigned_partitions {
            for partition in topic.partitions {
                let who = (member.member_id.clone(), member.client_id.clone(), member.client_host.clone());
                owners.insert((topic.topic.clone(), partition), who);
            }
        }
    }
    owners
}

async fn describe(broker: &mut Connected, groups: Vec<String>, json: bool) -> anyhow::Result<()> {
    let groups = if groups.is_empty() { names(broker).await?.into_keys().collect() } else { groups };
    let mut documents = Vec::new();
    let heading =
        ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG", "CONSUMER-ID", "HOST", "CLIENT-ID"];
    let mut table = Table::new(&heading);
    for group in groups {
        let found = described(broker, &group).await?;
        let owners = found.owners;
        let mut committed = broker.committed(&group).await?;
        for key in owners.keys() {
            committed.entry(key.clone()).or_insert(-1);
        }
        for ((topic, partition), offset) in committed {
            let end = broker.offsets(&topic, &[partition], -1).await?.get(&partition).copied();
            let lag = end.filter(|_| offset >= 0).map(|e| (e - offset).max(0));
            let dash = || "-".to_owned();
            let (member, client, host) =
                owners.get(&(topic.clone(), partition)).cloned().unwrap_or_else(|| (dash(), dash(), dash()));
            documents.push(json!({
                "group": group, "state": found.state, "topic": topic, "partition": partition,
                "current_offset": (offset >= 0).then_some(offset), "log_end_offset": end, "lag": lag,
            }));
            let number = |n: Option<i64>| n.map_or_else(dash, |n| n.to_string());
            let numbers = [number((offset >= 0).then_some(offset)), number(end), number(lag)];
            let [current, end, lag] = numbers;
            table.row([group.clone(), topic, partition.to_string(), current, end, lag, member, host, client]);
        }
    }
    if json { print(&(serde_json::to_string(&documents)? + "\n")) } else { print(&table.text()) }
}

async fn reset(
    broker: &mut Connected,
    group: &str,
    topics: &[String],
    target: &Target,
    execute: bool,
) -> anyhow::Result<()> {
    let found = described(broker, group).await?;
    if found.members > 0 {
        bail!("{group} has {} members; stop them first", found.members);
    }
    let committed = broker.committed(group).await?;
    let mut partitions: Vec<(String, i32)> = committed.keys().cloned().collect();
    if !topics.is_empty() {
        partitions = Vec::new();
        for topic in topics {
            partitions.extend(broker.partitions(topic).await?.into_iter().map(|p| (topic.clone(), p)));
        }
    }
    if partitions.is_empty() {
        bail!("{group} has no offsets; name the topics with --topic");
    }
    let mut table = Table::new(&["GROUP", "TOPIC", "PARTITION", "OLD-OFFSET", "NEW-OFFSET"]);
    let mut changes = BTreeMap::new();
    for key @ (topic, partition) in &partitions {
        let mut at = async |time| -> anyhow::Result<i64> {
            let found = broker.offsets(topic, &[*partition], time).await?.get(partition).copied();
            found.with_context(|| format!("{topic}-{partition} has no offset"))
        };
        let (start, end) = (at(-2).await?, at(-1).await?);
        let old = committed.get(key).copied();
        let new = match target {
            Target::Offset(offset) => *offset,
            Target::Shift(by) => old.unwrap_or(start).saturating_add(*by),
            Target::Time(time) => match at(*time).await? {
                // No record is that new.
                -1 => end,
                found => found,
            },
        }
        .clamp(start, end.max(start));
        let old = old.map_or_else(|| "-".into(), |o| o.to_string());
        table.row([group.to_owned(), topic.clone(), partition.to_string(), old, new.to_string()]);
        changes.insert(key.clone(), new);
    }
    if execute {
        broker.commit(group, &changes, None).await?;
    }
    let note = if execute { "" } else { "nothing was changed; add --execute to do it\n" };
    print(&format!("{}{note}", table.text()))
}

async fn delete(broker: &mut Connected, groups: &[String]) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for group in groups {
        let request = DeleteGroupsRequest { groups_names: vec![group.clone()] };
        let answer = broker.coordinator(group, &request).await?;
        match answer.results.first() {
            Some(result) if result.error_code.is_error() => failed.push(format!("{group}: {}", result.error_code)),
            _ => print(&format!("deleted group {group}\n"))?,
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}
