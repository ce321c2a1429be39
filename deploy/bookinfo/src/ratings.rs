//! `ratings`: how many stars each reviewer gives; v2 reads them from `store`.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Result, bail};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    server::{self, Call, Reply, json_reply, log, not_found},
    store,
};

/// Serves version v1 (ratings of its own) or v2 (those in the store).
pub(crate) async fn serve(address: SocketAddr, version: &str) -> Result<()> {
    let store = match version {
        "v1" => None,
        "v2" => Some(store::Client::new()),
        other => bail!("ratings has the versions v1 and v2, not {other:?}"),
    };
    let store = Arc::new(store);
    server::serve("ratings", address, move |call| {
        let store = Arc::clone(&store);
        async move { ratings(store.as_ref().as_ref(), call).await }
    })
    .await
}

async fn ratings(store: Option<&store::Client>, call: Call) -> Reply {
    let product = call.uri().path().strip_prefix("/ratings/");
    let product = product.filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let Some(product) = product.filter(|_| *call.method() == Method::GET) else {
        return not_found();
    };
    let found = match store {
        None => Ok(own_ratings()),
        Some(store) => store.ratings_of(product).await,
    };
    match found {
        Ok(found) => json_reply(StatusCode::OK, &json!({"id": product, "ratings": found})),
        Err(error) => {
            log(&json!({"app": "ratings", "error": format!("store: {error:#}")}));
            let text = json!({"error": "could not read the ratings store"});
            json_reply(StatusCode::INTERNAL_SERVER_ERROR, &text)
        }
    }
}

/// The ratings that v1 knows by itself.
pub(crate) fn own_ratings() -> Value {
    json!({"Reviewer1": 5, "Reviewer2": 4})
}
