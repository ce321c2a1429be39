//! How an error is told in one line: what failed, and why, and why that.

use std::error::Error;

/// An error and its causes on one line; a cause that the level above already tells is not told twice.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let shown = cause.to_string();
        if !text.ends_with(&shown) {
            text.push_str(": ");
            text.push_str(&shown);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Silent(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open: {source}")]
    struct Telling {
        source: std::io::Error,
    }

    #[test]
    fn causes_are_told_once() {
        let gone = || std::io::Error::other("gone");
        assert_eq!(error_chain(&Silent(gone())), "cannot start: gone");
        assert_eq!(
            error_chain(&Telling { source: gone() }),
            "cannot open: gone"
        );
    }
}
