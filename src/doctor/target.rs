//! A mirror's target: can it be reached, does it let us in, may we do there what a mirror does.
//!
//! Asks only what changes nothing: topics are created with `validate_only`, and no producer id is taken; whether one
//! would be given follows from the versions and rights that the target names.

use std::time::Duration;

use super::Finding;
use crate::{
    mirror::{
        Config, Naming,
        client::{Client, Error, Options},
    },
    wire::{
        ErrorCode,
        create_topics::{CreatableTopic, CreateTopicsRequest},
        describe_cluster::DescribeClusterRequest,
        init_producer_id::InitProducerIdRequest,
    },
};

/// Kafka's numbers of rights, which are places of bits.
const CREATE: i32 = 1 << 5;
const IDEMPOTENT_WRITE: i32 = 1 << 12;
/// What a broker says that was not asked, or does not know.
const UNSAID: i32 = i32::MIN;

const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at one link's target.
pub(super) async fn look(link: &str, node: &str, config: &Config) -> Vec<Finding> {
    let subject = format!("mirror.{link}");
    let security = match config.security() {
        Ok(security) => security,
        Err(error) => {
            return vec![Finding::change(&subject, error.to_string(), "mend the files and keys of this link")];
        }
    };
    let options = Options { connect_timeout: PATIENCE, request_timeout: PATIENCE, ..Options::default() };
    let client = Client::new(config.endpoints(), security, options);
    let mut findings = Vec::new();
    match ask(&subject, node, config, &client, &mut findings).await {
        Ok(()) => {}
        Err(error) => findings.push(Finding::change(&subject, error.to_string(), mend(&error))),
    }
    client.close().await;
    findings
}

fn mend(error: &Error) -> &'static str {
    match error {
        Error::SignIn(_) => "check username, password and sasl_mechanism with whoever runs the target",
        Error::Tls(_) => "check ca_file, and that the target's certificate names the host in bootstrap_servers",
        Error::Connect { .. } => {
            "check bootstrap_servers, the way there and its firewalls; records wait here meanwhile"
        }
        Error::Closed { .. } | Error::Timeout { .. } => {
            "something answers there that is no Kafka, or not with this security_protocol"
        }
        Error::Wire { .. } | Error::Unsupported(_) => "the target must be Apache Kafka 2.1 or newer, or speak as one",
        Error::NoBroker(_) | Error::Kafka { .. } => "the target does not tell where its brokers are; look at it first",
    }
}

async fn ask(
    subject: &str,
    node: &str,
    config: &Config,
    client: &Client,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let connection = client.any().await?;
    findings.push(Finding::ok(subject, format!("{} answers and lets us in", connection.endpoint())));
    let metadata = client.metadata(Some(&[])).await?;
    let brokers = metadata.brokers.len();
    findings.push(Finding::ok(subject, format!("a cluster of {brokers}, {}", metadata.cluster_id.unwrap_or_default())));
    // A mirror speaks to every leader, so each address that the cluster names must be reachable from here.
    for broker in &metadata.brokers {
        if let Err(error) = client.broker(broker.node_id).await {
            findings.push(Finding::change(
                subject,
                format!("its broker {} is told to be at {}:{}: {error}", broker.node_id, broker.host, broker.port),
                "the target's advertised.listeners must be reachable from here",
            ));
        }
    }
    let rights = match connection.version::<DescribeClusterRequest>() {
        Ok(_) => {
            let request = DescribeClusterRequest { include_cluster_authorized_operations: true, ..Default::default() };
            connection.call(&request).await?.cluster_authorized_operations
        }
        Err(_) => UNSAID,
    };
    if connection.version::<InitProducerIdRequest>().is_err() {
        findings.push(Finding::note(
            subject,
            "the target gives no producer ids: after a doubt records may arrive twice",
            "each record carries its source offset, by which they can be told; or mirror to Apache Kafka",
        ));
    } else if rights != UNSAID && rights & IDEMPOTENT_WRITE == 0 {
        // From Kafka 3.0 the right to write to any topic implies it.
        findings.push(Finding::ok(subject, "producer ids come with the right to write to the topics"));
    }
    if config.create_topics {
        findings.push(may_create(subject, node, config, client, rights).await?);
    } else {
        findings.push(Finding::ok(subject, "makes no topics there (create_topics = false)"));
    }
    Ok(())
}

/// Lets the target judge the making of a topic, without making it.
async fn may_create(
    subject: &str,
    node: &str,
    config: &Config,
    client: &Client,
    rights: i32,
) -> Result<Finding, Error> {
    let alias = config.alias.as_deref().unwrap_or(node);
    let name = match config.naming {
        Naming::Identity => "brooklet.doctor".to_owned(),
        _ => format!("{alias}{}brooklet.doctor", config.separator),
    };
    let topic = CreatableTopic {
        name: name.clone(),
        num_partitions: 1,
        replication_factor: config.replication_factor,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: true };
    let answer = client.controller().await?.call(&request).await?;
    let (code, message) = answer
        .topics
        .into_iter()
        .next()
        .map_or((ErrorCode::UNKNOWN_SERVER_ERROR, None), |t| (t.error_code, t.error_message));
    Ok(match code {
        ErrorCode::NONE | ErrorCode::TOPIC_ALREADY_EXISTS => {
            Finding::ok(subject, format!("may make topics there, such as {name}"))
        }
        ErrorCode::TOPIC_AUTHORIZATION_FAILED | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => {
            let has_cluster_right = rights != UNSAID && rights & CREATE != 0;
            let why = if has_cluster_right { " although the cluster says so" } else { "" };
            Finding::change(
                subject,
                format!("may not make topics there{why}: {code}"),
                format!(
                    "grant Create, Write and Describe on the topics it mirrors to (prefix '{alias}{}'), or make the \
                     topics and set create_topics = false",
                    config.separator
                ),
            )
        }
        ErrorCode::INVALID_REPLICATION_FACTOR => Finding::change(
            subject,
            format!("the target refuses replication_factor = {}", config.replication_factor),
            "set it to at most the number of its brokers, or leave it out",
        ),
        _ => Finding::change(
            subject,
            format!("the target refuses to make {name}: {code} {}", message.unwrap_or_default()),
            "mend what it says, or make the topics and set create_topics = false",
        ),
    })
}
