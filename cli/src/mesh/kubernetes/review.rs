//! Asks an API server whose a token is (`TokenReview` of `authentication.k8s.io/v1`).

use std::{io, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use reeve_ca::AttestError;
use reeve_control::ReviewAt;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::{Pod, refused, service_account};

/// Bound on one question.
const PATIENCE: Duration = Duration::from_secs(3);
/// Largest answer that is read.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Largest file of authorities or token.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Where the question goes.
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    api_version: &'static str,
    kind: &'static str,
    spec: Asked<'a>,
}

#[derive(Serialize)]
struct Asked<'a> {
    token: &'a str,
    audiences: [&'a str; 1],
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    audiences: Vec<String>,
    user: User,
    error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// Whose the token is, as the API server says.
pub(super) async fn ask(at: &ReviewAt, audience: &str, token: &str) -> Result<Pod, AttestError> {
    let asked = timeout(PATIENCE, exchange(at, audience, token)).await;
    let unavailable = |error: &io::Error| {
        let text = format!("the API server {} cannot be asked: {error}", at.server);
        tracing::warn!(text);
        AttestError::Unavailable(text)
    };
    let answer = match asked {
        Ok(answer) => answer.map_err(|error| unavailable(&error))?,
        Err(_) => return Err(unavailable(&io::ErrorKind::TimedOut.into())),
    };
    read(&answer, audience)
}

/// What an answer comes to.
fn read(answer: &[u8], audience: &str) -> Result<Pod, AttestError> {
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|_| AttestError::Unavailable("the API server's answer is no JSON".to_owned()))?;
    let Status {
        authenticated,
        audiences,
        user,
        error,
    } = answer.status;
    if !authenticated || !error.is_empty() {
        return Err(refused(format!(
            "the API server refuses the token: {error}"
        )));
    }
    // SECURITY: an API server that knows nothing of audiences leaves them out, and takes every token.
    if !audiences.iter().any(|found| found == audience) {
        return Err(refused("the token is for another audience"));
    }
    let (namespace, account) = service_account(&user.username)?;
    let extra = |name: &str| {
        let key = format!("authentication.kubernetes.io/{name}");
        user.extra.get(&key)?.first().cloned()
    };
    Ok(Pod {
        namespace,
        account,
        name: extra("pod-name"),
        uid: extra("pod-uid"),
        node: extra("node-name"),
    })
}

async fn exchange(at: &ReviewAt, audience: &str, token: &str) -> io::Result<Bytes> {
    let authority = at.server.strip_prefix("https://").unwrap_or(&at.server);
    let authority: http::uri::Authority = authority.parse().map_err(io::Error::other)?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let own = Zeroizing::new(file(&at.token_file).await?);
    let tls = tls(&file(&at.ca_file).await?)?;
    let stream = TcpStream::connect((host.as_str(), authority.port_u16().unwrap_or(443))).await?;
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let stream = tls.connect(name, stream).await?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    let question = Question {
        api_version: "authentication.k8s.io/v1",
        kind: "TokenReview",
        spec: Asked {
            token,
            audiences: [audience],
        },
    };
    let request = Request::post(PATH)
        .header(header::HOST, authority.as_str())
        .header(header::AUTHORIZATION, format!("Bearer {}", own.trim()))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(&question)?)))
        .map_err(io::Error::other)?;
    let answer = async move {
        let response = sender.send_request(request).await;
        let response = response.map_err(io::Error::other)?;
        let status = response.status();
        if status != StatusCode::CREATED && status != StatusCode::OK {
            return Err(io::Error::other(format!("it answered {status}")));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
        Ok(body.await.map_err(io::Error::other)?.to_bytes())
    };
    // The connection ends with its sender, or before; if that was too early, there is no answer.
    let (answer, _ended) = tokio::join!(answer, connection);
    answer
}

async fn file(path: &Path) -> io::Result<String> {
    let shown =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if tokio::fs::metadata(path).await.map_err(shown)?.len() > MAX_FILE_BYTES {
        return Err(shown(io::ErrorKind::FileTooLarge.into()));
    }
    tokio::fs::read_to_string(path).await.map_err(shown)
}

fn tls(authorities: &str) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        let certificate = certificate.map_err(io::Error::other)?;
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests;
