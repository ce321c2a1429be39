//! `reeve identity fetch`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use reeve_ca::proto::workload::{
    Jwtsvid, JwtsvidRequest, X509svid, X509svidRequest,
    spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use reeve_core::SpiffeId;
use reeve_svid::X509Svid;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use serde_json::json;
use tonic::{Code, Request, Response, Status, metadata::MetadataValue};

use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    supervisor::logfile::timestamp,
    verb::{block_on, unix_channel},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve identity fetch                               at SPIFFE_ENDPOINT_SOCKET, as a workload has it
  reeve identity fetch --socket /run/agent.sock -o json
  reeve identity fetch --audience ledger             a token (JWT-SVID) for the ledger
  reeve identity fetch --audience ledger --spiffe-id spiffe://mesh.local/ns/batch/sa/nightly

Who asks is told from the process: a workload of the mesh at its sidecar's socket, any process that a registration entry
speaks of at its machine's (workload.sock in the state directory); each gets its own identities and no other.
Private keys are never printed.

Exit codes: 0 = fine, 1 = the caller was refused, 2 = nobody answered.";

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `reeve identity fetch`.
#[derive(Args, Debug)]
pub(super) struct FetchArgs {
    /// A token for this audience instead of certificates (a JWT-SVID; may be said more than once).
    #[arg(long, value_name = "AUDIENCE")]
    audience: Vec<String>,
    /// Of several identities, the one that the token is to be of.
    #[arg(long, value_name = "SPIFFE_ID", requires = "audience")]
    spiffe_id: Option<SpiffeId>,
    /// The Workload API's socket (a path, or unix:PATH).
    #[arg(long, env = "SPIFFE_ENDPOINT_SOCKET", value_name = "PATH")]
    socket: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// An identity without its key.
#[derive(Debug, Serialize)]
struct Identity {
    spiffe_id: String,
    /// What it is for; the first identity is the default one.
    hint: String,
    serial: Option<String>,
    not_before: Option<String>,
    not_after: Option<String>,
    certificates: usize,
    authorities_bytes: usize,
}

pub(super) fn run(args: &FetchArgs) -> Verdict {
    block_on(fetch(args))
}

async fn fetch(args: &FetchArgs) -> Verdict {
    let path = args.socket.trim_start_matches("unix:");
    let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
    let mut client = SpiffeWorkloadApiClient::new(unix_channel(&path).await?);
    if !args.audience.is_empty() {
        let asked = JwtsvidRequest {
            audience: args.audience.clone(),
            spiffe_id: args
                .spiffe_id
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        };
        let answer = client.fetch_jwtsvid(asking(asked));
        let answer = within(&path, async { answer.await.map(Response::into_inner) }).await?;
        return answer.map_or(Ok(Answer::No), |answer| tokens(args, &answer.svids));
    }
    let answer = async {
        let stream = client.fetch_x509svid(asking(X509svidRequest {})).await?;
        let ended = || Status::unavailable("it ended without an answer");
        stream.into_inner().message().await?.ok_or_else(ended)
    };
    match within(&path, answer).await? {
        Some(answer) => certificates(args, &answer.svids),
        None => Ok(Answer::No),
    }
}

/// A request with what the Workload API requires, so that no browser can be made to ask (SPIFFE Workload Endpoint,
/// section 3).
fn asking<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// The answer, if it comes in time; none if we are refused.
async fn within<T>(
    path: &Path,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<Option<T>, Problem> {
    let silent =
        || Problem::new(format!("no answer within {} s", PATIENCE.as_secs())).at(path.display());
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    match answer.map_err(|_| silent())? {
        Ok(answer) => Ok(Some(answer)),
        Err(status) if status.code() == Code::PermissionDenied => {
            output::note(&format!("refused: {}", status.message()));
            Ok(None)
        }
        Err(status) => Err(Problem::new(format!(
            "the Workload API answered {}: {}",
            status.code(),
            status.message()
        ))
        .at(path.display())),
    }
}

fn tokens(args: &FetchArgs, svids: &[Jwtsvid]) -> Verdict {
    match args.output.output {
        Format::Json => {
            let shown = |svid: &Jwtsvid| json!({ "spiffe_id": svid.spiffe_id, "hint": svid.hint, "token": svid.svid });
            output::json(&svids.iter().map(shown).collect::<Vec<_>>())?;
        }
        Format::Human => {
            for svid in svids {
                output::line(&svid.svid)?;
            }
        }
    }
    Ok(Answer::from_fine(!svids.is_empty()))
}

fn certificates(args: &FetchArgs, svids: &[X509svid]) -> Verdict {
    let identities: Vec<_> = svids.iter().map(identity).collect();
    match args.output.output {
        Format::Json => output::json(&identities)?,
        Format::Human => {
            for identity in &identities {
                let hint = match identity.hint.as_str() {
                    "" => String::new(),
                    hint => format!(" ({hint})"),
                };
                output::line(&format!(
                    "{}{hint} from {} until {}",
                    identity.spiffe_id,
                    identity.not_before.as_deref().unwrap_or("?"),
                    identity.not_after.as_deref().unwrap_or("?"),
                ))?;
            }
        }
    }
    Ok(Answer::from_fine(!identities.is_empty()))
}

fn identity(svid: &X509svid) -> Identity {
    let chain = split_der(&svid.x509_svid);
    let certificates = chain.len();
    let key = PrivatePkcs8KeyDer::from(svid.x509_svid_key.as_slice());
    let parsed = X509Svid::parse(chain, key.into()).ok();
    Identity {
        spiffe_id: svid.spiffe_id.clone(),
        hint: svid.hint.clone(),
        serial: parsed.as_ref().map(|svid| svid.serial().to_owned()),
        not_before: parsed.as_ref().map(|svid| timestamp(svid.not_before())),
        not_after: parsed.as_ref().map(|svid| timestamp(svid.not_after())),
        certificates,
        authorities_bytes: svid.bundle.len(),
    }
}

/// Splits concatenated DER certificates by their outer lengths (X.690, 8.1.3).
fn split_der(mut rest: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut found = Vec::new();
    while let Some((one, more)) = der_length(rest).and_then(|length| rest.split_at_checked(length))
    {
        found.push(CertificateDer::from(one.to_vec()));
        rest = more;
    }
    found
}

fn der_length(bytes: &[u8]) -> Option<usize> {
    let (first, rest) = (bytes.get(1)?, bytes.get(2..)?);
    if *first < 0x80 {
        return usize::from(*first).checked_add(2);
    }
    let octets = usize::from(*first & 0x7f);
    if octets == 0 || octets > 4 {
        return None;
    }
    let length = rest
        .get(..octets)?
        .iter()
        .fold(0_usize, |length, octet| length * 256 + usize::from(*octet));
    length.checked_add(2 + octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenated_certificates_are_split() {
        let long = [&[0x30, 0x81, 0x80][..], &[7; 0x80]].concat();
        let both = [&[0x30, 2, 1, 1][..], &long].concat();
        let parts = split_der(&both);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].as_ref(), long);
        assert!(split_der(&[0x30]).is_empty());
        assert!(split_der(&[0x30, 0x89, 1]).is_empty());
        assert!(split_der(&[0x30, 5, 1]).is_empty(), "cut off");
    }
}
