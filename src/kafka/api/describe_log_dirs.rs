//! DescribeLogDirs: v1–4.
//!
//! Behaviour
//! * One directory, with the bytes kept of each partition. Its size is the log's quota, and what is usable the rest of
//!   it: that is what runs out.
//!
//! Version notes
//! * v3: a top-level error, never sent. v4: the two sizes.

use std::collections::BTreeMap;

use super::{Close, Context, partition_of};
use crate::wire::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
    DescribeLogDirsTopic,
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: DescribeLogDirsRequest,
) -> Result<DescribeLogDirsResponse, Close> {
    let log = &context.broker.log;
    let asked: Option<BTreeMap<String, Vec<i32>>> =
        request.topics.map(|topics| topics.into_iter().map(|t| (t.topic, t.partitions)).collect());
    let mut topics = Vec::new();
    for topic in context.topics().by_name.values() {
        let wanted = asked.as_ref().map(|asked| asked.get(&*topic.name));
        if wanted == Some(None) {
            continue;
        }
        let is_wanted = |index: &i32| wanted.flatten().is_none_or(|indexes| indexes.contains(index));
        let partitions = (0..topic.partitions).filter(is_wanted).filter_map(|index| {
            let bytes = log.partition_bytes(&partition_of(topic, index)?).ok()?;
            let partition_size = i64::try_from(bytes).unwrap_or(i64::MAX);
            Some(DescribeLogDirsPartition { partition_index: index, partition_size, ..Default::default() })
        });
        topics.push(DescribeLogDirsTopic { partitions: partitions.collect(), name: topic.name.to_string() });
    }
    let usage = log.usage();
    let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let result = DescribeLogDirsResult {
        log_dir: context.broker.data_dir.clone(),
        topics,
        total_bytes: size(usage.quota_bytes),
        usable_bytes: size(usage.quota_bytes.saturating_sub(usage.live_bytes)),
        ..Default::default()
    };
    Ok(DescribeLogDirsResponse { results: vec![result], ..Default::default() })
}
