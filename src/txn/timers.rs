//! The one task behind all transactions: aborts those that take too long, and forgets ids that nobody uses.
//!
//! Sleeps until the earliest deadline; without an open transaction it wakes once an hour.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Error, Shared, Txns, machine::Uptime};

/// How often unused ids are looked for.
const EXPIRATION_ROUND: Duration = Duration::from_secs(3600);
/// Pause after an abort that the log refused, because it is full.
const RETRY: Duration = Duration::from_secs(1);

impl Txns {
    /// Runs the timers until `stop`.
    ///
    /// # Errors
    /// [`Error::Log`] when the log has stopped.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), Error> {
        let shared = &self.0;
        let mut round = tokio::time::interval(EXPIRATION_ROUND);
        loop {
            let next = shared.abort_overdue().await?;
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(shared.origin + Duration::from_millis(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep => {}
                () = shared.sooner.notified() => {}
                _ = round.tick() => shared.forget_unused().await?,
            }
        }
    }
}

impl Shared {
    /// Aborts what is overdue and says when to come again.
    pub(super) async fn abort_overdue(&self) -> Result<Option<Uptime>, Error> {
        loop {
            let first = self.watched().deadlines.first().cloned();
            let Some((deadline, id)) = first else { return Ok(None) };
            if deadline > self.now() {
                return Ok(Some(deadline));
            }
            if let Some(mut machine) = self.lock(&id).await {
                // It may have ended while the lock was waited for, and another begun.
                let Some(turn) = machine.expire(self.now()) else {
                    self.watched().deadlines.remove(&(deadline, id));
                    continue;
                };
                tracing::info!(transactional_id = %id, "a transaction took longer than its time-out and is aborted");
                match self.settle(&id, &mut machine, turn).await {
                    Ok(()) => self.timed_out.increment(),
                    Err(Error::Log(crate::log::Error::Full)) => {
                        tracing::warn!(transactional_id = %id, "no room to abort a transaction; it is tried again");
                        drop(machine);
                        tokio::time::sleep(RETRY).await;
                    }
                    Err(error) => return Err(error),
                }
            } else {
                self.watched().deadlines.remove(&(deadline, id));
            }
        }
    }

    /// Forgets the ids that were not used for too long.
    pub(super) async fn forget_unused(&self) -> Result<(), Error> {
        let oldest = self.now().checked_sub(self.config.expiration_ms);
        let Some(oldest) = oldest else { return Ok(()) };
        let unused: Vec<Arc<str>> =
            self.idle().into_iter().filter(|(_, used)| *used <= oldest).map(|(id, _)| id).collect();
        for id in unused {
            self.forget(&id).await?;
        }
        Ok(())
    }
}
