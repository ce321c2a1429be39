use proptest::prelude::*;
use reeve_core::clock::ManualClock;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn tokens() -> (JoinTokens, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(1_800_000_000)));
    (JoinTokens::new(Arc::clone(&clock) as _), clock)
}

fn id(name: &str) -> SpiffeId {
    format!("spiffe://mesh.local/{name}").parse().unwrap()
}

#[test]
fn a_token_is_good_once() {
    let (tokens, _) = tokens();
    let token = tokens.create(id("a"), HOUR).unwrap();
    assert_eq!(tokens.redeem(&token, &id("a")), Ok(()));
    assert_eq!(tokens.redeem(&token, &id("a")), Err(TokenError::Spent));
}

#[test]
fn a_token_is_good_for_one_identity() {
    let (tokens, _) = tokens();
    let token = tokens.create(id("a"), HOUR).unwrap();
    assert_eq!(
        tokens.redeem(&token, &id("b")),
        Err(TokenError::OtherIdentity)
    );
    assert_eq!(
        tokens.redeem(&token, &id("a")),
        Ok(()),
        "it was not spent on the wrong one"
    );
}

#[test]
fn a_token_expires() {
    let (tokens, clock) = tokens();
    let token = tokens.create(id("a"), HOUR).unwrap();
    clock.advance(HOUR);
    assert_eq!(tokens.redeem(&token, &id("a")), Err(TokenError::Expired));
    let long = tokens.create(id("a"), HOUR * 1000).unwrap();
    clock.advance(MAX_LIFE);
    assert_eq!(
        tokens.redeem(&long, &id("a")),
        Err(TokenError::Expired),
        "24 hours at most"
    );
}

#[test]
fn made_up_tokens_are_unknown() {
    let (tokens, _) = tokens();
    let token = tokens.create(id("a"), HOUR).unwrap();
    let (name, secret) = token.split_once('.').unwrap();
    let other_secret = format!("{name}.{}", "A".repeat(secret.len()));
    let other_name = format!("{}.{secret}", "A".repeat(name.len()));
    for bad in [
        "",
        ".",
        name,
        secret,
        "x.y",
        &other_secret,
        &other_name,
        &format!("{}x", *token),
    ] {
        assert_eq!(
            tokens.redeem(bad, &id("a")),
            Err(TokenError::Unknown),
            "{bad}"
        );
    }
    assert_eq!(tokens.redeem(&token, &id("a")), Ok(()));
}

#[test]
fn outstanding_tokens_have_a_bound_and_old_ones_make_room() {
    let (tokens, clock) = tokens();
    for _ in 0..MAX_TOKENS {
        tokens.create(id("a"), HOUR).unwrap();
    }
    assert_eq!(
        tokens.create(id("a"), HOUR).unwrap_err(),
        TokenError::TooMany
    );
    clock.advance(HOUR + REMEMBERED + Duration::from_millis(1));
    assert!(tokens.create(id("a"), HOUR).is_ok());
}

#[test]
fn tokens_that_were_used_make_room_and_stay_refused() {
    let (tokens, _) = tokens();
    let create = |_| tokens.create(id("a"), HOUR).unwrap();
    let used: Vec<_> = (0..MAX_TOKENS).map(create).collect();
    for token in &used {
        tokens.redeem(token, &id("a")).unwrap();
    }
    let again = || tokens.redeem(&used[0], &id("a")).unwrap_err();
    assert_eq!(again(), TokenError::Spent);
    let new = tokens.create(id("b"), HOUR).unwrap();
    assert_eq!(again(), TokenError::Unknown);
    tokens.redeem(&new, &id("b")).unwrap();
}

#[test]
fn secrets_are_neither_kept_nor_shown() {
    let (tokens, _) = tokens();
    let token = tokens.create(id("a"), HOUR).unwrap();
    assert!(token.len() > 50);
    assert_eq!(format!("{tokens:?}"), "JoinTokens(..)");
}

proptest! {
    #[test]
    fn no_other_text_redeems_a_token(
        text in "\\PC{0,80}", at in any::<prop::sample::Index>(), to in prop::char::range('-', 'z'), cut in any::<prop::sample::Index>(),
    ) {
        let (tokens, _) = tokens();
        let token = tokens.create(id("a"), HOUR).unwrap();
        let at = at.index(token.len());
        let changed: String = token
            .chars()
            .enumerate()
            .map(|(place, sign)| if place == at { to } else { sign })
            .collect();
        let part: String = token.chars().take(cut.index(token.len())).collect();
        for other in [&text, &changed, &part] {
            if **other != **token {
                prop_assert_eq!(tokens.redeem(other, &id("a")), Err(TokenError::Unknown));
            }
        }
        prop_assert_eq!(tokens.redeem(&token, &id("a")), Ok(()));
    }
}

#[test]
fn a_clock_that_is_set_makes_no_token_live_longer() {
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(1_800_000_000)));
    let tokens = JoinTokens::new(Arc::clone(&clock) as _);
    let id: SpiffeId = "spiffe://mesh.local/ns/default/sa/reviews".parse().unwrap();
    let minute = Duration::from_secs(60);
    let [first, second] = [(); 2].map(|()| tokens.create(id.clone(), minute * 10).unwrap());
    clock.set(clock.now().minus(minute * 60));
    clock.advance(minute * 9);
    assert_eq!(tokens.redeem(&first, &id), Ok(()));
    clock.advance(minute);
    assert_eq!(tokens.redeem(&second, &id), Err(TokenError::Expired));
}
