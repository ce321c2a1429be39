//! The vocabulary that every room of Reeve shares: names, the mesh model, decisions and time.
//!
//! Nothing here does I/O, starts a task or knows a wire format. A value that exists is valid: names are parsed
//! once, at the edge, into types whose fields are private ([`SpiffeId`], [`ServiceName`], …), and deserialising
//! one runs the same parser.
//!
//! Flow: `control` builds one [`model::ProxyConfig`] per proxy from configuration, the sidecar turns it into
//! listeners and routes, each request becomes an [`decision::AccessRequest`], and `authz` answers it with a
//! [`decision::Decision`] that `audit` records.

pub mod access_log;
pub mod clock;
pub mod decision;
mod error_chain;
pub mod model;
mod name;
pub mod network;
mod registration;
mod selector;
mod spiffe;

pub use clock::{Clock, SystemClock, UnixTime};
pub use error_chain::error_chain;
pub use name::{
    InstanceName, Label, NameError, Namespace, PolicyId, RecordId, RecordIdError, ServiceAccount,
    ServiceName, WorkloadName,
};
pub use registration::{EntryName, MAX_HINT_BYTES, RegistrationEntry};
pub use selector::{MAX_SELECTOR_BYTES, Selector, SelectorError, Selectors};
pub use spiffe::{AUDIT_ACCOUNT, SpiffeId, SpiffeIdError, TrustDomain};
