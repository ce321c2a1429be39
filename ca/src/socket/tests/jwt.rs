use prost_types::value::Kind;

use super::*;
use crate::proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
};

fn asking(audience: &[&str], id: &str) -> JwtsvidRequest {
    JwtsvidRequest {
        audience: audience.iter().map(|a| (*a).to_owned()).collect(),
        spiffe_id: id.to_owned(),
    }
}

async fn fetch(setup: &Setup, asked: JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
    let mut client = setup.workload_api().await;
    let answer = client.fetch_jwtsvid(with_header(asked)).await?;
    Ok(answer.into_inner())
}

pub(super) async fn validate(setup: &Setup, audience: &str, svid: &str) -> Result<String, Status> {
    let mut client = setup.workload_api().await;
    let asked = ValidateJwtsvidRequest {
        audience: audience.to_owned(),
        svid: svid.to_owned(),
    };
    let answer = client
        .validate_jwtsvid(with_header(asked))
        .await?
        .into_inner();
    let claims = answer.claims.unwrap();
    let Some(Kind::StringValue(subject)) = &claims.fields["sub"].kind else {
        panic!("sub");
    };
    assert_eq!(*subject, answer.spiffe_id);
    assert!(matches!(claims.fields["exp"].kind, Some(Kind::NumberValue(n)) if n > 0.0));
    assert!(matches!(
        claims.fields["aud"].kind,
        Some(Kind::ListValue(_))
    ));
    Ok(answer.spiffe_id)
}

#[tokio::test]
async fn a_token_that_is_fetched_is_validated_for_its_audience_alone() {
    let setup = setup(Ok(()));
    setup.rotate();
    for id in ["", ID] {
        let answer = fetch(&setup, asking(&["ledger"], id)).await.unwrap();
        let [svid] = answer.svids.as_slice() else {
            panic!("one SVID")
        };
        assert_eq!(svid.spiffe_id, ID);
        assert_eq!(validate(&setup, "ledger", &svid.svid).await.unwrap(), ID);
        let refused = validate(&setup, "pay", &svid.svid).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("audience"), "{refused}");
        let refused = validate(&setup, "", &svid.svid).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn the_keys_are_served_as_a_jwk_set() {
    let setup = setup(Ok(()));
    setup.rotate();
    let mut client = setup.workload_api().await;
    let answer = client
        .fetch_jwt_bundles(with_header(JwtBundlesRequest {}))
        .await;
    let answer = answer
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let jwks = std::str::from_utf8(&answer.bundles["spiffe://mesh.local"]).unwrap();
    assert_eq!(jwks, setup.ca.bundle().borrow().jwks());
    assert!(jwks.contains("\"kid\""), "{jwks}");
}

#[tokio::test]
async fn nobody_is_given_anothers_token_or_one_for_everybody() {
    let setup = setup(Ok(()));
    setup.rotate();
    let other = "spiffe://mesh.local/ns/default/sa/admin";
    let refused = fetch(&setup, asking(&["ledger"], other)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let event = setup.refused();
    assert_eq!(event.requested.as_deref(), Some(other));
    assert_eq!(event.reason, RefusalReason::NotEntitled);
    for (audience, id) in [(&[][..], ""), (&[""], ""), (&["ledger"], "reviews")] {
        let refused = fetch(&setup, asking(audience, id)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{audience:?} {id}");
    }
    let mut client = setup.workload_api().await;
    let bare = client
        .fetch_jwtsvid(asking(&["ledger"], ""))
        .await
        .unwrap_err();
    assert_eq!(bare.code(), Code::InvalidArgument, "no security header");
    let bare = client
        .validate_jwtsvid(ValidateJwtsvidRequest::default())
        .await;
    assert_eq!(bare.unwrap_err().code(), Code::InvalidArgument);
    let bare = client.fetch_jwt_bundles(JwtBundlesRequest {}).await;
    assert_eq!(bare.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_stranger_gets_no_token() {
    let stranger = AttestError::Refused("not the application".to_owned());
    let setup = setup(Err(stranger.clone()));
    setup.rotate();
    let refused = fetch(&setup, asking(&["ledger"], "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(setup.refused().reason, RefusalReason::NotAttested(stranger));
}
