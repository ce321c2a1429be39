//! `store`: ratings over TCP, one line a question, one line the answer.
//!
//! ```text
//! GET ratings 0
//! OK {"Reviewer1":5,"Reviewer2":4}
//! ```
//! Anything else is answered with `ERR` and the reason.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::Mutex,
};

use crate::{backend::address_of, ratings::own_ratings, server::accept};

const MAX_LINE: u64 = 4096;
const TIMEOUT: Duration = Duration::from_secs(2);

/// Serves the store.
pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    accept(address, |stream| async move {
        // A caller that breaks off is no matter of ours.
        drop(converse(stream).await);
    })
    .await
}

async fn converse(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(line) = read_line(&mut stream).await? {
        stream.write_all(answer(&line).as_bytes()).await?;
    }
    Ok(())
}

fn answer(line: &str) -> String {
    match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["GET", "ratings", "0"] => format!("OK {}\n", own_ratings()),
        ["GET", "ratings", _] => "ERR no such product\n".to_owned(),
        _ => "ERR unknown question\n".to_owned(),
    }
}

/// One line without its end; `None` at the end of the stream.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<String>> {
    let mut line = String::new();
    let read = stream.take(MAX_LINE).read_line(&mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    ensure!(
        line.ends_with('\n'),
        "a line is cut off or longer than {MAX_LINE} bytes"
    );
    Ok(Some(line.trim_end().to_owned()))
}

/// The store as `ratings` sees it, over one connection that is made again when it breaks.
pub(crate) struct Client {
    address: (String, u16),
    connection: Mutex<Option<BufReader<TcpStream>>>,
}

impl Client {
    /// The service called `store`.
    pub(crate) fn new() -> Self {
        Self {
            address: address_of("store", 27017),
            connection: Mutex::new(None),
        }
    }

    /// Asks for the ratings of a product.
    pub(crate) async fn ratings_of(&self, product: &str) -> Result<Value> {
        let mut connection = self.connection.lock().await;
        let reused = connection.is_some();
        let question = format!("GET ratings {product}\n");
        let mut line = self.ask(&mut connection, &question).await;
        if line.is_err() && reused {
            // An idle connection may have been closed by the other side at any time: once more on a fresh one.
            line = self.ask(&mut connection, &question).await;
        }
        let line = line?;
        match line.split_once(' ') {
            Some(("OK", json)) => Ok(serde_json::from_str(json)?),
            _ => bail!("answered {line:?}"),
        }
    }

    async fn ask(&self, slot: &mut Option<BufReader<TcpStream>>, question: &str) -> Result<String> {
        let kept = slot.take();
        let exchange = async {
            let mut stream = match kept {
                Some(stream) => stream,
                None => BufReader::new(self.connect().await?),
            };
            stream.write_all(question.as_bytes()).await?;
            let line = read_line(&mut stream).await?.context("closed")?;
            anyhow::Ok((stream, line))
        };
        let (stream, line) = tokio::time::timeout(TIMEOUT, exchange)
            .await
            .context("no answer in time")??;
        *slot = Some(stream);
        Ok(line)
    }

    async fn connect(&self) -> Result<TcpStream> {
        let (host, port) = &self.address;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_knows_one_question() {
        assert_eq!(
            answer("GET ratings 0"),
            "OK {\"Reviewer1\":5,\"Reviewer2\":4}\n"
        );
        assert_eq!(answer("GET ratings 7"), "ERR no such product\n");
        assert_eq!(answer("DROP TABLE ratings"), "ERR unknown question\n");
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused() {
        let long = "x".repeat(usize::try_from(MAX_LINE).unwrap() + 1);
        assert!(read_line(&mut long.as_bytes()).await.is_err());
        assert_eq!(
            read_line(&mut &b"a b\n"[..]).await.unwrap().as_deref(),
            Some("a b")
        );
        assert_eq!(read_line(&mut &b""[..]).await.unwrap(), None);
    }
}
