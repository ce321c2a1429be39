//! The application's own metrics, which the proxy's port serves after its own (Istio's metrics merging).

use std::{io, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use reeve_core::model::AppMetrics;
use tokio::{net::TcpStream, time::timeout};

/// How long the application may take; after that, the page is the proxy's alone.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest page of the application.
const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// The application's page, or why there is none.
pub(crate) async fn fetch(from: &AppMetrics) -> io::Result<String> {
    match timeout(PATIENCE, get(from)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn get(from: &AppMetrics) -> io::Result<String> {
    let stream = TcpStream::connect(from.address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // Ends with the sender.
    tokio::spawn(connection);
    let request = Request::get(&from.path)
        .header(header::HOST, from.address.to_string())
        .header(header::ACCEPT, "text/plain;version=0.0.4")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    if !response.status().is_success() {
        return Err(io::Error::other(format!(
            "it answered {}",
            response.status()
        )));
    }
    let body = Limited::new(response.into_body(), MAX_PAGE_BYTES);
    let page = body.collect().await.map_err(io::Error::other)?.to_bytes();
    String::from_utf8(page.into()).map_err(io::Error::other)
}

/// Joins two pages of Prometheus' text format; a family that both have is kept as the first one's.
pub(crate) fn join(own: String, app: &str) -> String {
    let mut page = own;
    let taken: std::collections::HashSet<String> =
        page.lines().filter_map(family).map(str::to_owned).collect();
    for line in app.lines() {
        let name = family(line).or_else(|| line.split(['{', ' ']).next());
        let of_ours = name.is_some_and(|name| {
            let stem = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            taken.contains(name) || stem.is_some_and(|stem| taken.contains(stem))
        });
        let ends = line.trim() == "# EOF";
        if !of_ours && !ends && !line.is_empty() {
            page.push_str(line);
            page.push('\n');
        }
    }
    page
}

/// The name in a `# HELP` or `# TYPE` line.
fn family(line: &str) -> Option<&str> {
    let rest = line
        .strip_prefix("# HELP ")
        .or_else(|| line.strip_prefix("# TYPE "))?;
    rest.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_joined_and_no_family_stands_twice() {
        let own = "# TYPE a counter\na 1\n# TYPE h histogram\nh_sum 1\n".to_owned();
        let app = "# HELP b x\n# TYPE b gauge\nb{c=\"d\"} 2\n# TYPE a counter\na 9\nh_sum 9\nplain 3\n# EOF\n";
        assert_eq!(
            join(own.clone(), app),
            format!("{own}# HELP b x\n# TYPE b gauge\nb{{c=\"d\"}} 2\nplain 3\n")
        );
    }
}
