//! Who may say that keys are lacking, and what is heard of it.

use std::sync::{Arc, Mutex};

use tonic::{Code, Request};

use super::fixture::{id, instance};
use crate::{
    KeyService,
    keys::proto::{WantRequest, keys_server::Keys},
};

#[tokio::test]
async fn a_proxy_says_for_itself_which_keys_it_lacks() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let service = |caller: Option<&'static str>| {
        let heard = heard.clone();
        KeyService::new(
            move |_| caller.map(id),
            Arc::new(|caller, proxy| *caller == id("reviews") && *proxy == instance("reviews-0")),
            move |rules| heard.lock().unwrap().push(rules),
        )
    };
    let want = async |caller, proxy: &str, rules: usize| {
        let request = WantRequest {
            proxy: proxy.to_owned(),
            rules: (0..rules).map(|n| format!("default/r/{n}")).collect(),
        };
        let told = service(caller).want(Request::new(request)).await;
        told.map(|_| ()).map_err(|status| status.code())
    };
    assert_eq!(want(None, "reviews-0", 1).await, Err(Code::Unauthenticated));
    let other = want(Some("ratings"), "reviews-0", 1).await;
    assert_eq!(other, Err(Code::PermissionDenied));
    let other = want(Some("reviews"), "ratings-0", 1).await;
    assert_eq!(other, Err(Code::PermissionDenied));
    let nonsense = want(Some("reviews"), "no name", 1).await;
    assert_eq!(nonsense, Err(Code::InvalidArgument));
    assert!(heard.lock().unwrap().is_empty());
    assert_eq!(want(Some("reviews"), "reviews-0", 1).await, Ok(()));
    assert_eq!(want(Some("reviews"), "reviews-0", 1000).await, Ok(()));
    let heard = heard.lock().unwrap();
    assert_eq!(heard[0], ["default/r/0"]);
    assert_eq!(heard[1].len(), 256, "no more than a bounded number");
}
