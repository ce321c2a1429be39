//! Faults put into traffic on purpose, on the caller's side and before anything is sent: a delay, then an abort, each
//! drawn for itself, as Envoy's fault filter does
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/fault_filter>).

use std::num::NonZeroU64;

use rand::Rng as _;
use reeve_core::{UnixTime, model::Millionths};
use tokio::time::sleep;

use crate::{answer::Answer, chance, exchange::Exchange, route::CompiledRoute};

/// Puts the faults of `route` into a request: waits, and says with what it is aborted.
pub(crate) async fn inject(
    route: &CompiledRoute,
    now: UnixTime,
    exchange: &mut Exchange,
) -> Result<(), Answer> {
    let fault = route.rule.fault.as_deref();
    let Some(fault) = fault.filter(|fault| !fault.is_over(now)) else {
        return Ok(());
    };
    if let Some(delay) = &fault.delay
        && happens(delay.share)
    {
        exchange.flag("DI");
        sleep(delay.fixed).await;
    }
    match &fault.abort {
        Some(abort) if happens(abort.share) => Err(Answer::fault(abort.how)),
        Some(_) | None => Ok(()),
    }
}

/// How many bytes a second a response of `route` gets, if there is a bound on purpose.
pub(crate) fn pace(route: &CompiledRoute, exchange: &Exchange) -> Option<NonZeroU64> {
    let fault = route.rule.fault.as_deref()?;
    let slow = fault
        .bandwidth
        .as_ref()
        .filter(|_| !fault.is_over(exchange.now()))?;
    happens(slow.share).then_some(slow.bytes_per_second)
}

fn happens(share: Millionths) -> bool {
    share.covers(chance::rng().random_range(0..1_000_000))
}
