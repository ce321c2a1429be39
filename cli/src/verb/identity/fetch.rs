//! `reeve identity fetch`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use reeve_ca::proto::workload::{
    X509svid, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use reeve_svid::X509Svid;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use tonic::{Code, Request, metadata::MetadataValue};

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

Who asks is told from the process: only a workload of the mesh gets an answer, and only its own identity.
Private keys are never printed.

Exit codes: 0 = fine, 1 = the caller was refused, 2 = nobody answered.";

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `reeve identity fetch`.
#[derive(Args, Debug)]
pub(super) struct FetchArgs {
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
    let channel = unix_channel(&path).await?;
    let mut request = Request::new(X509svidRequest {});
    // Required by the Workload API, so that no browser can be made to ask (SPIFFE Workload Endpoint, section 3).
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let answer = tokio::time::timeout(PATIENCE, async {
        let mut stream = client.fetch_x509svid(request).await?.into_inner();
        stream.message().await
    });
    let silent =
        || Problem::new(format!("no answer within {} s", PATIENCE.as_secs())).at(path.display());
    let svids = match answer.await.map_err(|_| silent())? {
        Ok(Some(answer)) => answer.svids,
        Ok(None) => return Err(silent()),
        Err(status) if status.code() == Code::PermissionDenied => {
            output::note(&format!("refused: {}", status.message()));
            return Ok(Answer::No);
        }
        Err(status) => {
            return Err(Problem::new(format!(
                "the Workload API answered {}: {}",
                status.code(),
                status.message()
            ))
            .at(path.display()));
        }
    };
    let identities: Vec<_> = svids.iter().map(identity).collect();
    match args.output.output {
        Format::Json => output::json(&identities)?,
        Format::Human => {
            for identity in &identities {
                output::line(&format!(
                    "{} from {} until {}",
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
