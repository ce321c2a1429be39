use std::num::NonZeroU32;

use super::*;

fn rules() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: NonZeroU32::new(7),
        interval: Duration::from_secs(300),
        base_ejection: Duration::from_secs(900),
        max_ejection_percent: 100,
        ..OutlierDetection::default()
    }
}

const SECOND: u64 = 1000;

fn left(host: &HostState, rules: &OutlierDetection, now: u64) -> Option<u64> {
    host.ejection(rules, now).map(|(left, _)| left)
}

fn fail(host: &HostState, rules: &OutlierDetection, times: u32, status: u16) -> Vec<Cause> {
    let seen = (0..times).filter_map(|_| host.count(rules, Seen::Status(status)));
    seen.collect()
}

#[test]
fn the_last_of_so_many_errors_in_a_row_ejects_and_none_before() {
    let (host, rules) = (HostState::new(0), rules());
    assert!(fail(&host, &rules, 6, 500).is_empty());
    assert_eq!(host.count(&rules, Seen::Status(200)), None);
    assert!(
        fail(&host, &rules, 6, 503).is_empty(),
        "an answer begins anew"
    );
    assert_eq!(fail(&host, &rules, 1, 500), [Cause::Errors]);
    assert!(fail(&host, &rules, 20, 500).is_empty(), "told once");
}

#[test]
fn gateway_errors_count_apart_and_local_failures_as_they() {
    let rules = OutlierDetection {
        consecutive_5xx: NonZeroU32::new(5),
        consecutive_gateway: NonZeroU32::new(3),
        ..rules()
    };
    let host = HostState::new(0);
    assert!(fail(&host, &rules, 2, 503).is_empty());
    assert!(
        fail(&host, &rules, 1, 500).is_empty(),
        "breaks the row of gateway errors"
    );
    assert!(fail(&host, &rules, 1, 502).is_empty());
    assert_eq!(
        fail(&host, &rules, 1, 504),
        [Cause::Errors],
        "five 5xx in a row"
    );
    let host = HostState::new(0);
    let local = || host.count(&rules, Seen::Local(503));
    assert_eq!(
        [local(), local(), local()],
        [None, None, Some(Cause::GatewayErrors)]
    );
}

#[test]
fn split_failures_are_told_apart() {
    let rules = OutlierDetection {
        consecutive_local: Some(2),
        ..rules()
    };
    let host = HostState::new(0);
    let local = || host.count(&rules, Seen::Local(503));
    assert!(fail(&host, &rules, 6, 503).is_empty());
    assert_eq!(local(), None);
    assert_eq!(host.count(&rules, Seen::Connected), None);
    assert_eq!(local(), None, "a connection begins the local ones anew");
    assert_eq!(local(), Some(Cause::LocalFailures));
    assert_eq!(
        fail(&host, &rules, 1, 503),
        [Cause::Errors],
        "and not the others"
    );
    let none = OutlierDetection {
        consecutive_5xx: None,
        consecutive_local: None,
        ..rules
    };
    assert!(fail(&HostState::new(0), &none, 50, 503).is_empty());
}

/// Istio's example: scanned every 5 minutes, 7 errors in a row, ejected for 15 minutes.
#[test]
fn each_ejection_is_longer_and_good_times_forgive_them() {
    let (host, rules) = (HostState::new(0), rules());
    host.eject(&rules, 100 * SECOND, Cause::Errors);
    assert!(host.is_ejected());
    assert!(!host.look(&rules, 300 * SECOND) && !host.look(&rules, 999 * SECOND));
    assert_eq!(left(&host, &rules, 900 * SECOND), Some(100 * SECOND));
    assert!(
        host.look(&rules, 1200 * SECOND),
        "the first look after 15 minutes"
    );
    assert!(!host.is_ejected());
    host.eject(&rules, 1300 * SECOND, Cause::Errors);
    assert_eq!(
        left(&host, &rules, 1300 * SECOND),
        Some(900 * SECOND),
        "no longer than the longest, which is the first here"
    );

    let short = OutlierDetection {
        base_ejection: Duration::from_secs(30),
        ..rules
    };
    let host = HostState::new(0);
    for (n, expected) in [30, 60, 90].into_iter().enumerate() {
        let now = u64::try_from(n).unwrap() * 1000 * SECOND;
        host.eject(&short, now, Cause::Errors);
        assert!(!host.look(&short, now + expected * SECOND - 1));
        assert!(host.look(&short, now + expected * SECOND));
    }
    assert!(!host.look(&short, 5000 * SECOND), "in: forgiven one");
    host.eject(&short, 6000 * SECOND, Cause::Errors);
    assert_eq!(left(&host, &short, 6000 * SECOND), Some(90 * SECOND));
}

#[test]
fn no_ejection_is_longer_than_five_minutes_if_the_first_is_not() {
    let short = OutlierDetection {
        base_ejection: Duration::from_secs(120),
        ..rules()
    };
    let host = HostState::new(0);
    for n in 1..10 {
        host.eject(&short, 0, Cause::Errors);
        let expected = (n * 120).min(300) * SECOND;
        assert_eq!(left(&host, &short, 0), Some(expected));
        assert!(host.look(&short, expected));
    }
}

#[test]
fn anothers_word_keeps_an_endpoint_out_until_then() {
    let host = HostState::new(0);
    assert!(!host.is_out(0));
    host.share(50);
    assert!(host.is_out(49) && !host.is_out(50) && !host.is_ejected());
    host.unshare(60, 10);
    assert_eq!((host.is_out(1), host.healing(65)), (false, Some(5)));
    host.unshare(70, 10);
    assert_eq!(host.healing(70), None);
}
