//! How long an exchange may take: the route's `timeout`, and for gRPC what the caller asks for, whichever ends first.

use std::time::Duration;

use tokio::time::Instant;

use crate::head::Head;

const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Most digits of a `grpc-timeout` (gRPC over HTTP/2, "Requests").
const MAX_DIGITS: usize = 8;

/// The end of the time that the route and the caller allow. As in Istio, 0 is no bound.
pub(crate) fn of(route: Option<Duration>, head: &Head) -> Option<Instant> {
    let asked = head
        .header(GRPC_TIMEOUT)
        .filter(|_| head.is_grpc())
        .and_then(parse);
    let bounds = [route, asked].into_iter().flatten();
    let least = bounds.filter(|limit| !limit.is_zero()).min();
    least.and_then(|limit| Instant::now().checked_add(limit))
}

/// `TimeoutValue TimeoutUnit`; anything else counts as absent.
fn parse(text: &str) -> Option<Duration> {
    let (at, unit) = text.char_indices().next_back()?;
    let digits = text.get(..at)?;
    let legal =
        (1..=MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let value: u64 = digits.parse().ok().filter(|_| legal)?;
    match unit {
        'H' => Some(Duration::from_secs(value * 3600)),
        'M' => Some(Duration::from_secs(value * 60)),
        'S' => Some(Duration::from_secs(value)),
        'm' => Some(Duration::from_millis(value)),
        'u' => Some(Duration::from_micros(value)),
        'n' => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;
    use reeve_core::model::PathNormalization;

    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("5S", Some(Duration::from_secs(5))),
            ("300m", Some(Duration::from_millis(300))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789S", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("+5S", None),
            ("5s", None),
            ("5 S", None),
            ("5é", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(text: String) {
            parse(&text);
        }

        #[test]
        fn every_timeout_is_read_as_it_was_written(value in 0u64..100_000_000, unit in 0usize..6) {
            let (unit, nanos) = [
                ('H', 3_600_000_000_000), ('M', 60_000_000_000), ('S', 1_000_000_000),
                ('m', 1_000_000), ('u', 1000), ('n', 1_u128),
            ][unit];
            let read = parse(&format!("{value}{unit}")).map(|time| time.as_nanos());
            prop_assert_eq!(read, Some(u128::from(value) * nanos));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearer_bound_holds() {
        let bound = |route: Option<u64>, content_type: &str, asked: &str| {
            let request = Request::post("/a.B/C")
                .header("host", "a")
                .header("content-type", content_type)
                .header("grpc-timeout", asked);
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let head = Head::read(parts, PathNormalization::default()).unwrap();
            let end = of(route.map(Duration::from_secs), &head);
            end.map(|at| at.duration_since(Instant::now()).as_secs())
        };
        assert_eq!(bound(Some(9), "application/grpc", "5S"), Some(5));
        assert_eq!(bound(Some(3), "application/grpc", "5S"), Some(3));
        assert_eq!(bound(Some(0), "application/grpc", "5S"), Some(5));
        assert_eq!(bound(None, "application/grpc", "5S"), Some(5));
        assert_eq!(bound(None, "application/grpc", "0S"), None);
        assert_eq!(bound(None, "application/grpc", "x"), None);
        assert_eq!(bound(None, "text/plain", "5S"), None);
        assert_eq!(bound(Some(9), "text/plain", "5S"), Some(9));
    }
}
