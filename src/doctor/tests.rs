use std::{fs, path::PathBuf};

use super::*;
use crate::{
    config::Overrides,
    log::{self, Log},
    metrics::Registry,
};

fn config(dir: PathBuf, text: &str) -> Config {
    let file = dir.join("doctor.toml");
    fs::write(&file, format!("[admin]\nlisten = \"127.0.0.1:0\"\n{text}")).unwrap();
    let overrides = Overrides { data_dir: Some(dir), listen: Some("127.0.0.1:0".into()), ..Overrides::default() };
    Config::load(Some(&file), &overrides).unwrap()
}

fn of<'a>(report: &'a Report, subject: &str) -> Vec<&'a Finding> {
    report.findings.iter().filter(|f| f.subject == subject).collect()
}

#[tokio::test]
async fn it_leaves_nothing_behind_and_works_beside_a_log_that_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path().to_owned(), "");
    let before = fs::read_dir(dir.path()).unwrap().count();
    let report = look(&config).await;
    assert_eq!(report.daemon, None);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);

    let log = Log::open(log::Config::new(dir.path()), &Registry::default()).unwrap();
    let report = look(&config).await;
    assert_eq!(report.daemon, Some(std::process::id()));
    let card = report.card.unwrap();
    assert!(card.append.count > 0 && card.reuse.count > 0);
    log.close().await;
    assert_eq!(look(&config).await.daemon, None, "and lets go of the lock");
}

#[tokio::test]
async fn a_quota_that_the_disk_cannot_hold_must_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let report = look(&config(dir.path().to_owned(), "[log]\nquota = \"900TiB\"\n")).await;
    assert_eq!(of(&report, "quota")[0].level, Level::Change);
    assert!(report.must_change());
}

#[tokio::test]
async fn a_port_in_use_and_a_target_that_is_not_there_must_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "[mirror.central]\nbootstrap_servers = [\"127.0.0.1:{closed}\"]\ntopics = [\"t\"]\n[mirror.off]\nenabled = false\n\
         bootstrap_servers = [\"127.0.0.1:{closed}\"]\ntopics = [\"t\"]\n"
    );
    let mut config = config(dir.path().to_owned(), &text);
    config.kafka.listeners[0].port = port;
    let report = look(&config).await;
    let listener = of(&report, "kafka.listeners")[0];
    assert!(listener.level == Level::Change && listener.advice.as_ref().unwrap().contains(&port.to_string()));
    let mirror = of(&report, "mirror.central")[0];
    assert!(mirror.level == Level::Change && mirror.found.contains(&closed.to_string()), "{mirror:?}");
    assert!(of(&report, "mirror.off").is_empty());
}
