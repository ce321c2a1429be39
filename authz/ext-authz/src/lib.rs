//! The server of Envoy's `ext_authz`: another proxy asks whether a request may go on, over gRPC
//! (`envoy.service.auth.v3.Authorization`) or plain HTTP.
//!
//! Flow: [`grpc`] and [`raw_http`] read what is asked into an `Inquiry`; [`Judge`] finds its subject in the [`Court`] of
//! the moment, has `reeve-proxy` judge it as the data path does, records the decision, and only then answers.
//!
//! Invariants:
//! - Who asks is what the asking proxy says of its connection, never what a header of the request says.
//! - What is asked for that the configuration does not know is denied.
//! - No answer before its record; what cannot be recorded or judged is an explicit denial, not an error that the asking
//!   proxy could be configured to let through.
//! - Messages, connections and inquiries under way are bounded in [`limits`].
//!
//! Deliberately absent: files, TLS, configuration; whoever runs it brings them.

mod answer;
mod court;
pub mod grpc;
mod health;
mod judge;
pub mod limits;
mod metrics;
pub mod raw_http;
mod serve;

pub use answer::AnswerOptions;
pub use court::{Court, Subjects};
pub use health::Health;
pub use judge::{Judge, JudgeOptions};
pub use serve::{Spoken, serve_connection};
