//! `reviews`: two reviews of the book; v2 and v3 add the stars that `ratings` gives.

use std::{env, net::SocketAddr, sync::Arc};

use anyhow::{Result, bail};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    backend::Backend,
    passed_on::passed_on,
    server::{self, Call, Reply, json_reply, log, not_found},
};

const REVIEWS: [(&str, &str); 2] = [
    (
        "Reviewer1",
        "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!",
    ),
    (
        "Reviewer2",
        "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare.",
    ),
];

/// Serves version v1 (no stars), v2 (black ones) or v3 (red ones).
pub(crate) async fn serve(address: SocketAddr, version: &str) -> Result<()> {
    let stars = match version {
        "v1" => None,
        "v2" => Some("black"),
        "v3" => Some("red"),
        other => bail!("reviews has the versions v1, v2 and v3, not {other:?}"),
    };
    let name = env::var("REEVE_INSTANCE").unwrap_or_else(|_| format!("reviews-{version}"));
    let ratings = stars.map(|color| (color, Backend::new("ratings")));
    let state = Arc::new((name, ratings));
    server::serve("reviews", address, move |call| {
        let state = Arc::clone(&state);
        async move { reviews(&state.0, state.1.as_ref(), call).await }
    })
    .await
}

async fn reviews(name: &str, ratings: Option<&(&str, Backend)>, call: Call) -> Reply {
    let product = call.uri().path().strip_prefix("/reviews/");
    let Some(product) = product.filter(|_| *call.method() == Method::GET) else {
        return not_found();
    };
    let stars = match ratings {
        None => None,
        Some((color, backend)) => {
            let path = format!("/ratings/{product}");
            let rated = backend.get_json(&path, &passed_on(call.headers())).await;
            if let Err(error) = &rated {
                log(&json!({"app": "reviews", "error": format!("ratings: {error:#}")}));
            }
            Some((*color, rated.ok()))
        }
    };
    let found = REVIEWS.map(|(reviewer, text)| {
        let mut review = json!({"reviewer": reviewer, "text": text});
        if let (Some((color, rated)), Some(fields)) = (&stars, review.as_object_mut()) {
            fields.insert("rating".to_owned(), rating(color, rated.as_ref(), reviewer));
        }
        review
    });
    json_reply(
        StatusCode::OK,
        &json!({"id": product, "podname": name, "reviews": found}),
    )
}

fn rating(color: &str, rated: Option<&Value>, reviewer: &str) -> Value {
    let stars = rated.and_then(|all| all.pointer(&format!("/ratings/{reviewer}"))?.as_u64());
    match stars {
        Some(stars) => json!({"stars": stars, "color": color}),
        None => json!({"error": "Ratings service is currently unavailable"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_have_the_versions_colour_and_their_absence_is_said() {
        let rated = json!({"id": 0, "ratings": {"Reviewer1": 5}});
        let five = json!({"stars": 5, "color": "red"});
        assert_eq!(rating("red", Some(&rated), "Reviewer1"), five);
        for missing in [
            rating("red", Some(&rated), "Reviewer2"),
            rating("red", None, "Reviewer1"),
        ] {
            assert_eq!(missing["error"], "Ratings service is currently unavailable");
        }
    }
}
