//! `brooklet mirror status`: how far each link is; `brooklet mirror gaps`: what was lost before it was mirrored.

use std::path::Path;

use super::{
    Failure, print,
    status::{fetch, mirror_line, now_ms, rfc3339},
    table::{Table, bytes},
};

/// Prints the links of the local daemon.
pub(super) fn status(admin: Option<String>, config: Option<&Path>, json: bool) -> Result<(), Failure> {
    let (status, _) = fetch(admin, config)?;
    if json {
        let text = serde_json::to_string_pretty(&status.mirrors).map_err(anyhow::Error::from)?;
        return Ok(print(&(text + "\n"))?);
    }
    if status.mirrors.is_empty() {
        return Ok(print("no mirror is configured; see [mirror.NAME] in the configuration\n")?);
    }
    let mut out = String::new();
    for (name, link) in &status.mirrors {
        out.push_str(&mirror_line(name, link, now_ms()));
        out.push('\n');
        let mut table = Table::new(&["SOURCE", "TARGET", "SAFE UP TO OFFSET", "END", "BEHIND", "STATE"]);
        for p in &link.detail {
            let counts = [p.acked, p.end, p.end.saturating_sub(p.acked)].map(|n| n.to_string());
            let [acked, end, behind] = counts;
            table.row([p.source.clone(), p.target.clone(), acked, end, behind, p.state.clone()]);
        }
        out.push_str(&table.text());
    }
    Ok(print(&out)?)
}

/// Prints the gap ledger of the local daemon.
pub(super) fn gaps(admin: Option<String>, config: Option<&Path>, json: bool) -> Result<(), Failure> {
    let (status, _) = fetch(admin, config)?;
    if json {
        let text = serde_json::to_string_pretty(&status.gaps).map_err(anyhow::Error::from)?;
        return Ok(print(&(text + "\n"))?);
    }
    if status.gaps.is_empty() {
        return Ok(print("nothing was deleted before it was mirrored\n")?);
    }
    let mut table = Table::new(&["TOPIC", "PARTITION", "FROM", "TO", "RECORDS", "BYTES", "REASON", "TIME"]);
    for gap in status.gaps {
        let [partition, from] = [i64::from(gap.partition), gap.from].map(|n| n.to_string());
        let last = gap.to.saturating_sub(1).to_string();
        let time = gap.time_ms.map_or_else(|| "-".to_owned(), rfc3339);
        table.row([gap.topic, partition, from, last, gap.records.to_string(), bytes(gap.bytes), gap.reason, time]);
    }
    Ok(print(&table.text())?)
}
