//! Which lines belong together, and in which order.

use std::collections::BTreeSet;

use super::line::{Line, Source};

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Only this workload or instance.
    pub(crate) workload: Option<String>,
    /// Only this trace.
    pub(crate) trace: Option<Trace>,
    /// Also the sidecars' and the mesh process's own lines.
    pub(crate) internal: bool,
}

/// A trace: every id that some line puts beside one that is known already.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    ids: BTreeSet<String>,
}

/// More ids than this are not gathered.
const MAX_IDS: usize = 1000;

impl Trace {
    /// The trace with that trace id or request id.
    pub(crate) fn new(id: &str) -> Self {
        Self {
            ids: BTreeSet::from([id.to_owned()]),
        }
    }

    /// Learns the other ids of this trace (its request id, by which an application may log). Ids of other requests of
    /// the same trace are learnt too.
    pub(crate) fn learn(&mut self, lines: &[Line]) {
        loop {
            let known = self.ids.len();
            for line in lines {
                if self.ids.len() < MAX_IDS && line.ids.iter().any(|id| self.ids.contains(id)) {
                    self.ids.extend(line.ids.iter().cloned());
                }
            }
            if self.ids.len() == known {
                return;
            }
        }
    }

    /// Whether a line belongs to it: by its ids, or because its text names one.
    fn has(&self, line: &Line) -> bool {
        if line.ids.is_empty() {
            return self.ids.iter().any(|id| line.text.contains(id.as_str()));
        }
        line.ids.iter().any(|id| self.ids.contains(id))
    }
}

impl Wanted {
    /// Whether a line is.
    pub(crate) fn has(&self, line: &Line) -> bool {
        let here = self
            .workload
            .as_ref()
            .is_none_or(|name| belongs(&line.instance, name));
        let traced = self.trace.as_ref().is_none_or(|trace| trace.has(line));
        let internal = self.internal || line.source != Source::Internal;
        here && traced && internal
    }
}

/// Whether `instance` (`reviews-v1-0`, `reviews-v1-0.shop`) is, or is one of, `name` (`reviews-v1`, `reviews-v1-0`).
fn belongs(instance: &str, name: &str) -> bool {
    if instance == name {
        return true;
    }
    let short = instance.split('.').next().unwrap_or(instance);
    let workload = short.rsplit_once('-').map(|(workload, _)| workload);
    short == name || workload == Some(name)
}

/// Orders lines by time; those of one file keep their order.
pub(crate) fn sort(lines: &mut [Line]) {
    lines.sort_by_key(|line| line.time);
}

#[cfg(test)]
mod tests {
    use reeve_core::UnixTime;

    use super::*;

    fn line(time: u64, instance: &str, source: Source, ids: &[&str], text: &str) -> Line {
        Line {
            time: UnixTime::from_millis(time),
            instance: instance.to_owned(),
            source,
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            text: text.to_owned(),
        }
    }

    fn lines() -> Vec<Line> {
        vec![
            line(3, "reviews-v1-0", Source::App, &[], "asked by r1"),
            line(
                1,
                "productpage-v1-0",
                Source::Access,
                &["t1", "r1"],
                "GET /productpage",
            ),
            line(
                2,
                "reviews-v1-0",
                Source::Access,
                &["t1", "r2"],
                "GET /reviews/0",
            ),
            line(
                4,
                "reviews-v1-0",
                Source::Access,
                &["t9", "r9"],
                "mentions t1 in its text",
            ),
            line(5, "reviews-v1-0", Source::Internal, &[], "rotated"),
        ]
    }

    fn shown(wanted: &Wanted) -> Vec<u64> {
        let mut found: Vec<_> = lines()
            .into_iter()
            .filter(|line| wanted.has(line))
            .collect();
        sort(&mut found);
        found.iter().map(|line| line.time.as_millis()).collect()
    }

    #[test]
    fn a_trace_joins_access_lines_and_what_applications_say_of_its_requests() {
        let mut trace = Trace::new("t1");
        trace.learn(&lines());
        let wanted = Wanted {
            trace: Some(trace),
            ..Wanted::default()
        };
        assert_eq!(shown(&wanted), [1, 2, 3]);
    }

    #[test]
    fn a_request_id_leads_to_its_trace() {
        let mut trace = Trace::new("r2");
        trace.learn(&lines());
        let wanted = Wanted {
            trace: Some(trace),
            workload: Some("reviews-v1".into()),
            internal: true,
        };
        assert_eq!(shown(&wanted), [2, 3]);
    }

    #[test]
    fn internal_lines_are_shown_when_asked_for() {
        assert_eq!(shown(&Wanted::default()), [1, 2, 3, 4]);
        assert_eq!(
            shown(&Wanted {
                internal: true,
                ..Wanted::default()
            }),
            [1, 2, 3, 4, 5]
        );
    }

    #[test]
    fn a_workload_is_told_from_one_whose_name_begins_alike() {
        assert!(belongs("reviews-v1-0", "reviews-v1"));
        assert!(belongs("reviews-v1-12.shop", "reviews-v1"));
        assert!(belongs("reviews-v1-0", "reviews-v1-0"));
        assert!(!belongs("reviews-v1-0", "reviews"));
        assert!(!belongs("reviews-v10-0", "reviews-v1"));
    }
}
