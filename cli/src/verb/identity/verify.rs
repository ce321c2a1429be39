//! `reeve identity verify`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use reeve_core::{SpiffeId, TrustDomain, UnixTime};
use reeve_svid::{Purpose, SvidError, TrustBundle, certificates_from_pem, verify_svid};
use rustls::pki_types::CertificateDer;
use serde::Serialize;

use super::reason_word;
use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    supervisor::logfile::timestamp,
    verb::jwt::moment,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve ca bundle > bundle.pem
  reeve identity verify --bundle bundle.pem --chain svid.pem --purpose client
  reeve identity verify --bundle bundle.pem --chain svid.pem --spiffe-id spiffe://mesh.local/ns/default/sa/web \\
      --at 2026-11-21T04:00:00Z -o json

Exit codes: 0 = the chain is good, 1 = it is not (with the one reason), 2 = a file could not be read.";

/// `reeve identity verify`.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// The trust domain's authorities, PEM.
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// The chain, leaf first: PEM, or a single DER certificate; - for standard input.
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// Verify as if it were this time: RFC 3339, or seconds since 1970.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// The identity that the chain must show.
    #[arg(long, value_name = "SPIFFE_ID")]
    spiffe_id: Option<SpiffeId>,
    /// Whose authorities the bundle holds; by default the expected identity's trust domain, else the leaf's own.
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// What the certificate is to be used for.
    #[arg(long, value_enum, default_value_t = For::Server)]
    purpose: For,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum For {
    Client,
    Server,
}

/// What a chain is.
#[derive(Debug, Serialize)]
struct Verified {
    valid: bool,
    reason: Option<String>,
    message: Option<String>,
    spiffe_id: Option<SpiffeId>,
    serial: Option<String>,
    not_after: Option<String>,
}

pub(super) fn run(args: &VerifyArgs) -> Verdict {
    let chain = certificates(&args.chain)?;
    let at = moment(args.at.as_deref())?;
    let verified = match check(args, &chain, at)? {
        Ok(verified) => verified,
        Err((reason, message)) => Verified {
            valid: false,
            reason: Some(reason),
            message: Some(message),
            spiffe_id: None,
            serial: None,
            not_after: None,
        },
    };
    match args.output.output {
        Format::Json => output::json_line(&verified)?,
        Format::Human => output::line(&describe(&verified))?,
    }
    Ok(Answer::from_fine(verified.valid))
}

fn check(
    args: &VerifyArgs,
    chain: &[CertificateDer<'static>],
    at: UnixTime,
) -> Result<Result<Verified, (String, String)>, Problem> {
    let refused = |error: SvidError| (reason_word(&error), error.to_string());
    let purpose = match args.purpose {
        For::Client => Purpose::Client,
        For::Server => Purpose::Server,
    };
    let pem = input::bytes(&args.bundle)?;
    let expected = args.spiffe_id.as_ref().map(|id| id.trust_domain().clone());
    let bundle = match args.trust_domain.clone().or(expected) {
        Some(domain) => bundle_of(domain, &pem, args)?,
        None => {
            let any = bundle_of(
                TrustDomain::parse("unknown").map_err(Problem::new)?,
                &pem,
                args,
            )?;
            match verify_svid(chain, &any, at, purpose) {
                Err(SvidError::ForeignTrustDomain { found, .. }) => bundle_of(found, &pem, args)?,
                Ok(_) | Err(_) => any,
            }
        }
    };
    let peer = match verify_svid(chain, &bundle, at, purpose) {
        Ok(peer) => peer,
        Err(error) => return Ok(Err(refused(error))),
    };
    if let Some(expected) = args
        .spiffe_id
        .as_ref()
        .filter(|expected| *expected != peer.id())
    {
        let message = format!("the certificate shows {}, not {expected}", peer.id());
        return Ok(Err(("wrong_identity".to_owned(), message)));
    }
    Ok(Ok(Verified {
        valid: true,
        reason: None,
        message: None,
        spiffe_id: Some(peer.id().clone()),
        serial: Some(peer.serial().to_owned()),
        not_after: Some(timestamp(peer.not_after())),
    }))
}

fn bundle_of(domain: TrustDomain, pem: &[u8], args: &VerifyArgs) -> Result<TrustBundle, Problem> {
    TrustBundle::from_pem(domain, pem, 0).map_err(|error| {
        Problem::because("the bundle cannot be used", &error)
            .at(input::shown(&args.bundle))
            .fix("give the authorities' certificates in PEM, such as `reeve ca bundle` prints")
    })
}

/// The certificates of a PEM file, or the one of a DER file.
fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let content = input::bytes(path)?;
    let is_pem = content.windows(11).any(|window| window == b"-----BEGIN ");
    if !is_pem {
        return Ok(vec![CertificateDer::from(content)]);
    }
    certificates_from_pem(&content).map_err(|error| {
        Problem::new(format!("the chain is not PEM: {error}"))
            .at(input::shown(path))
            .fix("give the certificates leaf first, in PEM")
    })
}

fn describe(verified: &Verified) -> String {
    match (&verified.reason, &verified.spiffe_id) {
        (Some(reason), _) => {
            format!(
                "refused ({reason}): {}",
                verified.message.as_deref().unwrap_or_default()
            )
        }
        (None, id) => format!(
            "good: {}, serial {}, until {}",
            id.as_ref().map(ToString::to_string).unwrap_or_default(),
            verified.serial.as_deref().unwrap_or_default(),
            verified.not_after.as_deref().unwrap_or_default(),
        ),
    }
}
