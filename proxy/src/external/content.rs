//! What a server is shown of a request's body: read ahead, bounded in bytes, in time and among all requests, and then sent on
//! as it came.

use bytes::Bytes;
use http::StatusCode;
use reeve_core::model::BodyInCheck;

use crate::{
    body::{Source, Upload},
    transform::{Gathering, Space, Unfit},
};

/// A request's body, of which servers may be shown something.
#[derive(Debug, Default)]
pub(crate) struct Content<'a> {
    /// The body and where it is held; none for a connection, and for what is upgraded.
    from: Option<(&'a Upload, Space)>,
    read: Option<Read>,
}

/// What was read of it.
#[derive(Clone, Debug, Default)]
struct Read {
    bytes: Bytes,
    /// More follows.
    more: bool,
}

/// What one server is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) bytes: Bytes,
    /// It is the beginning of a longer one.
    pub(super) is_partial: bool,
}

impl<'a> Content<'a> {
    /// That of a request, held in `space` where it has to be.
    pub(crate) fn of(upload: &'a Upload, space: Space) -> Self {
        Self {
            from: Some((upload, space)),
            read: None,
        }
    }

    /// Whether anything of it was asked for from the caller.
    pub(super) fn was_read(&self) -> bool {
        self.read.is_some()
    }

    /// What a server of this `rule` is shown; the status of the refusal if that cannot be. No server is shown more than `most`.
    pub(super) async fn shown(
        &mut self,
        rule: &BodyInCheck,
        most: u32,
    ) -> Result<Shown, StatusCode> {
        let read = match &self.read {
            Some(read) => read.clone(),
            None => self.read_ahead(length(most)).await?,
        };
        let length = length(rule.max_bytes);
        let is_partial = read.more || read.bytes.len() > length;
        if is_partial && !rule.allow_partial {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let end = read.bytes.len().min(length);
        Ok(Shown {
            bytes: read.bytes.slice(..end),
            is_partial,
        })
    }

    async fn read_ahead(&mut self, most: usize) -> Result<Read, StatusCode> {
        let read = match &self.from {
            Some((upload, space)) if !upload.is_empty() => read_ahead(upload, space, most).await?,
            Some(_) | None => Read::default(),
        };
        self.read = Some(read.clone());
        Ok(read)
    }
}

async fn read_ahead(upload: &Upload, space: &Space, most: usize) -> Result<Read, StatusCode> {
    let (mut held, more) = match upload.gather(space, most).await {
        Gathering::Whole(held) => (held, false),
        Gathering::Part(held, Unfit::TooLong) => (held, true),
        Gathering::Part(_, unfit) => return Err(unfit.of_request().status),
        Gathering::Broken(error) => {
            upload.put_back(Source::Broken(Some(error)));
            return Err(StatusCode::BAD_REQUEST);
        }
    };
    let bytes = held.bytes();
    upload.put_back(Source::Held(held));
    Ok(Read { bytes, more })
}

fn length(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::end::End;

    fn upload(text: &'static str) -> Upload {
        let body = Source::Whole(Some(Bytes::from_static(text.as_bytes())));
        Upload::new(body, Default::default(), End::default())
    }

    fn rule(max_bytes: u32, allow_partial: bool) -> BodyInCheck {
        BodyInCheck {
            max_bytes,
            allow_partial,
            as_bytes: false,
        }
    }

    #[tokio::test]
    async fn servers_are_shown_as_much_as_their_rules_say_and_the_body_goes_on_whole() {
        let whole = upload("hello");
        let mut content = Content::of(&whole, Space::default());
        let shown = |text: &'static str, is_partial| Shown {
            bytes: Bytes::from_static(text.as_bytes()),
            is_partial,
        };
        for (rule, expected) in [
            (rule(5, false), Ok(shown("hello", false))),
            (rule(4, false), Err(StatusCode::PAYLOAD_TOO_LARGE)),
            (rule(4, true), Ok(shown("hell", true))),
            (rule(9, true), Ok(shown("hello", false))),
        ] {
            assert_eq!(content.shown(&rule, 9).await, expected, "{rule:?}");
        }
        let sent = whole.attempt().collect().await.unwrap().to_bytes();
        assert_eq!(sent, "hello");
    }

    #[tokio::test]
    async fn no_more_is_read_than_any_server_is_shown() {
        let long = upload("hello, world");
        let mut content = Content::of(&long, Space::default());
        let found = content.shown(&rule(4, true), 4).await.unwrap();
        assert_eq!(
            (found.bytes.as_ref(), found.is_partial),
            (&b"hell"[..], true)
        );
        let sent = long.attempt().collect().await.unwrap().to_bytes();
        assert_eq!(sent, "hello, world");
        let mut none = Content::default();
        let found = none.shown(&rule(4, false), 4).await.unwrap();
        assert_eq!((found.bytes.len(), found.is_partial), (0, false));
    }
}
