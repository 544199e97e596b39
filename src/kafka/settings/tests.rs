use super::*;

fn topic_with(settings: &[(&str, &str)]) -> Topic {
    let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Topic { name: "t".into(), id: [1; 16], partitions: 1, settings }
}

fn file(entries: &[(&str, &str)]) -> Settings {
    let file = entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Settings(Mutex::new(Arc::new(Layers { file, ..Layers::default() })))
}

#[test]
fn tables_are_sorted_and_their_defaults_pass_their_own_checks() {
    for table in [topic_settings(), broker_settings()] {
        assert!(table.windows(2).all(|pair| pair[0].name < pair[1].name), "looked up by binary search");
        for setting in table {
            assert!(!setting.doc.is_empty(), "{}", setting.name);
            if let Some(default) = setting.default {
                assert_eq!(setting.check(default), Ok(()), "{}", setting.name);
            }
        }
    }
    for setting in topic_settings() {
        for (synonym, _) in setting.synonyms {
            assert!(broker_setting(synonym).is_some(), "{synonym} of {}", setting.name);
        }
    }
}

#[test]
fn a_topic_default_equals_its_finest_broker_default() {
    for setting in topic_settings() {
        if let Some(broker) = setting.synonyms.first().and_then(|(name, _)| broker_setting(name)) {
            assert!(broker.default.is_none() || broker.default == setting.default, "{}", setting.name);
        }
    }
}

#[test]
fn the_value_in_force_is_topic_then_broker_then_file_then_default() {
    let settings = file(&[("log.retention.hours", "24")]);
    assert_eq!(settings.topic_number(&topic_with(&[]), "retention.ms"), 86_400_000, "hours become milliseconds");
    assert_eq!(settings.topic_number(&topic_with(&[("retention.ms", "7")]), "retention.ms"), 7);
    assert_eq!(file(&[]).topic_number(&topic_with(&[]), "retention.ms"), 604_800_000);
    let finer = file(&[("log.retention.hours", "24"), ("log.retention.ms", "-1")]);
    assert_eq!(finer.topic_number(&topic_with(&[]), "retention.ms"), -1, "the finer name wins");
}

#[test]
fn describe_lists_every_layer_with_its_source() {
    let settings = file(&[("log.retention.ms", "5")]);
    let row = topic_setting("retention.ms").unwrap();
    let shown = settings.describe_topic(&topic_with(&[("retention.ms", "7")]), row);
    assert_eq!((shown.value.as_deref(), shown.source), (Some("7"), Source::Topic));
    let sources: Vec<_> =
        shown.synonyms.iter().map(|(name, value, source)| (*name, value.as_deref(), *source)).collect();
    assert_eq!(
        sources,
        [
            ("retention.ms", Some("7"), Source::Topic),
            ("log.retention.ms", Some("5"), Source::File),
            ("log.retention.ms", Some("604800000"), Source::Default)
        ]
    );
}

#[test]
fn wrong_values_are_named() {
    for (name, value, part) in [
        ("retention.ms", "soon", "Not a number of type LONG"),
        ("retention.ms", "-2", "at least -1"),
        ("cleanup.policy", "shred", "delete, compact"),
        ("cleanup.policy", "", "empty"),
        ("preallocate", "yes", "true or false"),
        ("min.cleanable.dirty.ratio", "2", "between 0 and 1"),
        ("remote.storage.enable", "true", "one of: false"),
        ("no.such", "1", "Unknown topic config name"),
    ] {
        let error = check_topic(name, value).unwrap_err();
        assert!(error.contains(part), "{name}={value}: {error}");
    }
    assert_eq!(check_topic("cleanup.policy", "compact,delete"), Ok(()));
    assert!(check_file("max.connections", "5").unwrap_err().contains("max_connections"));
    assert!(check_file("num.partition", "5").is_err());
    assert_eq!(check_file("num.partitions", "4"), Ok(()));
}

#[tokio::test]
async fn what_kafka_configs_set_outlives_the_broker() {
    let (log, _dir) = crate::kafka::tests_log();
    let settings = Settings::open(BTreeMap::new(), &log).unwrap();
    let change = |value: Option<&str>| BTreeMap::from([("log.retention.ms".to_owned(), value.map(str::to_owned))]);
    settings.change(&log, Scope::Brokers, change(Some("9"))).await.unwrap();
    settings.change(&log, Scope::Broker, change(Some("8"))).await.unwrap();
    let again = Settings::open(BTreeMap::new(), &log).unwrap();
    assert_eq!(again.broker_number("log.retention.ms"), 8);
    again.change(&log, Scope::Broker, change(None)).await.unwrap();
    let group = BTreeMap::from([("consumer.session.timeout.ms".to_owned(), Some("50000".to_owned()))]);
    again.change_group(&log, "a/b", group).await.unwrap();
    let again = Settings::open(BTreeMap::new(), &log).unwrap();
    assert_eq!(again.broker_number("log.retention.ms"), 9);
    assert_eq!((again.groups(), again.group_rules("a/b").session_timeout_ms), (vec!["a/b".to_owned()], Some(50_000)));
}
