//! Server and client against each other, over an in-memory connection.

mod convergence;
mod fixture;
mod keys;

use std::time::Duration;

use reeve_core::model::Generation;
use tonic::Code;

use fixture::{Mesh, Proxy, config, id, instance};

#[tokio::test]
async fn a_client_converges() {
    let mesh = Mesh::new(config(1, "h1", &["a", "b"]));
    let mut proxy = Proxy::start(&mesh);
    assert_eq!(proxy.applied().await, config(1, "h1", &["a", "b"]));
    let report = mesh.next_report().await;
    assert_eq!((report.generation, report.error), (Generation(1), None));
    assert_eq!(report.policy_hash, "h1");
    mesh.publish(config(2, "h2", &["b", "c"]));
    assert_eq!(
        proxy.applied().await,
        config(2, "h2", &["b", "c"]),
        "a was removed"
    );
    let report = mesh.next_report().await;
    assert_eq!(report.generation, Generation(2));
    assert_eq!(report.policy_hash, "h2");
    assert_eq!(proxy.status().applied, Some(Generation(2)));
}

#[tokio::test]
async fn nothing_is_sent_before_there_is_a_configuration() {
    let mesh = Mesh::empty();
    let mut proxy = Proxy::start(&mesh);
    mesh.connected().await;
    mesh.publish(config(5, "h", &[]));
    assert_eq!(proxy.applied().await.generation, Generation(5));
}

#[tokio::test]
async fn a_refused_generation_is_reported_and_the_next_one_is_whole() {
    let mesh = Mesh::new(config(1, "h", &["a"]));
    let mut proxy = Proxy::refusing(&mesh, Generation(2));
    proxy.applied().await;
    mesh.next_report().await;
    mesh.publish(config(2, "h", &["a", "b"]));
    let report = mesh.next_report().await;
    assert_eq!(report.generation, Generation(2));
    assert_eq!(report.error.as_deref(), Some("generation 2 is refused"));
    let status = proxy.status();
    assert_eq!(status.applied, Some(Generation(1)), "the old one stays");
    assert_eq!(status.refused.as_deref(), Some("generation 2 is refused"));
    mesh.publish(config(3, "h", &["a", "b", "c"]));
    let applied = proxy.applied().await;
    assert_eq!(
        applied,
        config(3, "h", &["a", "b", "c"]),
        "what the refused one brought is there"
    );
    assert_eq!(mesh.next_report().await.error, None);
    assert_eq!(proxy.status().refused, None);
}

#[tokio::test(start_paused = true)]
async fn a_refused_generation_is_tried_again() {
    let mesh = Mesh::new(config(1, "h", &["a"]));
    let mut proxy = Proxy::refusing_once(&mesh, Generation(1));
    assert!(mesh.next_report().await.error.is_some());
    assert_eq!(proxy.applied().await.generation, Generation(1));
    let report = mesh.next_report().await;
    assert_eq!((report.generation, report.error), (Generation(1), None));
}

#[tokio::test]
async fn after_a_reconnect_only_changes_travel() {
    let many: Vec<String> = (0..200).map(|n| format!("service-{n}")).collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mesh = Mesh::new(config(1, "h", &many));
    let mut proxy = Proxy::start(&mesh);
    proxy.applied().await;
    mesh.next_report().await;
    let first = mesh.sent_bytes();
    mesh.cut();
    mesh.next_report().await;
    let unchanged = mesh.sent_bytes() - first;
    assert!(unchanged * 20 < first, "{unchanged} of {first} bytes");
    assert_eq!(
        proxy.applications(),
        1,
        "what is in force is not applied again"
    );
    mesh.cut();
    many.push("one-more");
    many.remove(0);
    mesh.publish(config(2, "h", &many));
    assert_eq!(proxy.applied().await, config(2, "h", &many));
}

#[tokio::test]
async fn a_restarted_server_finds_what_the_proxy_holds() {
    let mesh = Mesh::new(config(9, "h", &["a", "b"]));
    let mut proxy = Proxy::start(&mesh);
    proxy.applied().await;
    mesh.next_report().await;
    mesh.restart(config(1, "h", &["b"]));
    assert_eq!(proxy.applied().await, config(1, "h", &["b"]));
    assert_eq!(mesh.next_report().await.generation, Generation(1));
}

#[tokio::test]
async fn an_overtaken_generation_is_not_sent() {
    let mesh = Mesh::new(config(1, "h", &["a"]));
    let mut proxy = Proxy::start(&mesh);
    let gate = proxy.hold();
    mesh.publish(config(2, "h", &["b"]));
    mesh.publish(config(3, "h", &["c"]));
    drop(gate);
    let mut applied = proxy.applied().await;
    while applied.generation != Generation(3) {
        assert_eq!(applied.generation, Generation(1), "2 came too late");
        applied = proxy.applied().await;
    }
}

#[tokio::test]
async fn a_caller_without_identity_is_unauthenticated() {
    let mesh = Mesh::new(config(1, "h", &[]));
    mesh.authenticate_as(None);
    let status = mesh
        .first_answer(instance("reviews-v1-0"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn another_identity_gets_nothing() {
    let mesh = Mesh::new(config(1, "h", &[]));
    mesh.authenticate_as(Some(id("ratings")));
    let status = mesh
        .first_answer(instance("reviews-v1-0"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("does not run as"), "{status}");
    mesh.authenticate_as(Some(id("reviews")));
    let status = mesh
        .first_answer(instance("reviews-v9-0"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(mesh.first_answer(instance("reviews-v1-0")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_ended() {
    let mesh = Mesh::new(config(1, "h", &[]));
    let status = mesh.silent_stream().await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_removed_instance_loses_its_stream_and_keeps_its_configuration() {
    let mesh = Mesh::new(config(1, "h", &["a"]));
    let mut proxy = Proxy::start(&mesh);
    proxy.applied().await;
    mesh.next_report().await;
    mesh.remove_instance();
    let status = proxy.disconnected().await;
    assert_eq!(status.applied, Some(Generation(1)));
    assert!(status.last_error.is_some());
    tokio::time::timeout(Duration::from_millis(50), proxy.applied())
        .await
        .expect_err("nothing more is applied");
}
