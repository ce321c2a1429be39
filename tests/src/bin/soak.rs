//! `make soak`: [`reeve_tests::churn`] for as long as one likes; `--kills 1000` runs [`reeve_tests::crash`] instead.

use std::time::Duration;

/// Without `--for`.
const DEFAULT: Duration = Duration::from_secs(20 * 60);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => churn(DEFAULT).await,
        ["--for", time] => churn(duration(time).expect("a time such as 20m")).await,
        ["--kills", kills] => {
            let report = reeve_tests::crash(kills.parse().expect("a number of kills")).await;
            println!("{report:#?}");
        }
        _ => panic!("soak [--for 20m | --kills 1000]"),
    }
}

async fn churn(time: Duration) {
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
