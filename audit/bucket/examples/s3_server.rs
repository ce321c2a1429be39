//! A server that speaks S3, on loopback, over a folder that is gone when it ends: to try the log's store without a cloud.
//! `cargo run --release -p reeve-bucket --example s3_server`: prints what to set, and ends with its standard input.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "../src/server.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "the tests use the rest of it"
)]
mod server;

fn main() -> std::io::Result<()> {
    let s3 = server::S3::start();
    println!("AWS_ACCESS_KEY_ID='{}'", server::KEY);
    println!("AWS_SECRET_ACCESS_KEY='{}'", server::SECRET);
    println!(
        "URL='s3://{}/audit?endpoint={}&region=eu-1'",
        server::BUCKET,
        s3.endpoint()
    );
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).map(drop)
}
