//! `VirtualService`s by the hosts that they name, so that finding a service's does not grow with their number.

use std::collections::HashMap;

use crate::{mesh::VirtualService, resolve::hosts::falls_under};

/// Those for sidecars.
#[derive(Debug)]
pub(super) struct Naming<'a> {
    all: &'a [VirtualService],
    exact: HashMap<&'a str, Vec<usize>>,
    patterns: Vec<(&'a str, usize)>,
    asks_for_labels: bool,
}

impl<'a> Naming<'a> {
    pub(super) fn new(all: &'a [VirtualService]) -> Self {
        let mut naming = Self {
            all,
            exact: HashMap::new(),
            patterns: Vec::new(),
            asks_for_labels: all.iter().any(VirtualService::asks_for_labels),
        };
        for (number, one) in all.iter().enumerate().filter(|(_, v)| v.in_mesh) {
            for host in &one.hosts {
                match host.starts_with('*') {
                    true => naming.patterns.push((host, number)),
                    false => naming.exact.entry(host).or_default().push(number),
                }
            }
        }
        naming
    }

    /// Whether any has a rule for callers of certain labels.
    pub(super) fn asks_for_labels(&self) -> bool {
        self.asks_for_labels
    }

    /// Those that name `host` itself, in order.
    pub(super) fn exactly(&self, host: &str) -> impl Iterator<Item = &'a VirtualService> {
        let numbers = self.exact.get(host).into_iter().flatten();
        numbers.filter_map(|number| self.all.get(*number))
    }

    /// Those with a pattern for `host`, in order, with the pattern's length.
    pub(super) fn by_pattern(
        &self,
        host: &str,
    ) -> impl Iterator<Item = (usize, &'a VirtualService)> {
        let patterns = self.patterns.iter();
        let fitting = patterns.filter(move |(pattern, _)| falls_under(host, pattern));
        fitting.filter_map(|(pattern, number)| Some((pattern.len(), self.all.get(*number)?)))
    }
}
