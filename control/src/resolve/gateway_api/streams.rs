//! Rules of `TLSRoute` and `TCPRoute`: where connections go whose bytes nobody on the way reads.

use super::{Kind, Known, backends, parents, rule_path};
use crate::{
    Code,
    kinds::{KubernetesTcpRouteSpec, KubernetesTlsRouteSpec, StreamRuleSpec},
    mesh::{At, TcpRoute, TlsMatch, TlsRoute, To},
    resolve::values::Notes,
    source::path::Path,
};

pub(super) fn tls(
    notes: &mut Notes<'_, KubernetesTlsRouteSpec>,
    known: &Known<'_>,
) -> Vec<TlsRoute> {
    let spec = &notes.object.spec;
    let sni_hosts = parents::every_or(&spec.hostnames);
    let all = rules(notes, &spec.rules, Kind::Tls, known).into_iter();
    let route = |to| TlsRoute {
        matches: vec![TlsMatch {
            sni_hosts: sni_hosts.clone(),
            at: At::default(),
        }],
        to,
    };
    all.map(route).collect()
}

pub(super) fn tcp(
    notes: &mut Notes<'_, KubernetesTcpRouteSpec>,
    known: &Known<'_>,
) -> Vec<TcpRoute> {
    let all = rules(notes, &notes.object.spec.rules, Kind::Tcp, known).into_iter();
    let route = |to| TcpRoute {
        matches: Vec::new(),
        to,
    };
    all.map(route).collect()
}

/// The rules' backends. A rule has no condition of its own, so that the first takes all.
fn rules<S>(
    notes: &mut Notes<'_, S>,
    specs: &[StreamRuleSpec],
    kind: Kind,
    known: &Known<'_>,
) -> Vec<Vec<To>> {
    if specs.is_empty() {
        let path = Path::of(&["spec", "rules"]);
        notes.error(&path, Code::Missing, "the route has no rules");
    }
    let mut all = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let path = rule_path(n);
        if n > 0 {
            let text = "the rule before this one takes every connection";
            notes.warn(&path, Code::Unreachable, text, "keep one rule");
        }
        let backends = &spec.backend_refs;
        let path = path.key("backendRefs");
        if backends.is_empty() {
            notes.error(&path, Code::Missing, "the rule has no backends");
        }
        let mut to = backends::all(notes, &path, backends, kind, known);
        // SECURITY: where no backend may be asked, nobody is; without a destination, the address would say where to.
        if to.iter().all(|to| to.weight == 0) {
            to = backends::nobody().into_iter().collect();
        }
        all.push(to);
    }
    all
}
