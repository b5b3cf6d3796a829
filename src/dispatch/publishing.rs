//! What follows a claim: its tasks go to the broker, with a new lease where that takes long; then confirmation, Kafka's offset, log and
//! metrics.

use uuid::Uuid;

use super::outbox::{Entry, Left, Outbox};
use super::pass::Pass;
use super::{Decided, Deciding, Terms};
use crate::chaos::{self, Bug};
use crate::intake::{Batch, Source};
use crate::retry::{Stopped, until_done};
use crate::store::{ClaimRequest, Claimed, Claims, Renewal, Wanted};
use crate::tasks::{Publication, Task, TaskQueue, expires, publish_by};

/// A claim whose tasks the broker has, or soon will.
pub(super) struct Settled {
    publication_id: Uuid,
    wanted: Vec<Wanted>,
    claimed: Claimed,
    /// The batch, if this decided it to its end.
    ended: Option<Box<Pass>>,
    /// The triggers that were left to publish when their lease was renewed; `None` if all that were won.
    published: Option<Vec<Uuid>>,
}

/// Why the lease of an outbox entry could not be renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError<E> {
    #[error(transparent)]
    Store(#[from] E),
    #[error("a sweeper has the outbox entry under way")]
    Held,
}

impl<S: Source, C: Claims> Deciding<S, C> {
    /// Waits until the broker has what is under way, however often that takes a new lease. No sweeper takes that entry up meanwhile,
    /// nor the one that waits `behind` it.
    pub(super) async fn leave<Q: TaskQueue + 'static>(
        &mut self,
        outbox: &mut Outbox<Q, Settled>,
        behind: Option<Uuid>,
    ) -> Result<(), Stopped> {
        while let Some(hold_at) = outbox.hold_at() {
            let left = tokio::select! {
                biased;
                left = outbox.left() => left,
                () = tokio::time::sleep_until(hold_at) => self.hold(outbox, behind).await,
            };
            if let Some(left) = left {
                self.follow(left, outbox).await?;
            }
        }
        Ok(())
    }

    /// Tells the store that the entry under way is still ours, and the one `behind` it. What is under way may leave meanwhile.
    pub(super) async fn hold<Q: TaskQueue + 'static>(
        &mut self,
        outbox: &mut Outbox<Q, Settled>,
        behind: Option<Uuid>,
    ) -> Option<Result<Left<Settled>, Stopped>> {
        let ours: Vec<Uuid> = outbox.hold().into_iter().chain(behind).collect();
        let Self { claims, waits, .. } = self;
        let hold = async {
            for id in ours {
                match claims.renew(id).await {
                    // The attempt under way goes on with what it has; before the next one the store is asked again.
                    Ok(_) => waits.renew.recovered(),
                    Err(error) => drop(waits.renew.failed(&error)),
                }
            }
        };
        outbox.beside(hold).await.0
    }

    /// What follows an attempt to publish.
    pub(super) async fn follow<Q: TaskQueue + 'static>(
        &mut self,
        left: Result<Left<Settled>, Stopped>,
        outbox: &mut Outbox<Q, Settled>,
    ) -> Result<(), Stopped> {
        match left? {
            Left::Published(settled) => self.settle(settled).await,
            Left::Outdated(entry) => self.renew(entry, outbox).await?,
        }
        Ok(())
    }

    /// Lets the store renew the leases of an entry, and sends on its way what is left of it.
    async fn renew<Q: TaskQueue + 'static>(
        &mut self,
        entry: Entry<Settled>,
        outbox: &mut Outbox<Q, Settled>,
    ) -> Result<(), Stopped> {
        let Self { claims, waits, stop, .. } = self;
        let id = entry.publication.id;
        let renew = async || match claims.renew(id).await? {
            Renewal::Held => Err(RenewError::Held),
            Renewal::Taken(taken) => Ok(Some(taken)),
            Renewal::Over => Ok(None),
        };
        let Some(taken) = until_done(&mut waits.renew, stop, renew).await? else {
            // Published by a sweeper, or left to one.
            self.settle(Settled { published: Some(Vec::new()), ..entry.then }).await;
            return Ok(());
        };
        let publication = taken.publication;
        let published = publication.tasks.iter().map(|task| task.trigger_id).collect();
        outbox.begin(Entry { publication, then: Settled { published: Some(published), ..entry.then }, ..entry });
        Ok(())
    }

    /// Sends the tasks of a claim on their way. A part that goes on goes back to what is under way.
    pub(super) async fn send<Q: TaskQueue + 'static>(
        &mut self,
        pass: Pass,
        decided: Decided,
        outbox: &mut Outbox<Q, Settled>,
    ) -> Result<(), Stopped> {
        let Decided { request, claimed, asked_at } = decided;
        if pass.sums.parts == 1 {
            self.events.matched(&pass.batch, &pass.matches);
        }
        let won = || claimed.won.iter().map(|position| &request.wanted[*position]);
        let task = |wanted: &Wanted| Task { trigger_id: wanted.text.trigger_id, kwargs: wanted.text.kwargs(&request.pieces) };
        let Terms { lease, margin, .. } = self.terms;
        let publication = Publication {
            id: request.publication_id,
            expires: expires(claimed.leased_until, margin),
            // Of a claim whose reply was lost the lease is older than this attempt: it has to be renewed.
            publish_by: if claimed.is_repeated { asked_at } else { publish_by(asked_at, lease) },
            tasks: won().map(task).collect(),
        };
        let record_times = won().map(|wanted| (wanted.text.trigger_id, wanted.record_time_ms)).collect();
        if !request.goes_on && chaos::bug(Bug::CommitBeforePublish) {
            self.commit(&pass.batch).await;
        }
        if !claimed.won.is_empty() && chaos::bug(Bug::MarkBeforePublish) {
            self.claims.confirm(request.publication_id);
            self.flush().await?;
        }
        let ClaimRequest { publication_id, wanted, goes_on, .. } = request;
        let ended = if goes_on {
            self.backlog.put_back(pass);
            None
        } else {
            Some(Box::new(pass))
        };
        outbox.begin(Entry {
            publication,
            record_times,
            then: Settled { publication_id, wanted, claimed, ended, published: None },
        });
        Ok(())
    }

    /// What follows when the broker has the tasks of a claim.
    pub(super) async fn settle(&mut self, settled: Settled) {
        let Settled { publication_id, wanted, mut claimed, ended, published } = settled;
        // A sweeper may still have to publish these tasks, so this batch is not committed to Kafka. The commit of a later batch covers it.
        let is_left = published.as_ref().is_some_and(Vec::is_empty);
        if let Some(published) = published {
            claimed.won.retain(|position| published.contains(&wanted[*position].text.trigger_id));
        }
        if !claimed.won.is_empty() {
            self.claims.confirm(publication_id);
        }
        self.events.enqueued(&wanted, &claimed.won);
        let Some(pass) = ended else { return };
        let Pass { batch, matches, sums, .. } = *pass;
        chaos::point("before_commit");
        if !is_left {
            self.commit(&batch).await;
        }
        chaos::point("after_commit");
        self.events.decided(&matches, sums.enqueued, sums.known, &sums.unknown_statuses);
        self.metrics.decided(&batch, &matches, sums.enqueued, sums.known);
        self.source.give_back(batch);
    }

    /// Last, always. A failure costs nothing: the store knows, and the next commit covers it.
    pub(super) async fn commit(&mut self, batch: &Batch) {
        if let Err(error) = self.source.commit(&batch.offsets).await {
            tracing::warn!(event = "kafka_commit_failed", %error);
        }
    }
}
