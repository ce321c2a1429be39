//! Which recorded decisions are looked at.

use reeve_core::{
    Namespace, ServiceName, SpiffeId, UnixTime,
    decision::{AccessRequest, Principal},
};

/// What decisions must be like; what is not set does not matter.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Not before.
    pub since: Option<UnixTime>,
    /// Before.
    pub until: Option<UnixTime>,
    /// The caller.
    pub principal: Option<Principal>,
    /// The identity of the workload asked.
    pub workload: Option<SpiffeId>,
    /// A service of the workload asked.
    pub service: Option<ServiceName>,
    /// The namespace of the workload asked.
    pub namespace: Option<Namespace>,
    /// How the path begins.
    pub path: Option<String>,
}

impl Wanted {
    pub(crate) fn at(&self, time: UnixTime) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    pub(crate) fn request(&self, request: &AccessRequest) -> bool {
        let resource = &request.resource;
        let path = request.context.http.as_ref().map(|http| &http.path);
        (self.principal.as_ref()).is_none_or(|p| request.principal == *p)
            && (self.workload.as_ref()).is_none_or(|w| resource.workload.as_ref() == Some(w))
            && (self.service.as_ref()).is_none_or(|s| resource.services.contains(s))
            && (self.namespace.as_ref()).is_none_or(|n| resource.namespace == *n)
            && (self.path.as_ref()).is_none_or(|p| path.is_some_and(|path| path.starts_with(p)))
    }
}
