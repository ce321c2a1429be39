//! When places are asked, and how long their keys are kept.

use super::*;

const START: UnixTime = UnixTime::from_secs(1_000);

fn bad() -> Result<String, String> {
    Err("down".to_owned())
}

/// A mesh whose rules fetch keys from these URLs.
fn mesh(uris: &[&str]) -> Mesh {
    let rules = uris
        .iter()
        .map(|uri| format!("    - {{issuer: a, jwksUri: '{uri}', timeout: 3s}}\n"));
    let yaml = format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: r}}\nspec:\n  jwtRules:\n{}",
        rules.collect::<String>()
    );
    crate::resolve::tests::mesh(&yaml)
}

fn uris(sources: &[KeySource]) -> Vec<&str> {
    sources.iter().map(|s| s.place.uri()).collect()
}

fn place(uri: &str) -> KeyPlace {
    KeyPlace::Uri(uri.to_owned())
}

#[test]
fn failures_wait_longer_each_time_and_stale_keys_end() {
    let mut source = Source::default();
    source.settle("u", Ok(jwks("k")), START);
    assert_eq!(source.due, START.plus(REFRESH));
    for wait in [1, 2, 4, 8] {
        source.settle("u", bad(), START);
        assert_eq!(source.due.since(START), Duration::from_secs(wait));
    }
    for _ in 0..40 {
        source.settle("u", bad(), START);
    }
    assert_eq!(source.due.since(START), REFRESH, "no longer than that");
    assert!(source.keys.is_some(), "still good for a while");
    source.settle("u", bad(), START.plus(MAX_STALE));
    assert!(source.keys.is_some());
    source.settle("u", bad(), START.plus(MAX_STALE + Duration::from_secs(1)));
    assert!(source.keys.is_none());
}

/// Garbage does not take good keys away: it is a failure like any other.
#[test]
fn what_is_no_usable_key_set_is_a_failure() {
    for garbage in [
        "",
        "<html>",
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#,
    ] {
        let mut source = Source::default();
        source.settle("u", Ok(jwks("k")), START);
        source.settle("u", Ok(garbage.to_owned()), START);
        let keys = source.keys.as_ref().map(|k| k.document.json.clone());
        assert_eq!(keys, Some(jwks("k")), "{garbage}");
        let status = source.status(&place("u"), vec![]);
        assert_eq!(
            (status.failures, status.error.is_some()),
            (1, true),
            "{garbage}"
        );
    }
}

#[test]
fn places_come_and_go_with_the_mesh_and_a_slow_one_holds_up_no_other() {
    let mut keeper = Keeper::new(BTreeMap::new());
    assert!(keeper.follow(
        &mesh(&["https://a/", "https://b/"]),
        &BTreeSet::new(),
        START
    ));
    let due = keeper.due(START, 16);
    assert_eq!(uris(&due), ["https://a/", "https://b/"]);
    assert_eq!(due[0].timeout, Duration::from_secs(3));
    assert!(keeper.due(START, 16).is_empty(), "both are under way");
    assert!(keeper.settle(&place("https://b/"), Ok(jwks("b")), START));
    assert_eq!(keeper.usable().len(), 1, "a is still under way");
    let later = START.plus(REFRESH);
    assert_eq!(
        uris(&keeper.due(later, 16)),
        ["https://b/"],
        "never twice at once"
    );

    assert!(keeper.follow(&mesh(&["https://b/"]), &BTreeSet::new(), later));
    assert!(
        !keeper.settle(&place("https://a/"), Ok(jwks("a")), later),
        "named no more"
    );
    assert!(
        !keeper.follow(&mesh(&["https://b/"]), &BTreeSet::new(), later),
        "nothing new"
    );
    assert_eq!(
        keeper.usable().into_keys().collect::<Vec<_>>(),
        [place("https://b/")]
    );
}

#[test]
fn no_more_fetches_at_once_than_there_is_room_for() {
    let mut keeper = Keeper::new(BTreeMap::new());
    keeper.follow(
        &mesh(&["https://a/", "https://b/", "https://c/"]),
        &BTreeSet::new(),
        START,
    );
    assert_eq!(keeper.due(START, 2).len(), 2);
    assert_eq!(keeper.due(START, 0).len(), 0);
    assert_eq!(keeper.due(START, 2).len(), 1);
}

#[test]
fn a_token_with_an_unknown_key_has_its_issuer_asked_early_and_seldom() {
    let mesh = mesh(&["https://a/"]);
    let wanted = BTreeSet::from(["default/r/0".to_owned()]);
    let mut keeper = Keeper::new(BTreeMap::new());
    keeper.follow(&mesh, &BTreeSet::new(), START);
    let mut ask = |wanted: &BTreeSet<String>, at: u64| {
        let now = START.plus(Duration::from_secs(at));
        keeper.follow(&mesh, wanted, now);
        let asked = !keeper.due(now, 16).is_empty();
        if asked {
            keeper.settle(&place("https://a/"), Ok(jwks("k")), now);
        }
        asked
    };
    assert!(ask(&BTreeSet::new(), 0), "the first time");
    assert!(!ask(&BTreeSet::new(), 1));
    assert!(ask(&wanted, 2), "early");
    let asked = (3..103).filter(|at| ask(&wanted, *at)).count();
    assert_eq!(asked, 10, "once in 10 s, however many such tokens come");
    assert!(
        !ask(&BTreeSet::from(["default/r/7".to_owned()]), 120),
        "no such rule"
    );
}

/// Else whoever sends junk decides when a failing issuer is asked.
#[test]
fn a_failing_issuer_is_not_asked_early() {
    let mut source = Source::default();
    source.settle("u", Ok(jwks("k")), START);
    source.settle("u", bad(), START);
    source.want(START);
    assert!(!source.is_due(START));
    assert!(source.is_due(START.plus(FIRST_RETRY)));
}

#[test]
fn keys_outlast_a_restart_but_not_their_time() {
    let state = tempfile::tempdir().unwrap();
    let fetched = Fetched::check(&jwks("k"), START).unwrap();
    kept::write(state.path(), [(&place("https://a/"), &fetched)].into_iter());
    let soon = START.plus(MAX_STALE);
    let again = kept_keys(state.path(), soon);
    assert_eq!(again[&place("https://a/")].json, jwks("k"));
    let late = kept_keys(state.path(), START.plus(MAX_STALE + Duration::from_secs(1)));
    assert!(late.is_empty());

    let mut keeper = Keeper::new(kept::read(state.path(), soon));
    keeper.follow(&mesh(&["https://a/"]), &BTreeSet::new(), soon);
    assert_eq!(keeper.usable().len(), 1, "good before anything is fetched");
    assert_eq!(
        uris(&keeper.due(soon, 16)),
        ["https://a/"],
        "and asked at once"
    );

    for junk in [
        "",
        "[]",
        "{",
        r#"[{"place":{"uri":"u"},"fetched_at":1,"jwks":"x"}]"#,
    ] {
        std::fs::write(state.path().join("jwks.json"), junk).unwrap();
        assert!(kept_keys(state.path(), soon).is_empty(), "{junk}");
    }
}
