//! Following the authority: members say what they use, and are told the trust bundle and when to renew.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future, stream, stream::BoxStream};
use reeve_core::{InstanceName, SpiffeId};
use reeve_svid::TrustBundle;
use tokio_stream::wrappers::WatchStream;

use crate::{
    CertificateAuthority,
    members::{Holding, MemberName, TooManyMembers},
};

/// Longest time over which members spread a renewal that was ordered.
const LONGEST_SPREAD: Duration = Duration::from_secs(60);

/// The same when nothing works until they have.
const EMERGENCY_SPREAD: Duration = Duration::from_secs(5);

/// What a member is told.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The trust bundle.
    pub bundle: Arc<TrustBundle>,
    /// Certificates of an earlier renewal are to be replaced.
    pub renewal: u64,
    /// Over how long members spread that.
    pub within: Duration,
}

/// What a member says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its identity, which the issuer checks.
    pub id: SpiffeId,
    /// Its instance.
    pub instance: InstanceName,
    /// What it uses for new connections.
    pub holding: Holding,
    /// Whether it ends now, and its certificate with it.
    pub leaving: bool,
}

impl CertificateAuthority {
    /// Follows for a member whose identity was checked: `reports` are taken until they end, and so does the answer.
    pub(crate) fn follow(
        self: &Arc<Self>,
        first: Report,
        reports: BoxStream<'static, Report>,
    ) -> Result<BoxStream<'static, Trust>, TooManyMembers> {
        let name = MemberName {
            id: first.id,
            instance: first.instance,
        };
        let id = name.id.clone();
        let session = self.join(name, first.holding)?;
        let heed = async move {
            let mut reports = reports;
            while let Some(report) = reports.next().await {
                if report.leaving {
                    return session.leave();
                }
                session.report(report.holding);
            }
        };
        let ca = Arc::clone(self);
        let faulty = Arc::clone(self);
        let until = async move {
            // Cancel safety: a session that is dropped is away.
            tokio::select! {
                () = heed => {}
                () = faulty.faults().away() => {}
                () = faulty.revoked_from_now(id) => {}
            }
        };
        let changes = stream::select(
            WatchStream::new(self.bundle()).map(|_| ()),
            WatchStream::new(self.renewal()).map(|_| ()),
        );
        Ok(changes.map(move |()| ca.trust()).take_until(until).boxed())
    }

    /// Ready when the identity is revoked: whoever has it is told nothing further, and no rotation waits for it beyond
    /// its certificate's end.
    pub(crate) fn revoked_from_now(&self, id: SpiffeId) -> impl Future<Output = ()> + use<> {
        let mut bundles = self.bundle();
        async move {
            let revoked = |bundle: &Arc<TrustBundle>| bundle.revoked().covers_id(&id);
            if bundles.wait_for(revoked).await.is_err() {
                future::pending::<()>().await;
            }
        }
    }

    fn trust(&self) -> Trust {
        let longest = match self.is_emergency() {
            true => EMERGENCY_SPREAD,
            false => LONGEST_SPREAD,
        };
        // The renewal first: one that is newer than the bundle could ask for certificates under a root not yet told.
        let renewal = *self.renewal().borrow();
        Trust {
            bundle: Arc::clone(&self.bundle().borrow()),
            renewal,
            within: (self.svid_ttl() / 8).min(longest),
        }
    }
}
