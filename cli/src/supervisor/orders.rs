//! What an operator may ask of the supervisor on its socket.

use std::sync::Arc;

use reeve_core::InstanceName;
use serde::{Deserialize, Serialize};

use super::{
    Roster,
    succession::{Restarts, Succeeded},
};

/// Where orders are taken.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    pub(crate) roster: Arc<Roster>,
    pub(crate) restarts: Arc<Restarts>,
}

/// `{"restart": "reviews-v1"}`: replaces the sidecars of a workload, or of one instance, one after the other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    restart: String,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Done {
    /// Those that were replaced.
    restarted: Vec<Succeeded>,
    /// Why no further one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Order {
    /// Does it.
    pub(crate) async fn obey(&self, desk: &Desk) -> Done {
        let mut done = Done {
            restarted: Vec::new(),
            error: None,
        };
        let wanted = self.instances(desk);
        if wanted.is_empty() {
            done.error = Some(format!("nothing runs that is called {}", self.restart));
        }
        for instance in wanted {
            match desk.restarts.restart(&instance).await {
                Ok(succeeded) => done.restarted.push(succeeded),
                Err(why) => {
                    done.error = Some(format!("{instance}: {why}"));
                    break;
                }
            }
        }
        done
    }

    /// The instance of that name, or all of the workloads of that name.
    fn instances(&self, desk: &Desk) -> Vec<InstanceName> {
        let live = desk.roster.live();
        let mut named = live
            .iter()
            .filter(|(name, _)| name.as_str() == self.restart);
        if let Some((name, _)) = named.next() {
            return vec![name.clone()];
        }
        let of_workload = live
            .into_iter()
            .filter(|(_, live)| live.workload.as_str() == self.restart);
        of_workload.map(|(name, _)| name).collect()
    }
}
