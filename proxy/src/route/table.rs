//! A route table, compiled: authority → virtual host → first route that matches.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use rand::Rng;
use reeve_core::{
    ServiceName,
    model::{
        Destination, PathNormalization, Route, RouteAction, RouteMatch, RouteTable, VirtualHost,
    },
};

use super::{
    Cors, HeaderEdits, RequestView, RetryOn, RouteError, index::RouteIndex, matcher::Matcher,
    path_edit::PathEdit,
};

/// A compiled [`RouteTable`].
#[derive(Debug)]
pub(crate) struct Table {
    hosts: Vec<Arc<Host>>,
    exact: HashMap<String, usize>,
    /// Suffix with its dot → host.
    suffixes: HashMap<String, usize>,
    longest_suffix: usize,
    /// Suffixes that begin within a name, which nobody should need.
    odd_suffixes: Vec<(String, usize)>,
    any: Option<usize>,
    /// Whether any of the hosts says how paths are normalised.
    normalizes: bool,
}

/// A compiled [`VirtualHost`].
#[derive(Debug)]
pub(crate) struct Host {
    /// For people.
    pub(crate) name: String,
    routes: Vec<Arc<CompiledRoute>>,
    index: Option<RouteIndex>,
    /// What it was compiled from.
    source: Arc<VirtualHost>,
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
    /// Changes to headers of what goes to one of several destinations, by the destination's place among them.
    pub(crate) destination_edits: Vec<Option<DestinationEdits>>,
    /// What a request must have to be copied, by the mirror's place among the route's.
    pub(crate) mirror_filters: Vec<Matcher>,
    /// Who may read answers across origins.
    pub(crate) cors: Option<Cors>,
    /// The body of a route that answers by itself.
    pub(crate) answer: Bytes,
    path: Option<PathEdit>,
    matchers: Vec<Matcher>,
}

/// Changes to headers for one destination, before the route's own.
#[derive(Debug)]
pub(crate) struct DestinationEdits {
    pub(crate) request: HeaderEdits,
    pub(crate) response: HeaderEdits,
}

/// What matching found.
#[derive(Debug)]
pub(crate) enum Found<'t> {
    /// No virtual host has this authority.
    NoHost,
    /// The virtual host has no route for this request.
    NoRoute(&'t Host),
    /// This route.
    Route {
        host: &'t Host,
        route: &'t Arc<CompiledRoute>,
        index: usize,
        taken: Taken,
    },
}

/// How a route was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The path after the route's rewrite, or of its redirect, if it has one.
    pub(crate) path: Option<String>,
    /// The name under which the request is counted.
    pub(crate) stat_prefix: Option<Arc<str>>,
}

impl Table {
    /// Compiles `table`, keeping virtual hosts of `before` that are the same.
    pub(crate) fn compile(table: &RouteTable, before: Option<&Self>) -> Result<Self, RouteError> {
        let mut compiled = Self {
            hosts: Vec::with_capacity(table.virtual_hosts.len()),
            exact: HashMap::default(),
            suffixes: HashMap::default(),
            longest_suffix: 0,
            odd_suffixes: Vec::new(),
            any: None,
            normalizes: false,
        };
        for host in table.virtual_hosts.values() {
            compiled.add(host, &table.name.0, before)?;
        }
        let lengths = compiled.suffixes.keys().map(String::len);
        compiled.longest_suffix = lengths.max().unwrap_or_default();
        Ok(compiled)
    }

    fn add(
        &mut self,
        host: &Arc<VirtualHost>,
        table: &str,
        before: Option<&Self>,
    ) -> Result<(), RouteError> {
        let index = self.hosts.len();
        self.normalizes |= host.path_normalization.is_some();
        for domain in &host.domains {
            let domain = domain.to_ascii_lowercase();
            let doubled = if domain == "*" {
                self.any.replace(index).is_some()
            } else if let Some(suffix) = domain.strip_prefix('*') {
                if !suffix.starts_with('.') {
                    self.odd_suffixes.push((suffix.to_owned(), index));
                }
                self.suffixes.insert(suffix.to_owned(), index).is_some()
            } else {
                self.exact.insert(domain.clone(), index).is_some()
            };
            if doubled {
                let table = table.to_owned();
                return Err(RouteError::DuplicateDomain { table, domain });
            }
        }
        let known = before.and_then(|before| before.same(host));
        self.hosts.push(match known {
            Some(known) => known.clone(),
            None => Arc::new(Host::compile(host)?),
        });
        Ok(())
    }

    /// Which virtual hosts are the very same as `other`'s, one by one.
    #[cfg(test)]
    pub(crate) fn shares_with(&self, other: &Self) -> Vec<bool> {
        let both = self.hosts.iter().zip(&other.hosts);
        both.map(|(one, two)| Arc::ptr_eq(one, two)).collect()
    }

    /// The host compiled from the same.
    fn same(&self, host: &Arc<VirtualHost>) -> Option<&Arc<Host>> {
        let domain = host.domains.first()?.to_ascii_lowercase();
        let at = match domain.strip_prefix('*') {
            Some("") => self.any.as_ref(),
            Some(suffix) => self.suffixes.get(suffix),
            None => self.exact.get(&domain),
        };
        self.hosts.get(*at?).filter(|known| known.source == *host)
    }

    /// Finds the route for `request`. At an address that stands for a service, an authority that no virtual host
    /// names means that service.
    pub(crate) fn find(
        &self,
        request: &RequestView<'_>,
        service: Option<&(ServiceName, u16)>,
    ) -> Found<'_> {
        match self.host(request.authority, service) {
            Some(host) => host.find(request),
            None => Found::NoHost,
        }
    }

    /// How paths of requests for `authority` are normalised, if that is known.
    pub(crate) fn path_normalization(
        &self,
        authority: &str,
        service: Option<&(ServiceName, u16)>,
    ) -> Option<PathNormalization> {
        let host = self.normalizes.then(|| self.host(authority, service));
        host??.source.path_normalization
    }

    fn host(&self, authority: &str, service: Option<&(ServiceName, u16)>) -> Option<&Arc<Host>> {
        let bound = || {
            let (name, port) = service?;
            let with_port = format!("{name}:{port}");
            self.exact
                .get(&with_port)
                .or_else(|| self.exact.get(name.as_str()))
        };
        let index = self
            .named(authority)
            .or_else(|| bound().copied())
            .or(self.any.filter(|_| service.is_none()));
        self.hosts.get(index?)
    }

    /// The virtual host that names `authority`: exactly, or by the longest suffix; the port may be left out.
    fn named(&self, authority: &str) -> Option<usize> {
        let bare = without_port(authority);
        let exact = self.exact.get(authority).or_else(|| self.exact.get(bare));
        let by_suffix = || {
            let found = [self.by_suffix(authority), self.by_suffix(bare)];
            let longest = found
                .into_iter()
                .flatten()
                .max_by_key(|(length, _)| *length);
            longest.map(|(_, index)| index)
        };
        exact.copied().or_else(by_suffix)
    }

    /// The longest suffix of `text` that is known, with something before it: its length, and the host. Suffixes begin
    /// with a dot, and none is looked for that is longer than all that are known.
    fn by_suffix(&self, text: &str) -> Option<(usize, usize)> {
        let shortest_rest = text.len().saturating_sub(self.longest_suffix).max(1);
        let (_, tail) = text.split_at_checked(shortest_rest)?;
        let dots = tail.match_indices('.').map(|(at, _)| at);
        let mut suffixes = dots.filter_map(|at| tail.get(at..));
        let usual = suffixes.find_map(|suffix| Some((suffix.len(), *self.suffixes.get(suffix)?)));
        let odd = self.odd_suffixes.iter();
        let odd =
            odd.filter(|(suffix, _)| text.len() > suffix.len() && text.ends_with(suffix.as_str()));
        let odd = odd.map(|(suffix, index)| (suffix.len(), *index));
        odd.chain(usual).max_by_key(|(length, _)| *length)
    }
}

impl Host {
    fn compile(host: &Arc<VirtualHost>) -> Result<Self, RouteError> {
        let routes = host.routes.iter().enumerate();
        let routes: Vec<_> = routes
            .map(|(at, route)| CompiledRoute::compile(route, &host.name, at).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let keys = routes.iter().map(|route| route.keys());
        Ok(Self {
            name: host.name.clone(),
            index: RouteIndex::build(keys),
            routes,
            source: host.clone(),
        })
    }

    fn find(&self, request: &RequestView<'_>) -> Found<'_> {
        let found = match &self.index {
            Some(index) => index.first(request.path, request.headers, |at| {
                self.routes.get(at)?.accepts(request)
            }),
            None => {
                let mut all = self.routes.iter().enumerate();
                all.find_map(|(at, route)| Some((at, route.accepts(request)?)))
            }
        };
        let route = found.and_then(|(at, taken)| Some((at, taken, self.routes.get(at)?)));
        match route {
            Some((index, taken, route)) => Found::Route {
                host: self,
                route,
                index,
                taken,
            },
            None => Found::NoRoute(self),
        }
    }
}

fn mirror_filters(rule: &Route, name: &str) -> Result<Vec<Matcher>, RouteError> {
    let filters = rule.mirrors.iter().map(|mirror| {
        let when = RouteMatch {
            headers: mirror.headers.clone(),
            ..RouteMatch::default()
        };
        Matcher::compile(&when, name)
    });
    filters.collect()
}

impl CompiledRoute {
    fn compile(rule: &Route, host: &str, index: usize) -> Result<Self, RouteError> {
        let short = rule.name.clone().unwrap_or_else(|| index.to_string());
        let name = format!("{short} of {host}");
        check_action(&rule.action, &name)?;
        let matchers = rule.matches.iter().map(|m| Matcher::compile(m, &name));
        let path = match &rule.action {
            RouteAction::Forward { rewrite, .. } => rewrite.path.as_ref(),
            RouteAction::Redirect(redirect) => redirect.path.as_ref(),
            RouteAction::Respond { .. } => None,
        };
        let mut compiled = Self {
            name: format!("{host}/{short}").into(),
            matchers: matchers.collect::<Result<_, _>>()?,
            retry: RetryOn::compile(&rule.retries),
            request_edits: HeaderEdits::compile(&rule.request_headers, &name)?,
            response_edits: HeaderEdits::compile(&rule.response_headers, &name)?,
            destination_edits: Vec::new(),
            mirror_filters: mirror_filters(rule, &name)?,
            cors: rule
                .cors
                .as_ref()
                .map(|c| Cors::compile(c, &name))
                .transpose()?,
            answer: match &rule.action {
                RouteAction::Respond { body, .. } => Bytes::copy_from_slice(body),
                RouteAction::Forward { .. } | RouteAction::Redirect(_) => Bytes::new(),
            },
            path: path.map(|p| PathEdit::compile(p, &name)).transpose()?,
            rule: rule.clone(),
        };
        compiled.compile_destinations(&name)?;
        Ok(compiled)
    }

    /// Istio writes a single destination's changes after the route's; Envoy applies those of one of several before.
    fn compile_destinations(&mut self, name: &str) -> Result<(), RouteError> {
        let RouteAction::Forward { destinations, .. } = &self.rule.action else {
            return Ok(());
        };
        if destinations.iter().all(|d| d.headers.is_none()) {
            return Ok(());
        }
        let compile = |d: &Destination| {
            let headers = d.headers.as_deref();
            let edits = |h: &reeve_core::model::DestinationHeaders| {
                Ok(DestinationEdits {
                    request: HeaderEdits::compile(&h.request, name)?,
                    response: HeaderEdits::compile(&h.response, name)?,
                })
            };
            headers.map(edits).transpose()
        };
        let mut edits: Vec<_> = destinations.iter().map(compile).collect::<Result<_, _>>()?;
        if let [only] = edits.as_mut_slice()
            && let Some(only) = only.take()
        {
            let own = std::mem::take(&mut self.request_edits);
            self.request_edits = own.and(only.request);
            let own = std::mem::take(&mut self.response_edits);
            self.response_edits = own.and(only.response);
        } else {
            self.destination_edits = edits;
        }
        Ok(())
    }

    /// What an index finds it by.
    fn keys(&self) -> Vec<super::matcher::Key<'_>> {
        match self.matchers.as_slice() {
            [] => vec![super::matcher::Key::Any],
            matchers => matchers.iter().map(Matcher::key).collect(),
        }
    }

    /// The destination's changes to headers, where they are not the route's.
    pub(crate) fn edits_of(&self, destination: &Destination) -> Option<&DestinationEdits> {
        let RouteAction::Forward { destinations, .. } = &self.rule.action else {
            return None;
        };
        if self.destination_edits.is_empty() {
            return None;
        }
        let at = destinations
            .iter()
            .position(|d| std::ptr::eq(d, destination))?;
        self.destination_edits.get(at)?.as_ref()
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
            destination_edits: Vec::new(),
            mirror_filters: Vec::new(),
            cors: None,
            answer: Bytes::new(),
            path: None,
            matchers: Vec::new(),
            rule,
        }
    }

    /// The same under another name.
    pub(crate) fn named(self, name: &str) -> Self {
        Self {
            name: name.into(),
            ..self
        }
    }

    /// Whether it takes the request, and how.
    fn accepts(&self, request: &RequestView<'_>) -> Option<Taken> {
        let matcher = match self.matchers.as_slice() {
            [] => None,
            matchers => Some(matchers.iter().find(|m| m.holds(request))?),
        };
        let path = self.path.as_ref().map(|edit| {
            let matched = matcher.map_or(request.path, |m| m.matched_part(request.path));
            edit.apply(request.path, matched)
        });
        Some(Taken {
            path,
            stat_prefix: matcher.and_then(|m| m.stat_prefix.clone()),
        })
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
        RouteAction::Redirect(redirect) => status(redirect.code),
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
