//! Rules that contradict themselves: Cedar can tell that no request ever satisfies them, and would refuse such a policy.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use reeve_authz::{FaultKind, parse_access_policy};
use reeve_core::Namespace;

/// Most policies of which the answer is remembered; then it begins anew.
const MAX_REMEMBERED: usize = 16 * 1024;

/// What was found of policies before, since a change of the configuration leaves most of them as they are.
static KNOWN: LazyLock<Mutex<HashMap<String, bool>>> = LazyLock::new(Mutex::default);

/// Whether the policy says nothing; one that is faulty in another way says that elsewhere.
pub(super) fn is_impossible(policy: &str) -> bool {
    // Without a negation nothing contradicts another part.
    if !policy.contains('!') && !policy.contains("unless") {
        return false;
    }
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(answer) = known().get(policy) {
        return *answer;
    }
    let answer = found(policy);
    let mut known = known();
    if known.len() >= MAX_REMEMBERED {
        known.clear();
    }
    known.insert(policy.to_owned(), answer);
    answer
}

/// SECURITY: what cannot be read is not left out.
fn found(policy: &str) -> bool {
    let Ok(namespace) = Namespace::parse("translated") else {
        return false;
    };
    let faults = match parse_access_policy(None, &namespace, "rule", policy) {
        Ok(_) => return false,
        Err(faults) => faults,
    };
    let impossible = |fault: &reeve_authz::PolicyFault| fault.kind == FaultKind::Impossible;
    !faults.is_empty() && faults.iter().all(impossible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_contradicts_itself_is_impossible() {
        let policy = |condition: &str| {
            format!("@id(\"rule-1\")\nforbid (principal, action, resource) when {{ {condition} }};")
        };
        for (condition, expected) in [
            ("!(principal is Workload) && principal is Workload", true),
            ("!(context.port == 1)", false),
            // Faulty in another way, alone or besides.
            ("!context.nothing", false),
            ("!context.mtls && context.mtls && context.nothing", false),
            ("!(", false),
        ] {
            for asked in 0..2 {
                let found = is_impossible(&policy(condition));
                assert_eq!(found, expected, "{condition}, asked {asked}");
            }
        }
    }
}
