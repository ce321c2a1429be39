//! Matching TLS by the server name in its ClientHello.

use std::sync::Arc;

use foldhash::HashMap;
use reeve_core::model::{Destination, SniRoute};

use crate::hello::ServerName;

/// The compiled [`SniRoute`]s of a listener.
#[derive(Debug, Default)]
pub(crate) struct SniTable {
    routes: Vec<CompiledSni>,
    exact: HashMap<String, usize>,
    /// (suffix with its dot, route), longest first.
    suffixes: Vec<(String, usize)>,
    any: Option<usize>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct CompiledSni {
    /// As logs have it.
    pub(crate) name: Arc<str>,
    pub(crate) destinations: Vec<Destination>,
}

impl SniTable {
    /// `None` where there are no routes: then the listener's address alone says where to.
    pub(crate) fn compile(routes: &[SniRoute]) -> Option<Self> {
        let mut table = Self::default();
        for (index, route) in routes.iter().enumerate() {
            table.routes.push(CompiledSni {
                name: route.name.as_str().into(),
                destinations: route.destinations.clone(),
            });
            for host in &route.hosts {
                table.add(host.to_ascii_lowercase(), index);
            }
        }
        let longest_first = |(suffix, _): &(String, usize)| std::cmp::Reverse(suffix.len());
        table.suffixes.sort_by_key(longest_first);
        (!routes.is_empty()).then_some(table)
    }

    /// Of two routes for one name the first keeps it.
    fn add(&mut self, host: String, index: usize) {
        if host == "*" {
            self.any.get_or_insert(index);
        } else if let Some(suffix) = host.strip_prefix('*') {
            self.suffixes.push((suffix.to_owned(), index));
        } else {
            self.exact.entry(host).or_insert(index);
        }
    }

    /// The route for a client that asks for `name`; the narrowest wins, as in Envoy's filter chain match.
    pub(crate) fn find(&self, name: &ServerName) -> Option<&CompiledSni> {
        let index = match name {
            ServerName::Unreadable => None,
            ServerName::Unnamed => self.any,
            ServerName::Named(name) => {
                let exact = self.exact.get(name).copied();
                let by_suffix = || {
                    let mut suffixes = self.suffixes.iter();
                    let found = suffixes.find(|(suffix, _)| {
                        name.len() > suffix.len() && name.ends_with(suffix.as_str())
                    });
                    found.map(|(_, index)| *index)
                };
                exact.or_else(by_suffix).or(self.any)
            }
        };
        self.routes.get(index?)
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
