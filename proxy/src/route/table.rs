//! A route table, compiled: authority → virtual host → first route that matches.

use std::sync::Arc;

use foldhash::HashMap;
use rand::Rng;
use reeve_core::{
    ServiceName,
    model::{Destination, Route, RouteAction, RouteTable, VirtualHost},
};

use super::{HeaderEdits, RequestView, RetryOn, RouteError, matcher::Matcher};

/// A compiled [`RouteTable`].
#[derive(Debug)]
pub(crate) struct Table {
    hosts: Vec<Host>,
    exact: HashMap<String, usize>,
    /// (suffix with its dot, host), longest first.
    suffixes: Vec<(String, usize)>,
    any: Option<usize>,
}

/// A compiled [`VirtualHost`].
#[derive(Debug)]
pub(crate) struct Host {
    /// For people.
    pub(crate) name: String,
    routes: Vec<Arc<CompiledRoute>>,
}

/// A compiled [`Route`].
#[derive(Debug)]
pub(crate) struct CompiledRoute {
    /// `host/route`, as logs have it.
    pub(crate) name: Arc<str>,
    /// As configured.
    pub(crate) rule: Route,
    /// When to try again.
    pub(crate) retry: RetryOn,
    /// Changes to the request's headers.
    pub(crate) request_edits: HeaderEdits,
    /// Changes to the response's headers.
    pub(crate) response_edits: HeaderEdits,
    matchers: Vec<Matcher>,
}

/// What matching found.
#[derive(Debug)]
pub(crate) enum Found<'t> {
    /// No virtual host has this authority.
    NoHost,
    /// The virtual host has no route for this request.
    NoRoute(&'t Host),
    /// This route; `rewritten` is the path after the route's rewrite, if it has one.
    Route {
        host: &'t Host,
        route: &'t Arc<CompiledRoute>,
        index: usize,
        rewritten: Option<String>,
    },
}

impl Table {
    /// Compiles `table`.
    pub(crate) fn compile(table: &RouteTable) -> Result<Self, RouteError> {
        let mut compiled = Self {
            hosts: Vec::new(),
            exact: HashMap::default(),
            suffixes: Vec::new(),
            any: None,
        };
        for host in &table.virtual_hosts {
            compiled.add(host, &table.name.0)?;
        }
        compiled
            .suffixes
            .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        Ok(compiled)
    }

    fn add(&mut self, host: &VirtualHost, table: &str) -> Result<(), RouteError> {
        let index = self.hosts.len();
        for domain in &host.domains {
            let domain = domain.to_ascii_lowercase();
            let doubled = if domain == "*" {
                self.any.replace(index).is_some()
            } else if let Some(suffix) = domain.strip_prefix('*') {
                let doubled = self.suffixes.iter().any(|(known, _)| known == suffix);
                self.suffixes.push((suffix.to_owned(), index));
                doubled
            } else {
                self.exact.insert(domain.clone(), index).is_some()
            };
            if doubled {
                let table = table.to_owned();
                return Err(RouteError::DuplicateDomain { table, domain });
            }
        }
        let routes = host.routes.iter().enumerate();
        self.hosts.push(Host {
            name: host.name.clone(),
            routes: routes
                .map(|(at, route)| CompiledRoute::compile(route, &host.name, at).map(Arc::new))
                .collect::<Result<_, _>>()?,
        });
        Ok(())
    }

    /// Finds the route for `request`. At an address that stands for a service, an authority that no virtual host
    /// names means that service.
    pub(crate) fn find(
        &self,
        request: &RequestView<'_>,
        service: Option<&(ServiceName, u16)>,
    ) -> Found<'_> {
        let bound = || {
            let (name, port) = service?;
            let with_port = format!("{name}:{port}");
            self.exact
                .get(&with_port)
                .or_else(|| self.exact.get(name.as_str()))
        };
        let index = self
            .named(request.authority)
            .or_else(|| bound().copied())
            .or(self.any.filter(|_| service.is_none()));
        let Some(host) = index.and_then(|index| self.hosts.get(index)) else {
            return Found::NoHost;
        };
        host.find(request)
    }

    /// The virtual host that names `authority`: exactly, or by the longest suffix; the port may be left out.
    fn named(&self, authority: &str) -> Option<usize> {
        let bare = without_port(authority);
        let exact = self.exact.get(authority).or_else(|| self.exact.get(bare));
        let by_suffix = || {
            let ends = |(suffix, _): &&(String, usize)| {
                let ends =
                    |text: &str| text.len() > suffix.len() && text.ends_with(suffix.as_str());
                ends(authority) || ends(bare)
            };
            self.suffixes.iter().find(ends).map(|(_, index)| index)
        };
        exact.or_else(by_suffix).copied()
    }
}

impl Host {
    fn find(&self, request: &RequestView<'_>) -> Found<'_> {
        for (index, route) in self.routes.iter().enumerate() {
            if let Some(rewritten) = route.accepts(request) {
                return Found::Route {
                    host: self,
                    route,
                    index,
                    rewritten,
                };
            }
        }
        Found::NoRoute(self)
    }
}

impl CompiledRoute {
    fn compile(rule: &Route, host: &str, index: usize) -> Result<Self, RouteError> {
        let short = rule.name.clone().unwrap_or_else(|| index.to_string());
        let name = format!("{short} of {host}");
        check_action(&rule.action, &name)?;
        let matchers = rule.matches.iter().map(|m| Matcher::compile(m, &name));
        Ok(Self {
            name: format!("{host}/{short}").into(),
            matchers: matchers.collect::<Result<_, _>>()?,
            retry: RetryOn::compile(&rule.retries),
            request_edits: HeaderEdits::compile(&rule.request_headers, &name)?,
            response_edits: HeaderEdits::compile(&rule.response_headers, &name)?,
            rule: rule.clone(),
        })
    }

    /// A route to one service and nothing more: what an address that stands for a service does by itself.
    pub(crate) fn straight_to(service: ServiceName, port: u16) -> Self {
        let rule = Route {
            name: Some("default".to_owned()),
            ..Route::to(service, port)
        };
        Self {
            name: "-/default".into(),
            retry: RetryOn::compile(&rule.retries),
            request_edits: HeaderEdits::default(),
            response_edits: HeaderEdits::default(),
            matchers: Vec::new(),
            rule,
        }
    }

    /// `None`: does not match. `Some(rewritten path, if any)`: matches.
    #[expect(clippy::option_option, reason = "no match, match, match with rewrite")]
    fn accepts(&self, request: &RequestView<'_>) -> Option<Option<String>> {
        let matched = if self.matchers.is_empty() {
            request.path
        } else {
            let matcher = self.matchers.iter().find(|m| m.holds(request))?;
            matcher.matched_part(request.path)
        };
        let RouteAction::Forward {
            rewrite_uri: Some(to),
            ..
        } = &self.rule.action
        else {
            return Some(None);
        };
        let rest = request.path.get(matched.len()..).unwrap_or_default();
        Some(Some(rewrite(to, rest)))
    }
}

/// Joins a rewrite with what follows the matched prefix; one slash where both have one.
fn rewrite(to: &str, rest: &str) -> String {
    let rest = match rest.strip_prefix('/') {
        Some(bare) if to.ends_with('/') => bare,
        _ => rest,
    };
    let path = format!("{to}{rest}");
    if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    }
}

fn check_action(action: &RouteAction, route: &str) -> Result<(), RouteError> {
    let status = |code: u16| {
        let route = route.to_owned();
        ((200..600).contains(&code))
            .then_some(())
            .ok_or(RouteError::Status { route, code })
    };
    match action {
        RouteAction::Forward { destinations, .. } => {
            let sum: u64 = destinations.iter().map(|d| u64::from(d.weight)).sum();
            let route = route.to_owned();
            (sum > 0)
                .then_some(())
                .ok_or(RouteError::NoWeight { route })
        }
        RouteAction::Redirect { code, .. } => status(*code),
        RouteAction::Respond { status: code, .. } => status(*code),
    }
}

/// The authority without its port; an IPv6 address keeps its brackets.
pub(crate) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && !inside_brackets(host) =>
        {
            host
        }
        _ => authority,
    }
}

fn inside_brackets(host: &str) -> bool {
    host.starts_with('[') && !host.ends_with(']')
}

/// Picks one of `destinations` by weight.
pub(crate) fn pick<'d>(
    destinations: &'d [Destination],
    rng: &mut impl Rng,
) -> Option<&'d Destination> {
    let sum: u64 = destinations.iter().map(|d| u64::from(d.weight)).sum();
    if sum == 0 {
        return None;
    }
    let mut ticket = rng.random_range(0..sum);
    destinations.iter().find(|d| {
        let weight = u64::from(d.weight);
        let mine = ticket < weight;
        ticket = ticket.saturating_sub(weight);
        mine
    })
}
