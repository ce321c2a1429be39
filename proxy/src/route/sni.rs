//! Matching TLS by the server name in its ClientHello.

use std::sync::Arc;

use foldhash::HashMap;
use reeve_core::model::{Destination, SniRoute};

use crate::hello::ServerName;

/// The compiled [`SniRoute`]s of a listener.
#[derive(Debug, Default)]
pub(crate) struct SniTable {
    routes: Vec<CompiledSni>,
    names: Names,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct CompiledSni {
    /// As logs have it.
    pub(crate) name: Arc<str>,
    pub(crate) destinations: Vec<Destination>,
    /// Whether it is the mesh's own TLS, which the endpoint's proxy ends.
    pub(crate) to_mesh: bool,
}

impl SniTable {
    /// `None` where there are no routes: then the listener's address alone says where to.
    pub(crate) fn compile(routes: &[SniRoute]) -> Option<Self> {
        let compiled = |route: &SniRoute| CompiledSni {
            name: route.name.as_str().into(),
            destinations: route.destinations.clone(),
            to_mesh: route.to_mesh,
        };
        let table = Self {
            names: Names::new(routes.iter().map(|route| route.hosts.as_slice())),
            routes: routes.iter().map(compiled).collect(),
        };
        (!routes.is_empty()).then_some(table)
    }

    /// The route for a client that asks for `name`.
    pub(crate) fn find(&self, name: &ServerName) -> Option<&CompiledSni> {
        let (_, index) = self.names.find(name)?;
        self.routes.get(index)
    }

    /// How narrowly a route names `name`.
    pub(crate) fn narrowness(&self, name: &ServerName) -> Option<usize> {
        self.names.find(name).map(|(narrowness, _)| narrowness)
    }
}

/// Lists of server names (`host`, `*.suffix` or `*`), by their position.
#[derive(Debug, Default)]
pub(crate) struct Names {
    exact: HashMap<String, usize>,
    /// (suffix with its dot, position), longest first.
    suffixes: Vec<(String, usize)>,
    any: Option<usize>,
}

impl Names {
    /// Of two lists with one name the first keeps it.
    pub(crate) fn new<'h>(lists: impl Iterator<Item = &'h [String]>) -> Self {
        let mut names = Self::default();
        for (index, hosts) in lists.enumerate() {
            for host in hosts {
                names.add(host.to_ascii_lowercase(), index);
            }
        }
        let longest_first = |(suffix, _): &(String, usize)| std::cmp::Reverse(suffix.len());
        names.suffixes.sort_by_key(longest_first);
        names
    }

    fn add(&mut self, host: String, index: usize) {
        if host == "*" {
            self.any.get_or_insert(index);
        } else if let Some(suffix) = host.strip_prefix('*') {
            self.suffixes.push((suffix.to_owned(), index));
        } else {
            self.exact.entry(host).or_insert(index);
        }
    }

    /// How narrowly `name` is named, and by which list; the narrowest wins, as in Envoy's filter chain match.
    pub(crate) fn find(&self, name: &ServerName) -> Option<(usize, usize)> {
        let any = self.any.map(|index| (0, index));
        match name {
            ServerName::Unreadable => None,
            ServerName::Unnamed => any,
            ServerName::Named(name) => {
                let exact = self.exact.get(name).map(|index| (usize::MAX, *index));
                let by_suffix = || {
                    let mut suffixes = self.suffixes.iter();
                    let found = suffixes.find(|(suffix, _)| {
                        name.len() > suffix.len() && name.ends_with(suffix.as_str())
                    });
                    found.map(|(suffix, index)| (suffix.len(), *index))
                };
                exact.or_else(by_suffix).or(any)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[&[&str]]) -> SniTable {
        let route = |(index, hosts): (usize, &&[&str])| SniRoute {
            name: index.to_string(),
            hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
            destinations: vec![],
            to_mesh: false,
        };
        let routes: Vec<_> = routes.iter().enumerate().map(route).collect();
        SniTable::compile(&routes).unwrap()
    }

    fn find(table: &SniTable, name: &str) -> Option<String> {
        let found = table.find(&ServerName::Named(name.to_owned()));
        found.map(|route| route.name.to_string())
    }

    #[test]
    fn the_narrowest_name_wins_wherever_it_stands() {
        let table = table(&[
            &["*.org", "*.com"],
            &["*.b.org"],
            &["a.b.org", "b.org"],
            &["a.b.org", "*.org"],
        ]);
        for (name, expected) in [
            ("a.b.org", Some("2")),
            ("b.org", Some("2")),
            ("c.b.org", Some("1")),
            ("x.a.b.org", Some("1")),
            ("x.org", Some("0")),
            ("x.com", Some("0")),
            ("org", None),
            (".org", None),
            ("xb.net", None),
            ("", None),
        ] {
            assert_eq!(find(&table, name).as_deref(), expected, "{name}");
        }
        assert!(table.find(&ServerName::Unnamed).is_none());
        assert!(table.find(&ServerName::Unreadable).is_none());
    }

    #[test]
    fn any_name_is_also_none_but_never_bytes_that_cannot_be_read() {
        let table = table(&[&["*"], &["a.org"]]);
        assert_eq!(find(&table, "a.org").as_deref(), Some("1"));
        assert_eq!(find(&table, "b.org").as_deref(), Some("0"));
        assert_eq!(&*table.find(&ServerName::Unnamed).unwrap().name, "0");
        assert!(table.find(&ServerName::Unreadable).is_none());
        assert!(SniTable::compile(&[]).is_none());
    }
}
