//! Who asks: principals, namespaces, service accounts, addresses and end users as Cedar conditions.

use std::net::IpAddr;

use reeve_core::{Namespace, ServiceAccount, SpiffeId, TrustDomain};

use super::cedar::{Expr, Match, matches, pattern, quoted, strings};

/// Istio's name for the mesh's own trust domain, whatever that is called.
const OWN: &str = "cluster.local";
const ID: &str = "context.principal_id";

/// What an identity is told by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home<'a> {
    /// The mesh's trust domain.
    pub(super) domain: &'a TrustDomain,
    /// The policy's own namespace.
    pub(super) namespace: &'a Namespace,
}

/// `principals`, `source.principal`.
pub(super) fn principals(home: Home<'_>, values: &[String]) -> Result<Expr, (usize, String)> {
    let (mut exact, mut tests) = (Vec::new(), Vec::new());
    for (n, value) in values.iter().enumerate() {
        match Match::of(value) {
            Match::Present => tests.push(Expr::test("principal is Workload")),
            Match::Suffix(text) => tests.push(id_like(&["spiffe://", text])),
            Match::Prefix(text) => {
                let text = format!("spiffe://{}", own(home, text));
                tests.push(id_like(&[&text, ""]));
            }
            Match::Exact(text) => {
                let id = format!("spiffe://{}", own(home, text));
                let id = SpiffeId::parse(&id)
                    .map_err(|e| (n, format!("{value:?} names no identity: {e}")))?;
                exact.push(format!("Workload::{}", quoted(id.as_str())));
            }
        }
    }
    let exact = one_of(exact);
    Ok(Expr::any(exact.into_iter().chain(tests)))
}

/// `namespaces`, `source.namespace`: `*` stands for anything, wherever it is.
pub(super) fn namespaces(
    home: Home<'_>,
    values: &[String],
    exact: Exactly,
) -> Result<Expr, (usize, String)> {
    let (mut named, mut tests) = (Vec::new(), Vec::new());
    for (n, value) in values.iter().enumerate() {
        if value.contains('*') || exact == Exactly::EveryDomain {
            let texts = format!("spiffe://*/ns/{value}/*");
            tests.push(id_like(&texts.split('*').collect::<Vec<_>>()));
        } else {
            let namespace = Namespace::parse(value).map_err(|e| (n, e.to_string()))?;
            let name = format!("{}/ns/{namespace}", home.domain);
            named.push(format!("Namespace::{}", quoted(&name)));
        }
    }
    Ok(Expr::any(one_in(named).into_iter().chain(tests)))
}

/// `serviceAccounts`, `source.serviceAccount`: `account`, or `namespace/account`.
pub(super) fn accounts(
    home: Home<'_>,
    values: &[String],
    exact: Exactly,
) -> Result<Expr, (usize, String)> {
    let (mut named, mut tests) = (Vec::new(), Vec::new());
    for (n, value) in values.iter().enumerate() {
        let own = home.namespace.as_str();
        let (namespace, account) = value.split_once('/').unwrap_or((own, value));
        let legal = Namespace::parse(namespace).and_then(|namespace| {
            ServiceAccount::parse(account).map(|account| (namespace, account))
        });
        let (namespace, account) = legal.map_err(|e| (n, e.to_string()))?;
        if exact == Exactly::EveryDomain {
            let text = format!("/ns/{namespace}/sa/{account}");
            tests.push(id_like(&["spiffe://", &text]));
        } else {
            let name = format!("{}/ns/{namespace}/sa/{account}", home.domain);
            named.push(format!("ServiceAccount::{}", quoted(&name)));
        }
    }
    Ok(Expr::any(one_in(named).into_iter().chain(tests)))
}

/// Istio's namespaces and accounts are of any trust domain; ours say theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exactly {
    /// What allows more when it matches more: the mesh's own trust domain alone.
    OwnDomain,
    /// What denies more when it matches more: a partner's too.
    EveryDomain,
}

/// `ipBlocks`, `source.ip` and the like: the address `subject` is in one of these blocks, or is one of these addresses.
pub(super) fn addresses(subject: &str, values: &[String]) -> Result<Expr, (usize, String)> {
    let mut tests = Vec::new();
    for (n, value) in values.iter().enumerate() {
        if !is_block(value) {
            return Err((
                n,
                format!("{value:?} is neither an address nor a block such as 10.0.0.0/8"),
            ));
        }
        tests.push(Expr::test(format!(
            "{subject}.isInRange(ip({}))",
            quoted(value)
        )));
    }
    Ok(Expr::any(tests))
}

/// `connection.sni`: server names are compared in lower case, as they are sent.
pub(super) fn server_names(values: &[String]) -> Expr {
    let lower: Vec<String> = values.iter().map(|v| v.to_ascii_lowercase()).collect();
    let has = Expr::test("context has sni");
    if lower.iter().any(|value| value == "*") {
        return has;
    }
    Expr::all([has, matches("context.sni", &lower)])
}

fn is_block(value: &str) -> bool {
    let (address, bits) = value
        .split_once('/')
        .map_or((value, None), |(a, b)| (a, Some(b)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= most))
}

/// Issuer and subject: cut at the last slash, or before a subject that is a SPIFFE ID, which has slashes of its own.
fn cut(principal: &str) -> Option<(&str, &str)> {
    let at = principal.rfind("/spiffe://");
    let at = at.or_else(|| principal.rfind('/'))?;
    Some((principal.get(..at)?, principal.get(at + 1..)?))
}

/// `requestPrincipals`, `request.auth.principal`: `issuer/subject`.
pub(super) fn request_principals(values: &[String]) -> Expr {
    let issuer = |values: &[&str]| part("context.user.issuer", values);
    let subject = |values: &[&str]| part("context.user.subject", values);
    let one = |value: &String| {
        let (iss, sub) = match cut(value) {
            Some((iss, sub)) => (iss, Some(sub)),
            None => (value.as_str(), None),
        };
        let pair = match (Match::of(value), sub) {
            (Match::Present, _) => [issuer(&["*"]), subject(&["*"])],
            (Match::Suffix(_), Some(sub)) => [issuer(&[iss]), exact("context.user.subject", sub)],
            (Match::Suffix(_), None) => [issuer(&["*"]), subject(&[value])],
            (Match::Prefix(_), Some(sub)) => [exact("context.user.issuer", iss), subject(&[sub])],
            (Match::Prefix(_), None) => [issuer(&[value]), subject(&["*"])],
            (Match::Exact(_), sub) => [
                exact("context.user.issuer", iss),
                exact("context.user.subject", sub.unwrap_or_default()),
            ],
        };
        Expr::all(pair)
    };
    with_user(Expr::any(values.iter().map(one)))
}

fn exact(subject: &str, text: &str) -> Expr {
    Expr::test(format!("{subject} == {}", quoted(text)))
}

fn part(subject: &str, values: &[&str]) -> Expr {
    let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
    matches(subject, &values)
}

/// A claim, nested ones joined with dots: one of its values is one of `values`.
pub(super) fn claim(name: &str, values: &[String]) -> Expr {
    let attribute = match name {
        "iss" => Some("context.user.issuer"),
        "sub" => Some("context.user.subject"),
        _ => None,
    };
    if let Some(attribute) = attribute {
        return with_user(matches(attribute, values));
    }
    let tag = quoted(name);
    let (mut exact, mut tests) = (Vec::new(), Vec::new());
    for value in values {
        let line = |texts: &[&str]| {
            let pattern = pattern(texts);
            let text = format!("context.claim_lines.getTag({tag}) like {pattern}");
            Expr::all([
                Expr::test(format!("context.claim_lines.hasTag({tag})")),
                Expr::test(text),
            ])
        };
        match Match::of(value) {
            Match::Exact(text) => exact.push(text),
            Match::Present => tests.push(Expr::all([
                Expr::test(format!("context.user.hasTag({tag})")),
                Expr::test(format!("context.user.getTag({tag}) != [\"\"]")),
            ])),
            Match::Prefix(text) => tests.push(line(&["", &format!("\n{text}"), ""])),
            Match::Suffix(text) => tests.push(line(&["", &format!("{text}\n"), ""])),
        }
    }
    if !exact.is_empty() {
        let held = match exact.as_slice() {
            [only] => format!("contains({})", quoted(only)),
            many => format!("containsAny({})", strings(many.iter().copied())),
        };
        let has = Expr::test(format!("context.user.hasTag({tag})"));
        let held = Expr::test(format!("context.user.getTag({tag}).{held}"));
        tests.insert(0, Expr::all([has, held]));
    }
    with_user(Expr::any(tests))
}

fn with_user(test: Expr) -> Expr {
    Expr::all([Expr::test("context has user"), test])
}

/// `cluster.local/…` is the mesh's own trust domain (Istio's rule for principals).
fn own(home: Home<'_>, text: &str) -> String {
    match text.strip_prefix(OWN) {
        Some(rest) if rest.starts_with('/') => format!("{}{rest}", home.domain),
        _ => text.to_owned(),
    }
}

fn id_like(texts: &[&str]) -> Expr {
    let test = format!("{ID} like {}", pattern(texts));
    Expr::all([Expr::test("context has principal_id"), Expr::Test(test)])
}

fn one_of(ids: Vec<String>) -> Option<Expr> {
    match ids.as_slice() {
        [] => None,
        [only] => Some(Expr::test(format!("principal == {only}"))),
        many => Some(Expr::test(format!("principal in [{}]", many.join(", ")))),
    }
}

fn one_in(parents: Vec<String>) -> Option<Expr> {
    match parents.as_slice() {
        [] => None,
        [only] => Some(Expr::test(format!("principal in {only}"))),
        many => Some(Expr::test(format!("principal in [{}]", many.join(", ")))),
    }
}
