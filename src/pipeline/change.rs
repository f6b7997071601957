//! Writes a volume without a mount, because a file has changed that its secrets come from.
//!
//! It takes the same steps as a mount, without a request: the class is the last mount's, the Pod's identity must still be valid, and the
//! policy decides again. Then the secrets are fetched and rendered as for a mount, with the same limits. If the volume has these files
//! already, nothing is reported.

use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::watch::{Due, Ended, Subject};
use super::{Facts, Found, Means, MountContext, MountError, Mounted, Paid, Pipeline, Ready, Record, in_time};
use crate::backend::Terms;
use crate::budget::{Payer, Purse};
use crate::model::PodTokens;
use crate::steps::{self, Steps};

/// How long a change may take: after that its volume waits for the next mount.
const LONGEST: Duration = Duration::from_secs(30);

/// The result of a change before anything is written.
enum Walked {
    /// A mount of the volume is under way: it writes the present secrets.
    Overtaken,
    /// The volume has these files already.
    Same,
    Ready(Box<Ready>),
}

impl Pipeline {
    /// Writes the volume if its secrets changed. After a failure the former files stay; it is reported once: in the audit, the log and the
    /// metrics.
    pub async fn change(&self, due: Due) {
        let (subject, began) = (Arc::clone(&due.subject), Instant::now());
        if *subject.configured != *self.backends.catalogue() || subject.limits != self.limits {
            // The class may mean something else now: the next mount reads it.
            return due.forget();
        }
        let cx = MountContext::new(due.request(), Arc::clone(&subject.provider), began, None, LONGEST);
        let mut record = Record::of_change(&cx, self.clock.now(), &subject);
        let walked = in_time(self.walk_change(&due, &cx, &mut record), &cx).await;
        let ready = match walked {
            Ok(Walked::Overtaken) => return,
            Ok(Walked::Same) => {
                due.note(Ended::Same, began);
                return;
            }
            Ok(Walked::Ready(ready)) => Ok(*ready),
            Err(error) => Err(error),
        };
        if let Err(error) = &ready
            && !due.note(Ended::Failed(error.code()), began)
        {
            return;
        }
        // With the turn, until the result is noted.
        let handed = self.hand_over(ready, &mut record, &cx).await;
        self.metrics.change(handed.as_ref().err().map(|error| error.code().as_str()));
        match handed {
            Ok(_handed) => {
                due.note(Ended::Written, began);
            }
            Err(error) => {
                due.note(Ended::Failed(error.code()), began);
                self.commons.told.tell_change(&error, due.tenant(), &subject, &cx);
                if is_final(&error) {
                    due.forget();
                }
            }
        }
    }

    /// Everything up to the write, which the caller does. All of it happens in the volume's turn, except the wait for a place.
    async fn walk_change(&self, due: &Due, cx: &MountContext, record: &mut Record) -> Result<Walked, MountError> {
        let Subject { pod, target, plan, permission, proof, class, .. } = &*due.subject;
        let overloaded = || self.refuse("place", MountError::Overloaded { waited: cx.arrived.elapsed() });
        let place = self.commons.places.take(due.tenant(), cx.queue_until).await.ok_or_else(overloaded)?;
        let means = Means { purse: Purse::new(&self.commons.budget, place), steps: Arc::new(Steps::new(steps::OF_A_MOUNT, cx.deadline)) };
        let purse = &means.purse;
        let reserved = self.deliverer.reserve_unasked(due.tenant(), pod, target, cx.deadline).await.map_err(MountError::Delivery)?;
        let Some(volume) = reserved.filter(|_| due.is_current()) else { return Ok(Walked::Overtaken) };
        self.identity.still_holds(proof).await.map_err(MountError::Identity)?;
        let permits = self.authorise(pod, plan, record)?;
        let payer = Some(Payer::new(purse));
        let terms =
            Terms { tokens: Arc::new(PodTokens::default()), fresh: plan.fresh, max_stale: plan.max_stale, payer, deadline: cx.deadline };
        let (found, rendered, expanded) = self.fetch_and_render(plan, &permits, &terms, *permission, (&means, cx), record).await?;
        let Found { secrets, paid, kept_back, .. } = found;
        let permits = expanded.map_or(permits, |expanded| expanded.permits);
        let (delivery, versions) = self.put_together(permits.plan(), &secrets, &rendered)?;
        let differs = volume.if_it_differs(delivery, cx.deadline).await.map_err(MountError::Delivery)?;
        let Some((volume, delivery)) = differs else { return Ok(Walked::Same) };
        self.commons.warn(purse.tenant(), class.as_deref().unwrap_or_default(), &rendered);
        record.delivered(Facts { permits, secrets, versions, rendered });
        let paid = Paid { contents: paid, _answer: kept_back, _purse: Arc::clone(purse) };
        Ok(Walked::Ready(Box::new(Ready { mounted: Mounted { delivery, paid }, volume, delivered: None })))
    }
}

/// Whether only another mount can help: the identity has expired, or the volume is gone.
fn is_final(error: &MountError) -> bool {
    match error {
        MountError::Identity(_) => true,
        MountError::Delivery(error) => error.is_of_target(),
        MountError::Audit(_)
        | MountError::Class(_)
        | MountError::Fetch(_)
        | MountError::Internal
        | MountError::NoRoom
        | MountError::Overloaded { .. }
        | MountError::Oversize(_)
        | MountError::Policy(_)
        | MountError::Render(_)
        | MountError::Request(_)
        | MountError::TimedOut { .. }
        | MountError::TooMuch { .. } => false,
    }
}
