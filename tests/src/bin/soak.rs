//! `make soak`: [`reeve_tests::churn`] for as long as one likes.

use std::time::Duration;

/// Without `--for`.
const DEFAULT: Duration = Duration::from_secs(20 * 60);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let time = match words.as_slice() {
        [] => Some(DEFAULT),
        ["--for", time] => duration(time),
        _ => None,
    };
    let time = time.expect("soak [--for 20m]");
    reeve_tests::churn(time).await;
    println!("nobody noticed");
}

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        "h" => Some(Duration::from_secs(number * 3600)),
        _ => None,
    }
}
