//! Point 7: a sidecar is killed at random moments, 100 times; what the application saw is in the log.

const KILLS: u32 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_application_saw_is_in_the_log_whenever_its_sidecar_is_killed() {
    let report = reeve_tests::crash(KILLS).await;
    println!("{report:?}");
    assert!(report.answered > 1000, "too little traffic: {report:?}");
    assert!(report.records > report.seen, "{report:?}");
}
