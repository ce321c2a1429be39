//! Endpoints that are known by name: looked up, kept for as long as the answer says, and kept beyond that while nobody
//! answers. A changed answer makes a new snapshot of the same configuration, so that a request sees one answer.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_resolver::{
    ResolveError, TokioResolver,
    config::{NameServerConfig, ResolverConfig, ResolverOpts},
    name_server::TokioConnectionProvider,
    proto::xfer::Protocol,
};
use reeve_core::{
    ServiceName,
    model::{DnsTake, Endpoint, EndpointSet, NamedEndpoint, ProxyConfig},
};
use tokio::{task::JoinSet, time::Instant};

use crate::ledger::lock;
use crate::limits::{
    DNS_PATIENCE, DNS_RETRY, MAX_DNS_ADDRESSES, MAX_DNS_LOOKUPS, MAX_DNS_NAMES, MAX_DNS_TTL,
    MIN_DNS_TTL,
};

/// The addresses of each name, in order.
pub(crate) type Answers = HashMap<ServiceName, Vec<IpAddr>>;

/// What is known of names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    answers: ArcSwap<Answers>,
    lookups: tokio::sync::Mutex<Lookups>,
}

#[derive(Debug, Default)]
struct Lookups {
    resolver: Resolver,
    /// When each name is to be looked up again.
    due: HashMap<ServiceName, Instant>,
    failing: BTreeSet<ServiceName>,
}

/// The names that a configuration's endpoints have.
pub(crate) fn wanted(config: &ProxyConfig) -> BTreeSet<ServiceName> {
    let sets = config.endpoints.values();
    let names = sets.flat_map(|set| &set.names).map(|n| n.host.clone());
    names.take(MAX_DNS_NAMES).collect()
}

/// The set with the addresses that its names have.
pub(crate) fn expand(set: &Arc<EndpointSet>, answers: &Answers) -> Arc<EndpointSet> {
    if set.names.is_empty() {
        return Arc::clone(set);
    }
    let mut expanded = EndpointSet::clone(set);
    for named in &set.names {
        let known = answers.get(&named.host).map(Vec::as_slice);
        let addresses = known.unwrap_or_default().iter();
        let count = match named.take {
            DnsTake::All => MAX_DNS_ADDRESSES,
            DnsTake::First => 1,
        };
        let endpoints = addresses
            .take(count)
            .map(|address| endpoint(named, *address));
        expanded.endpoints.extend(endpoints);
    }
    Arc::new(expanded)
}

fn endpoint(named: &NamedEndpoint, address: IpAddr) -> Endpoint {
    Endpoint {
        instance: named.instance.clone(),
        address,
        ports: named.ports.clone(),
        labels: named.labels.clone(),
        identity: None,
        weight: named.weight,
    }
}

impl Names {
    /// What is known now.
    pub(crate) fn answers(&self) -> Arc<Answers> {
        self.answers.load_full()
    }

    /// Looks up what is wanted and due; whether anything is another now. What is wanted no longer is forgotten.
    pub(crate) async fn look_up(
        &self,
        wanted: &BTreeSet<ServiceName>,
        servers: &[SocketAddr],
    ) -> bool {
        let mut lookups = self.lookups.lock().await;
        lookups.due.retain(|name, _| wanted.contains(name));
        lookups.failing.retain(|name| wanted.contains(name));
        let now = Instant::now();
        let is_due = |name: &&ServiceName| lookups.due.get(*name).is_none_or(|at| *at <= now);
        let due: Vec<_> = wanted.iter().filter(is_due).cloned().collect();
        if due.is_empty() {
            return false;
        }
        let Some(resolver) = lookups.resolver.made_for(servers) else {
            return false;
        };
        let before = self.answers.load_full();
        let mut after = Answers::clone(&before);
        after.retain(|name, _| wanted.contains(name));
        for some in due.chunks(MAX_DNS_LOOKUPS) {
            let mut running = JoinSet::new();
            for name in some {
                let (resolver, name) = (resolver.clone(), name.clone());
                running.spawn(async move {
                    let answer = ask(&resolver, &name).await;
                    (name, answer)
                });
            }
            while let Some(joined) = running.join_next().await {
                let Ok((name, answer)) = joined else {
                    continue;
                };
                lookups.take(name, answer, &mut after);
            }
        }
        let changed = after != *before;
        if changed {
            self.answers.store(Arc::new(after));
        }
        changed
    }
}

/// Names that no configuration has, looked up as they are asked for.
#[derive(Debug)]
pub(crate) struct OnDemand {
    resolver: std::sync::Mutex<Resolver>,
    known: std::sync::Mutex<HashMap<ServiceName, (IpAddr, Instant)>>,
    at_once: tokio::sync::Semaphore,
}

impl Default for OnDemand {
    fn default() -> Self {
        Self {
            resolver: Default::default(),
            known: Default::default(),
            at_once: tokio::sync::Semaphore::new(MAX_DNS_LOOKUPS),
        }
    }
}

impl OnDemand {
    /// The first address of `name`, kept for as long as the answer says.
    pub(crate) async fn address(
        &self,
        name: &ServiceName,
        servers: &[SocketAddr],
    ) -> Option<IpAddr> {
        if let Some(known) = self.known(name) {
            return Some(known);
        }
        let _one = self.at_once.acquire().await.ok()?;
        // Another request may have asked meanwhile.
        if let Some(known) = self.known(name) {
            return Some(known);
        }
        let resolver = lock(&self.resolver).made_for(servers)?;
        let (addresses, ttl) = match ask(&resolver, name).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%name, %error, "a name cannot be looked up");
                return None;
            }
        };
        let address = addresses.first().copied()?;
        let now = Instant::now();
        let mut known = lock(&self.known);
        if known.len() >= MAX_DNS_NAMES {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < MAX_DNS_NAMES {
            known.insert(name.clone(), (address, now + ttl));
        }
        Some(address)
    }

    fn known(&self, name: &ServiceName) -> Option<IpAddr> {
        let known = lock(&self.known);
        let (address, until) = known.get(name)?;
        (*until > Instant::now()).then_some(*address)
    }
}

/// A resolver, and the servers it was made for.
#[derive(Debug, Default)]
struct Resolver(Option<(Vec<SocketAddr>, TokioResolver)>);

impl Resolver {
    fn made_for(&mut self, servers: &[SocketAddr]) -> Option<TokioResolver> {
        if let Some((made_for, resolver)) = &self.0
            && made_for == servers
        {
            return Some(resolver.clone());
        }
        let resolver = match resolver(servers) {
            Ok(resolver) => resolver,
            Err(error) => {
                tracing::warn!(%error, "no name can be looked up");
                return None;
            }
        };
        self.0 = Some((servers.to_vec(), resolver.clone()));
        Some(resolver)
    }
}

impl Lookups {
    fn take(
        &mut self,
        name: ServiceName,
        answer: Result<(Vec<IpAddr>, Duration), ResolveError>,
        answers: &mut Answers,
    ) {
        let again = match answer {
            Ok((addresses, ttl)) => {
                if self.failing.remove(&name) {
                    tracing::info!(%name, "the name can be looked up again");
                }
                answers.insert(name.clone(), addresses);
                ttl
            }
            Err(error) => {
                if self.failing.insert(name.clone()) {
                    tracing::warn!(%name, %error, "the name cannot be looked up; what was known of it stays");
                }
                DNS_RETRY
            }
        };
        self.due.insert(name, Instant::now() + again);
    }
}

/// The machine's own servers, or these.
fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, ResolveError> {
    let mut builder = match servers {
        [] => TokioResolver::builder_tokio()?,
        servers => {
            let mut config = ResolverConfig::new();
            for server in servers {
                config.add_name_server(NameServerConfig::new(*server, Protocol::Udp));
                config.add_name_server(NameServerConfig::new(*server, Protocol::Tcp));
            }
            TokioResolver::builder_with_config(config, TokioConnectionProvider::default())
        }
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.cache_size = 0;
    options.timeout = DNS_PATIENCE;
    options.attempts = 2;
    Ok(builder.build())
}

/// Addresses in order, and how long they hold.
async fn ask(
    resolver: &TokioResolver,
    name: &ServiceName,
) -> Result<(Vec<IpAddr>, Duration), ResolveError> {
    // A full name is not completed by search domains.
    let answer = resolver.lookup_ip(format!("{name}.")).await?;
    let mut addresses: Vec<_> = answer.iter().take(MAX_DNS_ADDRESSES).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let until = Instant::from_std(answer.valid_until());
    let ttl = until.saturating_duration_since(Instant::now());
    Ok((addresses, ttl.clamp(MIN_DNS_TTL, MAX_DNS_TTL)))
}
