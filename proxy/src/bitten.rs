//! Which limit ended an HTTP connection, as far as the library's error tells.

use std::error::Error;

/// The limit that bit; `None` when the peer broke a rule or went away.
pub(crate) fn limit_of(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_parse_too_large() {
                return Some("max_headers");
            }
            if error.is_timeout() {
                return Some("header_read_timeout");
            }
        }
        if let Some(error) = error.downcast_ref::<h2::Error>()
            && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
        {
            return Some("max_pending_resets");
        }
        next = error.source();
    }
    None
}
