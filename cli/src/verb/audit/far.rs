//! The trail of a mesh elsewhere, asked of its mesh process with a token: what it shows, its policies say.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use form_urlencoded::Serializer;
use http::{
    Request, StatusCode,
    header::{AUTHORIZATION, HeaderValue},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reeve_audit::{
    Record, decision_id,
    query::{Filter, Found},
};
use reeve_ca::MeshAddress;
use reeve_core::{Clock, SpiffeId, SystemClock, UnixTime};
use reeve_svid::{TrustBundle, alpn, anonymous_client_config, server_name, why_refused};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::{input, problem::Problem, verb::block_on};

/// How long the whole answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer: 1,000 records of the largest size that there are.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A mesh elsewhere.
#[derive(Args, Debug)]
pub(super) struct FarArgs {
    /// Ask the mesh process there, on its TLS port, instead of reading a folder.
    #[arg(long, value_name = "ADDR:PORT|unix:PATH", requires_all = ["bundle", "token_file"], conflicts_with_all = ["dir", "sql"])]
    mesh_address: Option<MeshAddress>,
    /// The mesh's authorities, by which its mesh process is known (a PEM file).
    #[arg(long, value_name = "FILE", requires = "mesh_address")]
    bundle: Option<PathBuf>,
    /// A file with a token (JWT) of an issuer that the mesh trusts, or - for standard input.
    #[arg(long, value_name = "FILE", requires = "mesh_address")]
    token_file: Option<PathBuf>,
    /// The mesh process's identity.
    #[arg(
        long,
        value_name = "SPIFFE_ID",
        default_value = "spiffe://mesh.local/ns/reeve-system/sa/control"
    )]
    mesh_id: SpiffeId,
}

/// A mesh process, and what is needed to ask it.
pub(super) struct Far<'a> {
    address: &'a MeshAddress,
    id: &'a SpiffeId,
    bundle: TrustBundle,
    token: Zeroizing<String>,
}

impl FarArgs {
    /// The mesh elsewhere, if one is named.
    pub(super) fn named(&self) -> Result<Option<Far<'_>>, Problem> {
        let (Some(address), Some(bundle), Some(token)) =
            (&self.mesh_address, &self.bundle, &self.token_file)
        else {
            return Ok(None);
        };
        let domain = self.mesh_id.trust_domain().clone();
        let pem = input::text(bundle)?;
        let read = TrustBundle::from_pem(domain, pem.as_bytes(), 0);
        let read = read.map_err(|error| {
            Problem::because("these are no authorities", &error).at(bundle.display())
        })?;
        let token = Zeroizing::new(input::text(token)?);
        Ok(Some(Far {
            address,
            id: &self.mesh_id,
            bundle: read,
            token: Zeroizing::new(token.trim().to_owned()),
        }))
    }
}

impl Far<'_> {
    /// What the mesh process shows of the records that match, the oldest first.
    pub(super) fn query(self, filter: &Filter) -> Result<Vec<Found>, Problem> {
        let address = self.address.to_string();
        let path = format!("/audit/records?{}", asked(filter));
        let answer = block_on(async {
            let answer = tokio::time::timeout(PATIENCE, self.ask(&path)).await;
            answer.unwrap_or_else(|_| {
                let text = format!("no answer within {} s", PATIENCE.as_secs());
                Err(Problem::new(text))
            })
        });
        let (status, body) = answer.map_err(|problem| problem.at(&address))?;
        let text = String::from_utf8_lossy(&body);
        if status.is_success() {
            return text.lines().map(|line| found(line, &address)).collect();
        }
        let said: String = text.trim().chars().take(500).collect();
        let problem =
            Problem::new(format!("the mesh process answered {status}: {said}")).at(&address);
        Err(match status {
            StatusCode::UNAUTHORIZED => problem.fix("the token must be of an issuer that a RequestAuthentication of the mesh's root namespace names for all workloads; `reeve jwt verify` says what is wrong with a token").into_answer(),
            StatusCode::FORBIDDEN => problem.fix("ask whoever keeps the mesh's policies for a permit like policies/library/audit-reader.cedar").into_answer(),
            _ => problem,
        })
    }

    async fn ask(&self, path: &str) -> Result<(StatusCode, Bytes), Problem> {
        let fail = |error: &dyn std::error::Error| {
            Problem::because("the mesh process cannot be asked", error)
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let expected = std::slice::from_ref(self.id);
        let bundle = Arc::new(self.bundle.clone());
        let tls = anonymous_client_config(bundle, expected, &[alpn::GRPC], &clock);
        let tls = TlsConnector::from(tls.map_err(|e| fail(&e))?);
        let stream = self.address.connect().await.map_err(|e| fail(&e))?;
        let stream = tls.connect(server_name(), stream).await.map_err(|error| {
            Problem::new(format!(
                "the mesh process is not believed: {}",
                why_refused(&error)
            ))
            .fix("give its authorities with --bundle, and its identity with --mesh-id")
        })?;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| fail(&e))?;
        let connection = tokio::spawn(connection);
        let bearer = Zeroizing::new(format!("Bearer {}", *self.token));
        let mut bearer = HeaderValue::from_str(&bearer)
            .map_err(|_| Problem::new("the token file does not hold a token"))?;
        bearer.set_sensitive(true);
        let request = Request::get(format!("https://audit{path}"))
            .header(AUTHORIZATION, bearer)
            .body(Empty::<Bytes>::new())
            .map_err(|e| fail(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| fail(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES);
        let body = body.collect().await.map_err(|e| fail(&*e))?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }
}

/// The filter as the mesh process reads it.
fn asked(filter: &Filter) -> String {
    let mut query = Serializer::new(String::new());
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    };
    let millis = |time: Option<UnixTime>| time.map(|time| time.as_millis().to_string());
    add("since", millis(filter.since));
    add("until", millis(filter.until));
    add("from", filter.principal.as_ref().map(SpiffeId::to_string));
    add(
        "workload",
        filter.workload.as_ref().map(SpiffeId::to_string),
    );
    add("service", filter.service.as_ref().map(ToString::to_string));
    add("effect", filter.effect.as_ref().and_then(word));
    add("reason", filter.reason.as_ref().and_then(word));
    add("trace", filter.trace.clone());
    add("path", filter.path.clone());
    add("kind", filter.kind.clone());
    add("event", filter.event.as_ref().and_then(word));
    add("limit", Some(filter.limit.to_string()));
    query.finish()
}

/// As records spell it.
fn word(value: &impl serde::Serialize) -> Option<String> {
    let value = serde_json::to_value(value).ok()?;
    value.as_str().map(str::to_owned)
}

fn found(line: &str, place: &str) -> Result<Found, Problem> {
    let record: Record = serde_json::from_str(line).map_err(|error| {
        Problem::because(
            "the mesh process answered something that is no record",
            &error,
        )
        .at(place)
        .fix("use the reeve binary that runs the mesh")
    })?;
    Ok(Found {
        decision_id: decision_id(&record.id),
        record,
        logged: true,
        place: place.to_owned(),
    })
}
