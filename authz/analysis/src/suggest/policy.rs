//! Evidence as Cedar text that a person would have written, with comments that say what it rests on.

use std::collections::{BTreeMap, BTreeSet};

use reeve_core::{
    SpiffeId,
    decision::{AccessRequest, Action, Principal},
    model::EntityName,
};

use super::{
    evidence::{Evidence, Target, short},
    groups::Groups,
    shown,
};
use crate::{
    seen::Seen,
    shape::{Shape, WILD},
};

/// More path shapes than these do not make a policy that a person reads; its paths are then left open.
const MAX_PATHS: usize = 64;
/// Paths that a comment lists.
const MAX_LISTED: usize = 12;

/// One `permit`.
#[derive(Debug)]
pub(super) struct Permit {
    /// Its `@id`.
    pub(super) id: String,
    pub(super) caller: Principal,
    /// In the place of the caller: a group, and all who are in it.
    group: Option<(EntityName, BTreeSet<SpiffeId>)>,
    pub(super) actions: BTreeSet<Action>,
    /// None: any.
    pub(super) shapes: Vec<Shape>,
    pub(super) ports: Vec<u16>,
    pub(super) issuer: Option<String>,
    pub(super) samples: Vec<AccessRequest>,
    seen: Seen,
    too_many: usize,
}

impl Permit {
    /// One for each caller, or group of callers, and what it does by the same methods.
    pub(super) fn all(target: &Target, evidence: Vec<Evidence>, groups: &Groups) -> Vec<Self> {
        let mut permits: Vec<Self> = Vec::new();
        for one in evidence {
            let patterns = patterns(&one.shapes);
            let same = |p: &&mut Self| {
                p.caller == one.caller
                    && self::patterns(&p.shapes) == patterns
                    && p.ports == one.ports
                    && p.issuer == one.issuer
            };
            match permits.iter_mut().find(same) {
                Some(known) => known.join(one),
                None => permits.push(Self::of(one)),
            }
        }
        let mut permits = grouped(permits, groups);
        let mut ids = BTreeMap::<String, usize>::new();
        for permit in &mut permits {
            let who = match &permit.group {
                Some((group, _)) => word(&group.id),
                None => caller(&permit.caller),
            };
            let id = format!("{who}-to-{}", target.short());
            let count = ids.entry(id.clone()).or_default();
            *count += 1;
            permit.id = match *count {
                1 => id,
                more => format!("{id}-{more}"),
            };
            if permit.shapes.len() > MAX_PATHS {
                permit.too_many = permit.shapes.len();
                permit.shapes.clear();
            }
        }
        permits
    }

    fn of(evidence: Evidence) -> Self {
        Self {
            id: String::new(),
            caller: evidence.caller,
            group: None,
            actions: [evidence.action].into(),
            shapes: without_covered(evidence.shapes),
            ports: evidence.ports,
            issuer: evidence.issuer,
            samples: vec![evidence.sample],
            seen: evidence.seen,
            too_many: 0,
        }
    }

    fn join(&mut self, other: Evidence) {
        self.actions.insert(other.action);
        self.samples.push(other.sample);
        self.seen.merge(other.seen);
        for (known, new) in self.shapes.iter_mut().zip(without_covered(other.shapes)) {
            known.count += new.count;
        }
    }

    /// What it permits, whoever the caller is.
    fn conduct(&self) -> (&BTreeSet<Action>, BTreeSet<String>, &[u16], Option<&String>) {
        let patterns = self.shapes.iter().map(|shape| shape.pattern.clone());
        (
            &self.actions,
            patterns.collect(),
            &self.ports,
            self.issuer.as_ref(),
        )
    }

    /// The same of another caller, who is in one group with this one.
    fn take_in(&mut self, other: Self) {
        self.samples.extend(other.samples);
        self.seen.merge(other.seen);
        for (known, new) in self.shapes.iter_mut().zip(other.shapes) {
            known.count += new.count;
        }
    }

    fn text(&self, target: &Target) -> String {
        let mut text = String::new();
        for line in self.comment() {
            text.push_str("// ");
            text.push_str(&line);
            text.push('\n');
        }
        text.push_str(&format!(
            "@id({})\npermit (\n  {},\n  {},\n  {}\n)",
            quoted(&self.id),
            self.principal(),
            self.action(),
            resource(target),
        ));
        let conditions = self.conditions();
        match conditions.as_slice() {
            [] => {}
            [one] => text.push_str(&format!("\nwhen {{ {one} }}")),
            several => {
                let each = several.iter().map(|one| match one.contains(" || ") {
                    true => format!("({one})"),
                    false => one.clone(),
                });
                let all = each.collect::<Vec<_>>().join(" && ");
                text.push_str(&format!("\nwhen {{ {all} }}"));
            }
        }
        text.push_str(";\n");
        text
    }

    /// What it rests on.
    fn comment(&self) -> Vec<String> {
        let Seen {
            count,
            first,
            last,
            examples,
        } = &self.seen;
        let methods: Vec<_> = self.actions.iter().map(|a| a.as_str()).collect();
        let what = match (self.ports.is_empty(), count) {
            (true, 1) => "request",
            (true, _) => "requests",
            (false, 1) => "connection",
            (false, _) => "connections",
        };
        let mut lines = vec![format!(
            "{count} {what} ({}), first {}, last {}",
            methods.join(", "),
            shown(*first),
            shown(*last)
        )];
        if let Some((group, members)) = &self.group {
            let listed = members.iter().take(MAX_LISTED);
            let listed: Vec<_> = listed.map(|id| plain(id.as_str())).collect();
            let more = members.len().saturating_sub(MAX_LISTED);
            let more = (more > 0).then(|| format!(", and {more} more"));
            lines.push(format!(
                "by all who are in {} (whoever joins it is permitted too): {}{}",
                entity(group),
                listed.join(", "),
                more.unwrap_or_default()
            ));
        }
        let examples: Vec<_> = examples.iter().map(|example| plain(&example.id)).collect();
        lines.push(format!("for example {}", examples.join(", ")));
        for shape in self.shapes.iter().take(MAX_LISTED) {
            lines.push(listed(shape));
        }
        if let Some(more) = self.shapes.len().checked_sub(MAX_LISTED).filter(|n| *n > 0) {
            lines.push(format!("  and {more} more"));
        }
        if self.too_many > 0 {
            lines.push(format!(
                "generalised: {} shapes of paths are too many to list, so any path is permitted",
                self.too_many
            ));
        }
        lines
    }

    fn principal(&self) -> String {
        if let Some((group, _)) = &self.group {
            return format!("principal in {}", entity(group));
        }
        match &self.caller {
            Principal::Workload(id) => format!("principal == Workload::{}", quoted(id.as_str())),
            Principal::Unauthenticated => {
                "principal == Unauthenticated::\"unauthenticated\"".to_owned()
            }
        }
    }

    fn action(&self) -> String {
        let each = self.actions.iter();
        let each: Vec<_> = each
            .map(|a| format!("Action::{}", quoted(a.as_str())))
            .collect();
        match each.as_slice() {
            [one] => format!("action == {one}"),
            several => format!("action in [{}]", several.join(", ")),
        }
    }

    fn conditions(&self) -> Vec<String> {
        let mut all = Vec::new();
        let paths: Vec<_> = self.shapes.iter().map(path_condition).collect();
        all.extend(any_of(paths));
        let ports = self
            .ports
            .iter()
            .map(|port| format!("context.port == {port}"));
        all.extend(any_of(ports.collect()));
        if let Some(issuer) = &self.issuer {
            all.push("context has user".to_owned());
            all.push(format!("context.user.issuer == {}", quoted(issuer)));
        }
        all
    }
}

/// The Cedar text for a target.
pub(super) fn document(target: &Target, permits: &[Permit]) -> String {
    let head = format!(
        "// Suggested from recorded traffic to {}.\n\
         // What was not asked for in that time is not permitted: read it before it binds, and try it with\n\
         // `reeve policy whatif`.\n//\n",
        plain(&target.to_string())
    );
    let texts: Vec<_> = permits.iter().map(|permit| permit.text(target)).collect();
    head + &texts.join("\n")
}

/// Permits for callers who do the same, and are all who are in one group, as one.
fn grouped(permits: Vec<Permit>, groups: &Groups) -> Vec<Permit> {
    let mut left: Vec<Permit> = permits;
    let mut found = Vec::new();
    while !left.is_empty() {
        let first = left.remove(0);
        let alike = |p: &Permit| {
            p.conduct() == first.conduct() && matches!(p.caller, Principal::Workload(_))
        };
        let callers = left.iter().filter(|p| alike(p)).chain([&first]);
        let callers: BTreeSet<_> = callers
            .filter_map(|p| p.caller.spiffe_id().cloned())
            .collect();
        let group = groups.of(&callers).filter(|_| callers.len() > 1).cloned();
        let Some(group) = group else {
            found.push(first);
            continue;
        };
        let (others, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(|p| alike(p));
        left = rest;
        let mut first = first;
        others.into_iter().for_each(|other| first.take_in(other));
        first.group = Some((group, callers));
        found.push(first);
    }
    found
}

fn entity(name: &EntityName) -> String {
    format!("{}::{}", name.kind, quoted(&name.id))
}

fn resource(target: &Target) -> String {
    match target {
        Target::Service(_, name) => format!("resource in Service::{}", quoted(name.as_str())),
        Target::Workload(_, id) => format!("resource == Workload::{}", quoted(id.as_str())),
    }
}

fn caller(principal: &Principal) -> String {
    let name = match principal {
        Principal::Unauthenticated => "anybody",
        Principal::Workload(id) => short(id),
    };
    word(name)
}

/// A name as a part of an id.
fn word(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    match name.trim_matches('-') {
        "" => "workload".to_owned(),
        name => name.to_owned(),
    }
}

fn any_of(conditions: Vec<String>) -> Option<String> {
    match conditions.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => {
            let each = several.iter().map(|one| match one.contains(" && ") {
                true => format!("({one})"),
                false => one.clone(),
            });
            Some(each.collect::<Vec<_>>().join(" || "))
        }
    }
}

fn path_condition(shape: &Shape) -> String {
    if shape.wild.is_empty() {
        return format!("context.path == {}", quoted(&shape.pattern));
    }
    // As many segments as the pattern has, so that no wildcard takes more than one.
    let count = shape.pattern.matches('/').count();
    format!(
        "context.path like {} && context.path_segments.count == {count}",
        pattern(&shape.pattern)
    )
}

fn listed(shape: &Shape) -> String {
    let why: Vec<_> = shape
        .wild
        .iter()
        .map(|why| {
            let kind = match (why.by_pattern, why.values) {
                (true, 1) => "id",
                (true, _) => "ids",
                (false, 1) => "value",
                (false, _) => "values",
            };
            let shown: Vec<_> = why.shown.iter().map(|value| plain(value)).collect();
            format!("* = {} {kind}, such as {}", why.values, shown.join(", "))
        })
        .collect();
    let path = plain(&shape.pattern);
    match why.is_empty() {
        true => format!("  {path}: {}", shape.count),
        false => format!(
            "  {path}: {} (generalised: {})",
            shape.count,
            why.join("; ")
        ),
    }
}

fn patterns(shapes: &[Shape]) -> BTreeSet<String> {
    let kept = without_covered(shapes.to_vec());
    kept.into_iter().map(|shape| shape.pattern).collect()
}

/// Without those that a wildcard of another covers; what they count goes to it.
fn without_covered(shapes: Vec<Shape>) -> Vec<Shape> {
    let (mut kept, plain): (Vec<_>, Vec<_>) = shapes.into_iter().partition(|s| !s.wild.is_empty());
    for shape in plain {
        match kept
            .iter_mut()
            .find(|wide| covers(&wide.pattern, &shape.pattern))
        {
            Some(wide) if !wide.wild.is_empty() => wide.count += shape.count,
            Some(_) | None => kept.push(shape),
        }
    }
    kept.sort_by(|a, b| a.pattern.cmp(&b.pattern));
    kept
}

/// Whether the pattern has that path among its own.
fn covers(pattern: &str, path: &str) -> bool {
    let (mut wide, mut narrow) = (pattern.split('/'), path.split('/'));
    loop {
        match (wide.next(), narrow.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == WILD || a == b => {}
            _ => return false,
        }
    }
}

/// A Cedar string. SECURITY: paths are the caller's words; all but plain ASCII is escaped.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_default())
}

/// A Cedar pattern, in which only our wildcards are any.
fn pattern(text: &str) -> String {
    let parts = text.split('/').map(|segment| match segment {
        WILD => WILD.to_owned(),
        other => other.escape_default().to_string().replace('*', "\\*"),
    });
    format!("\"{}\"", parts.collect::<Vec<_>>().join("/"))
}

/// For a comment. SECURITY: a line break would end it.
fn plain(text: &str) -> String {
    let escaped: String = text.escape_default().to_string();
    match escaped.char_indices().nth(120) {
        Some((at, _)) => format!("{}…", escaped.get(..at).unwrap_or_default()),
        None => escaped,
    }
}
