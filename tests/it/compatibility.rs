//! docs/kafka-compatibility.md says what the code does.

use brooklet::{
    kafka::settings::{Setting, Standing, broker_settings, group_settings, topic_settings},
    wire::{ApiKey, api_versions::ApiVersionsRequest},
};

use crate::support::Broker;

const PAGE: &str = include_str!("../../docs/kafka-compatibility.md");

/// The rows of the table under a heading, without its two head lines.
fn rows(heading: &str) -> Vec<&'static str> {
    let (_, section) = PAGE.split_once(&format!("\n{heading}\n")).unwrap();
    section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2).collect()
}

#[tokio::test]
async fn every_api_that_is_advertised_is_documented_with_its_versions_and_no_other() {
    let broker = Broker::start().await;
    let mut client = broker.connect().await;
    let advertised = client.call(&ApiVersionsRequest::default(), 0).await.api_keys;
    let expected: Vec<_> = advertised
        .iter()
        .map(|api| {
            let name = ApiKey::try_from(api.api_key).unwrap().name();
            let versions = match (api.min_version, api.max_version) {
                (min, max) if min == max => min.to_string(),
                (min, max) => format!("{min}–{max}"),
            };
            format!("| {name} | {} | {versions} |", api.api_key)
        })
        .collect();
    let documented: Vec<_> =
        rows("## APIs").iter().map(|row| row.split_inclusive('|').take(4).collect::<String>()).collect();
    assert_eq!(documented, expected);
}

#[test]
fn every_setting_is_documented_with_what_becomes_of_it() {
    let row = |s: &Setting| {
        let standing = match s.standing {
            Standing::Honoured => "honoured",
            Standing::Accepted => "accepted",
            Standing::Static => "from the file",
            Standing::Fixed => "refused",
        };
        let default = s.default.filter(|d| !d.is_empty()).map_or(String::new(), |d| format!("`{d}`"));
        format!("| `{}` | {default} | {standing} | {} |", s.name, s.doc)
    };
    for (heading, table) in [
        ("## Topic settings", topic_settings()),
        ("## Group settings", group_settings()),
        ("## Broker settings", broker_settings()),
    ] {
        assert_eq!(rows(heading), table.iter().map(row).collect::<Vec<_>>(), "{heading}");
    }
}
