//! Why the authority cannot be opened, or does not do what it is asked.

use std::{io, path::PathBuf};

use reeve_core::{SpiffeId, TrustDomain};
use reeve_svid::{BundleError, JwtSvidError, SvidError};

use super::{
    RotationStep,
    jwt::{MAX_AUDIENCE_BYTES, MAX_AUDIENCES},
    upstream::UpstreamError,
};
use crate::{CsrError, SealError, VaultError};

/// The certificate authority cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A life that is shorter than that of what it signs, or shorter than a second.
    #[error("lives must satisfy 1 s <= certificate <= intermediate <= root <= 100 years")]
    Lives,
    /// The sealed file cannot be used.
    #[error("the keys of the certificate authority cannot be read or written")]
    Seal(#[from] SealError),
    /// The sealed file opens, but what it holds is not ours.
    #[error("the sealed file does not hold the keys of a certificate authority")]
    Content,
    /// The sealed file belongs to another trust domain.
    #[error("the sealed file belongs to trust domain {found}, not {expected}")]
    OtherTrustDomain {
        /// Configured.
        expected: TrustDomain,
        /// Found.
        found: TrustDomain,
    },
    /// Signing failed.
    #[error("an authority cannot be made")]
    Sign(#[source] rcgen::Error),
    /// A key cannot be used where it is.
    #[error("the authority's key cannot be used")]
    Vault(#[from] VaultError),
    /// The operator's authority cannot be used, and there is no other.
    #[error("the upstream authority cannot be used")]
    Upstream(#[from] UpstreamError),
    /// There is no root, and the operator's files are not in order.
    #[error("there is no upstream authority to sign with")]
    NoUpstream,
    /// Random numbers or keys cannot be made.
    #[error("no random numbers")]
    NoRandom,
    /// The file that the bundle is published in cannot be written.
    #[error("the trust bundle cannot be published in {path}")]
    Publish {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The roots do not form a trust bundle.
    #[error("the roots do not form a trust bundle")]
    Bundle(#[from] BundleError),
}

/// A certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request's fault.
    #[error("the certificate request is refused")]
    Request(#[from] CsrError),
    /// A JWT-SVID was asked for without saying for whom, or for too many.
    #[error(
        "a JWT-SVID names 1 to {MAX_AUDIENCES} audiences of at most {MAX_AUDIENCE_BYTES} bytes"
    )]
    Audience,
    /// The registration entry does not allow tokens for one of these audiences.
    #[error("the registration entry allows no tokens for such an audience")]
    AudienceNotAllowed,
    /// The identity is of another trust domain, or names no workload.
    #[error("{0} is not an identity of a workload of this trust domain")]
    NotOurs(SpiffeId),
    /// The operator has revoked it.
    #[error("{0} is revoked")]
    Revoked(SpiffeId),
    /// Our fault: no authority is able to sign.
    #[error("no authority can sign")]
    Authority(#[from] CaError),
    /// Our fault: what was signed is not what may leave.
    #[error("the certificate failed the check before release")]
    Recheck(#[source] Recheck),
}

/// What the check before release found.
#[derive(Debug, thiserror::Error)]
pub enum Recheck {
    /// It does not verify against our own bundle.
    #[error("it does not verify")]
    Verify(#[from] SvidError),
    /// The token does not verify.
    #[error("it does not verify")]
    Jwt(#[from] JwtSvidError),
    /// It departs from the template.
    #[error("its {0} is not the template's")]
    Departs(&'static str),
}

/// Why nothing is rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// One at a time.
    #[error("a root is being rotated already: step {}", .0.as_str())]
    UnderWay(RotationStep),
    /// There is no step to end.
    #[error("no root is being rotated")]
    NotUnderWay,
    /// The old root has left the bundles, or is not there.
    #[error("there is no way back: the old root has left the bundles")]
    NoWayBack,
    /// Roots are the operator's to make.
    #[error("the root is the upstream authority's: replace its files in {folder}", folder = .0.display())]
    UpstreamDecides(PathBuf),
    /// Our fault.
    #[error("it could not be done")]
    Authority(#[from] CaError),
}
