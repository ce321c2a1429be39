//! Entity ids in policies: a misspelt one would never match, and a `forbid` that never matches leaves a door open.

use cedar_policy::EntityUid;
use reeve_core::{Namespace, ServiceName, SpiffeId, TrustDomain};

/// Says what is wrong with an entity that a policy names, and how it should look.
pub(crate) fn misspelt(uid: &EntityUid) -> Option<(String, &'static str)> {
    let kind = uid.type_name().basename();
    let id: &str = uid.id().unescaped();
    let (fine, help) = match kind {
        "Workload" => (
            SpiffeId::parse(id).is_ok(),
            "write the whole SPIFFE ID, such as Workload::\"spiffe://mesh.local/ns/default/sa/reviews\"",
        ),
        "ServiceAccount" => (
            is_service_account(id),
            "write it with its trust domain, such as ServiceAccount::\"mesh.local/ns/default/sa/reviews\"",
        ),
        "Namespace" => (
            is_namespace(id),
            "write it with its trust domain, such as Namespace::\"mesh.local/ns/default\"",
        ),
        "TrustDomain" => (
            TrustDomain::parse(id).is_ok(),
            "write the bare name, such as TrustDomain::\"mesh.local\"",
        ),
        "Service" => (
            ServiceName::parse(id).is_ok() && id.contains('.'),
            "write the full host name, such as Service::\"reviews.default.svc.cluster.local\"",
        ),
        "User" => (
            false,
            "compare context.user.issuer and context.user.subject instead",
        ),
        "Headers" | "Query" => (
            false,
            "they are different for each request; look into context.headers or context.query",
        ),
        _ => (true, ""),
    };
    (!fine).then(|| (format!("{uid} can never be met"), help))
}

fn is_namespace(id: &str) -> bool {
    id.split_once("/ns/").is_some_and(|(domain, name)| {
        TrustDomain::parse(domain).is_ok() && Namespace::parse(name).is_ok()
    })
}

fn is_service_account(id: &str) -> bool {
    SpiffeId::parse(&format!("spiffe://{id}")).is_ok_and(|id| id.namespace_and_account().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_that_can_occur_pass() {
        let table = [
            (r#"Workload::"spiffe://mesh.local/ns/a/sa/b""#, true),
            (r#"Workload::"spiffe://mesh.local/any/path""#, true),
            (r#"Workload::"mesh.local/ns/a/sa/b""#, false),
            (r#"ServiceAccount::"mesh.local/ns/a/sa/b""#, true),
            (r#"ServiceAccount::"b""#, false),
            (r#"ServiceAccount::"mesh.local/ns/a""#, false),
            (r#"Namespace::"mesh.local/ns/a""#, true),
            (r#"Namespace::"a""#, false),
            (r#"Namespace::"/ns/a""#, false),
            (r#"Namespace::"mesh.local/ns/A""#, false),
            (r#"TrustDomain::"mesh.local""#, true),
            (r#"TrustDomain::"spiffe://mesh.local""#, false),
            (r#"Service::"reviews.default.svc.cluster.local""#, true),
            (r#"Service::"reviews""#, false),
            (r#"Service::"Reviews.default""#, false),
            (r#"User::"alice""#, false),
            (r#"Headers::"h""#, false),
            (r#"Unauthenticated::"unauthenticated""#, true),
            (r#"Action::"GET""#, true),
        ];
        for (text, fine) in table {
            let uid: EntityUid = text.parse().unwrap();
            assert_eq!(misspelt(&uid).is_none(), fine, "{text}");
        }
    }
}
