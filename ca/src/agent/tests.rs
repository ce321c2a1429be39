use super::*;

#[test]
fn renewal_comes_just_before_half_of_what_is_left() {
    for _ in 0..100 {
        let wait = renewal_wait(Duration::from_secs(100));
        assert!(
            wait <= Duration::from_secs(50) && wait >= Duration::from_secs(45),
            "{wait:?}"
        );
    }
    assert_eq!(renewal_wait(Duration::ZERO), MIN_RENEWAL);
}
