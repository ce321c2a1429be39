//! `details`: what is known of the book; v2 asks an external book service, as the original's v2 asks Google's.

use std::{env, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, bail};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    backend::Backend,
    passed_on::passed_on,
    server::{self, Call, Reply, json_reply, log, not_found},
};

const VOLUME: &str = "/books/v1/volumes/0486424618";

/// Serves version v1 (details of its own) or v2 (those of the service that `BOOKS` names).
pub(crate) async fn serve(address: SocketAddr, version: &str) -> Result<()> {
    let books = match version {
        "v1" => None,
        "v2" => {
            let host =
                env::var("BOOKS").context("BOOKS says whom v2 asks, such as books.example")?;
            Some(Backend::named(&host))
        }
        other => bail!("details has the versions v1 and v2, not {other:?}"),
    };
    let books = Arc::new(books);
    server::serve("details", address, move |call| {
        let books = Arc::clone(&books);
        async move { details(books.as_ref().as_ref(), call).await }
    })
    .await
}

async fn details(books: Option<&Backend>, call: Call) -> Reply {
    if *call.method() != Method::GET || !call.uri().path().starts_with("/details/") {
        return not_found();
    }
    let Some(books) = books else {
        return json_reply(StatusCode::OK, &own());
    };
    match books.get_json(VOLUME, &passed_on(call.headers())).await {
        Ok(volume) => json_reply(StatusCode::OK, &from_volume(&volume)),
        Err(error) => {
            log(&json!({"app": "details", "error": format!("books: {error:#}")}));
            let text = json!({"error": "the external book service gave no answer"});
            json_reply(StatusCode::SERVICE_UNAVAILABLE, &text)
        }
    }
}

fn own() -> Value {
    json!({
        "id": 0,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    })
}

/// The details in a `volume` resource of the Google Books API.
fn from_volume(volume: &Value) -> Value {
    let info = |key: &str| volume.pointer(&format!("/volumeInfo/{key}")).cloned();
    let number = |kind: &str| {
        let all = volume
            .pointer("/volumeInfo/industryIdentifiers")?
            .as_array()?;
        let one = all
            .iter()
            .find(|id| id.get("type").is_some_and(|t| t == kind))?;
        one.get("identifier").cloned()
    };
    json!({
        "id": 0,
        "author": info("authors/0"),
        "year": info("publishedDate"),
        "type": info("printType"),
        "pages": info("pageCount"),
        "publisher": info("publisher"),
        "language": info("language"),
        "ISBN-10": number("ISBN_10"),
        "ISBN-13": number("ISBN_13"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_taken_from_a_volume() {
        let volume = json!({"volumeInfo": {
            "authors": ["William Shakespeare"], "pageCount": 207, "publisher": "Courier",
            "industryIdentifiers": [{"type": "ISBN_13", "identifier": "9780486424613"}],
        }});
        let found = from_volume(&volume);
        assert_eq!(found["author"], "William Shakespeare");
        assert_eq!(
            (&found["pages"], &found["ISBN-13"]),
            (&json!(207), &json!("9780486424613"))
        );
        assert_eq!(found["ISBN-10"], Value::Null);
    }
}
