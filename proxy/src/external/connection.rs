//! Connections of which nothing is read: a gRPC server can be asked about them, an HTTP one cannot.

use std::sync::Arc;

use super::{Content, Said, Site, Stopped};
use crate::{judge::Question, snapshot::Snapshot, worker::Worker};

/// Asks about a connection to the workload (or to a gateway). As in Istio, an HTTP server is not asked about one to a port
/// of TCP. SECURITY: on an HTTP port, what cannot be read is not asked about either, and refused.
pub(crate) async fn ask_about_connection(
    (worker, snapshot): (&Worker, &Snapshot),
    question: &Question,
) -> Result<Option<Arc<Said>>, Box<Stopped>> {
    let own = &snapshot.workload().identity;
    if snapshot.external.is_empty() || question.place.resource.workload.as_ref() != Some(own) {
        return Ok(None);
    }
    let site = Site {
        worker,
        snapshot,
        most: 0,
    };
    let mut said = Said::default();
    for asking in snapshot.external.0.iter().filter(|a| a.takes(question)) {
        let nothing = &mut Content::default();
        asking.ask(site, question, nothing, &mut said).await?;
    }
    Ok((!said.asked.is_empty()).then(|| Arc::new(said)))
}
