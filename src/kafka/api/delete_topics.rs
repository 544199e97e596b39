//! DeleteTopics: v1–6.
//!
//! Behaviour
//! * The topic's records are gone when the answer leaves; fetches parked on it are answered, and its committed offsets
//!   forgotten. A topic made again under the name has another id.
//!
//! Version notes
//! * v3: TOPIC_DELETION_DISABLED where it is switched off. v5: messages. v6: by name or by id.

use std::sync::Arc;

use super::{Close, Context, error_code};
use crate::{
    groups,
    log::{self, Change, TopicId, Topics},
    wire::{
        ErrorCode,
        delete_topics::{DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse},
    },
};

pub(super) async fn handle(context: &Context<'_>, request: DeleteTopicsRequest) -> Result<DeleteTopicsResponse, Close> {
    let named = request.topic_names.into_iter().map(|name| DeleteTopicState { name: Some(name), ..Default::default() });
    let mut response = DeleteTopicsResponse::default();
    for asked in request.topics.into_iter().chain(named) {
        let mut result =
            DeletableTopicResult { name: asked.name.clone(), topic_id: asked.topic_id, ..Default::default() };
        match find(context, &context.topics(), &asked) {
            Ok((name, id)) => {
                (result.name, result.topic_id) = (Some(name.to_string()), id);
                if let Err(error) = delete(context, name, id).await {
                    (result.error_code, result.error_message) = (error_code(&error), Some(error.to_string()));
                }
            }
            Err(code) => result.error_code = code,
        }
        response.responses.push(result);
    }
    Ok(response)
}

/// Deletes the topic and what groups have committed for it in one commit.
async fn delete(context: &Context<'_>, name: Arc<str>, id: TopicId) -> Result<(), log::Error> {
    let offsets = groups::offsets::forget_topic(&context.broker.log, id)?;
    context.broker.log.change(Change::Delete { name }, offsets).await?;
    Ok(())
}

fn find(
    context: &Context<'_>,
    topics: &Topics,
    asked: &DeleteTopicState,
) -> Result<(Arc<str>, TopicId), ErrorCode> {
    if !context.broker.settings.broker_flag("delete.topic.enable") {
        let old = context.version < 3;
        return Err(if old { ErrorCode::INVALID_REQUEST } else { ErrorCode::TOPIC_DELETION_DISABLED });
    }
    let found = match &asked.name {
        Some(_) if asked.topic_id != [0; 16] => return Err(ErrorCode::INVALID_REQUEST),
        Some(name) => topics.get(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?,
        None => topics.by_id(asked.topic_id).ok_or(ErrorCode::UNKNOWN_TOPIC_ID)?,
    };
    Ok((Arc::clone(&found.name), found.id))
}
