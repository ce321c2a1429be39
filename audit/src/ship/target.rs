//! The logs that a proxy may ship to.

use std::{cmp::Reverse, future::Future, pin::Pin, sync::Arc};

use aws_lc_rs::digest;
use reeve_core::InstanceName;
use tonic::transport::Channel;

use crate::batch::BoxError;

/// Makes a fresh channel to a log; called for every (re)connection, so that each uses current credentials.
pub type ChannelFactory =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Channel, BoxError>> + Send>> + Send + Sync>;

/// A log that takes batches.
#[derive(Clone)]
pub struct Target {
    /// What it is called in messages.
    pub name: String,
    /// How it is reached.
    pub connect: ChannelFactory,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Target").field(&self.name).finish()
    }
}

/// The logs in the order in which they are tried; asked for each connection.
pub type Targets = Arc<dyn Fn() -> Vec<Target> + Send + Sync>;

/// One log, and no other.
pub fn only(connect: ChannelFactory) -> Targets {
    Arc::new(move || {
        vec![Target {
            name: "the audit log".to_owned(),
            connect: connect.clone(),
        }]
    })
}

/// Puts logs in a proxy's own order: each proxy has another first one, so that they share the load evenly, and it stays the
/// same when a log comes or goes elsewhere in the order (rendezvous hashing, Thaler and Ravishankar 1996).
pub fn in_order<T>(proxy: &InstanceName, logs: &mut [T], name: impl Fn(&T) -> &str) {
    logs.sort_by_cached_key(|log| {
        let text = format!("{proxy} {}", name(log));
        Reverse(
            digest::digest(&digest::SHA256, text.as_bytes())
                .as_ref()
                .to_vec(),
        )
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn proxies_spread_over_logs_and_keep_their_order_when_one_goes() {
        let order = |proxy: usize, logs: &[&'static str]| {
            let mut logs = logs.to_vec();
            let proxy: InstanceName = format!("w-{proxy}").parse().unwrap();
            in_order(&proxy, &mut logs, |log| log);
            logs
        };
        let mut firsts = BTreeMap::new();
        for proxy in 0..300 {
            let all = order(proxy, &["audit-0", "audit-1", "audit-2"]);
            *firsts.entry(all[0]).or_insert(0) += 1;
            let left: Vec<_> = all
                .iter()
                .copied()
                .filter(|log| *log != "audit-1")
                .collect();
            assert_eq!(order(proxy, &["audit-2", "audit-0"]), left);
        }
        assert!(
            firsts.len() == 3 && firsts.values().all(|n| *n > 60),
            "{firsts:?}"
        );
    }
}
