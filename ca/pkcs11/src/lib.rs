//! The authority's keys in a PKCS#11 token: a hardware security module, a smart card, SoftHSM.
//!
//! Flow: [`TokenAddress`] is an RFC 7512 URI that says which module, which token and where its PIN is. [`Token`] has a
//! thread of its own that talks to the module: keys are made there, sensitive and not extractable, and sign there. Each
//! call has an end in time: a module that hangs holds up nobody but that thread.
//!
//! Invariants: no private key leaves the token, which is asked after each is made; the PIN is wiped when dropped, stands in
//! no error and no log, and one that was refused is not tried again, so that the token does not lock itself.

mod address;
mod session;
mod token;

pub use address::{AddressError, PinSource, TokenAddress};
pub use token::Token;
