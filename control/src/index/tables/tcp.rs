//! `tcp` routes of `VirtualService`s, and `TCPRoute`s, as one listener has them. The address that a connection was made to is the
//! listener's own, so that all conditions are settled here.

use std::net::IpAddr;

use reeve_core::model::Destination;

use super::{
    Index,
    routes::{Place, destinations},
    specific,
};
use crate::{
    Service,
    mesh::{TcpRoute, VirtualService},
};

/// Where connections to `address`, which stands for `service`, go; nowhere else than to it if there is no route.
pub(super) fn of_service(
    index: &Index<'_>,
    service: &Service,
    place: &Place<'_>,
    address: IpAddr,
) -> Vec<Destination> {
    let some = |v: &VirtualService| !v.tcp.is_empty();
    let attached = specific::attached(index, service, place, some).into_iter();
    let mut all = attached.chain(super::best_for(index, service, some));
    let found = all.find_map(|v| first(v, place, address));
    found.map_or(Vec::new(), |route| {
        destinations(index, &route.to, place.port())
    })
}

/// The first rule that holds at `place` for connections to `address`.
pub(super) fn first<'v>(
    virtual_service: &'v VirtualService,
    place: &Place<'_>,
    address: IpAddr,
) -> Option<&'v TcpRoute> {
    virtual_service.tcp.iter().find(|rule| {
        let mut matches = rule.matches.iter();
        rule.matches.is_empty() || matches.any(|at| place.holds(at) && at.reaches(address))
    })
}
