//! Agents are told the registration entries that have them as parent, and say who uses them and whom they refused.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, future};
use reeve_core::{EntryName, RegistrationEntry, SpiffeId};
use tokio::time::timeout;
use tokio_stream::wrappers::WatchStream;
use tonic::{Extensions, Request, Status, Streaming};

use super::{Asked, IssuerService, RefusalReason, caller};
use crate::{
    ToldRefusal,
    entries::{EntryList, EntryUse, MAX_USES},
    events::MAX_TOLD_AT_ONCE,
    proto::issuer::{self, EntryUses, Refusals},
};

/// How long an agent may take to say who it is.
const FIRST_REPORT: Duration = Duration::from_secs(5);

type Told = Pin<Box<dyn Stream<Item = Result<issuer::EntryList, Status>> + Send>>;

impl IssuerService {
    /// Serves one agent until it leaves, or its identity is revoked.
    pub(super) async fn serve_agent(
        &self,
        request: Request<Streaming<EntryUses>>,
    ) -> Result<Told, Status> {
        let extensions = request.extensions().clone();
        let mut said = request.into_inner();
        let first = timeout(FIRST_REPORT, said.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("nothing was reported"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("nothing was reported"))?;
        let agent = self.agent(&extensions, &first.agent_id).await?;
        let reporter = self.entries.reporter(agent.clone());
        let reporter = reporter.ok_or_else(|| Status::resource_exhausted("too many agents"))?;
        reporter.report(uses(first));
        let heed = async move {
            while let Ok(Some(report)) = said.message().await {
                reporter.report(uses(report));
            }
        };
        let revoked = self.ca.revoked_from_now(agent.clone());
        let until = Box::pin(async move {
            // Cancel safety: a report is taken as a whole, and a reporter that is dropped is away.
            tokio::select! {
                () = heed => {}
                () = revoked => {}
            }
        });
        let lists = WatchStream::new(self.entries.watch());
        let mut last = None;
        let lists = lists.filter_map(move |all| {
            let news = all.and_then(|all| news(&all, &agent, &mut last));
            future::ready(news)
        });
        Ok(lists.map(Ok).take_until(until).boxed())
    }

    /// The agent that the caller says to be, if it is that and not revoked.
    async fn agent(&self, extensions: &Extensions, id: &str) -> Result<SpiffeId, Status> {
        let refuse = |reason| self.refuse(caller(extensions), id, reason);
        let agent = SpiffeId::parse(id);
        let agent = agent.map_err(|_| refuse(RefusalReason::NotASpiffeId))?;
        let known = self.known(extensions, Asked::by_itself(agent)).await;
        let agent = known.map_err(refuse)?.id;
        match self.ca.is_revoked(&agent) {
            true => Err(refuse(RefusalReason::Revoked)),
            false => Ok(agent),
        }
    }

    /// Puts on record whom an agent refused. It speaks for itself alone, and no other member is heard.
    pub(super) async fn note_refusals(&self, request: Request<Refusals>) -> Result<(), Status> {
        let extensions = request.extensions().clone();
        let said = request.into_inner();
        let agent = self.agent(&extensions, &said.agent_id).await?;
        if !self.entries.is_reporting(&agent) {
            let reason = RefusalReason::NotEntitled;
            return Err(self.refuse(caller(&extensions), &said.agent_id, reason));
        }
        let told = said.refusals.into_iter().take(MAX_TOLD_AT_ONCE);
        for refusal in told.map(ToldRefusal::from) {
            self.events.refused_elsewhere(&agent, &refusal);
        }
        if said.left_out > 0 {
            let left_out = ToldRefusal::LeftOut(said.left_out);
            self.events.refused_elsewhere(&agent, &left_out);
        }
        Ok(())
    }
}

/// The entries of `agent`, if they are others than `last` time.
fn news(
    all: &EntryList,
    agent: &SpiffeId,
    last: &mut Option<Vec<RegistrationEntry>>,
) -> Option<issuer::EntryList> {
    let own = all.iter().filter(|entry| entry.parent == *agent);
    let own: Vec<_> = own.cloned().collect();
    if last.as_ref() == Some(&own) {
        return None;
    }
    let json = own
        .iter()
        .filter_map(|entry| serde_json::to_string(entry).ok());
    let entries = json.collect();
    *last = Some(own);
    Some(issuer::EntryList { entries })
}

fn uses(report: EntryUses) -> Vec<EntryUse> {
    let uses = report.uses.into_iter().take(MAX_USES);
    let read = |said: issuer::EntryUse| {
        Some(EntryUse {
            entry: EntryName::parse(&said.entry)?,
            pid: said.pid,
            uid: said.uid,
        })
    };
    uses.filter_map(read).collect()
}
