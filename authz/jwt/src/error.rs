//! Why a token or key set is refused: one exact reason each.

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than [`super::MAX_TOKEN_BYTES`].
    #[error("the token is longer than 8 KiB")]
    TooLarge,
    /// More different tokens in a request than [`super::MAX_TOKENS`].
    #[error("the request carries more than 8 different tokens")]
    TooManyTokens,
    /// Not three base64url parts without padding.
    #[error("the token is not of the form header.payload.signature in base64url")]
    Malformed,
    /// The header is not a JSON object with a text `alg`.
    #[error("the token's header cannot be read")]
    MalformedHeader,
    /// The payload is not a JSON object.
    #[error("the token's claims cannot be read")]
    MalformedClaims,
    /// A JSON object has a name twice, and readers may differ on which counts.
    #[error("the token has a member name twice")]
    DuplicateMember,
    /// `alg` is `none`: not signed.
    #[error("the token is not signed")]
    Unsigned,
    /// `alg` is `HS…`: whoever can verify can also sign.
    #[error("the token is signed with a shared secret")]
    SymmetricAlgorithm,
    /// Another `alg` than RS, PS, ES (256, 384, 512) and `EdDSA`.
    #[error("the token's algorithm is not supported")]
    UnsupportedAlgorithm,
    /// Header parameters (`crit`, `b64`) that change what the token means.
    #[error("the token has critical header parameters, and none is supported")]
    CriticalHeader,
    /// `typ` says that it is no access token.
    #[error("the token is of another type than an access token")]
    WrongType,
    /// The issuer's keys are not here, or none can be used.
    #[error("there are no keys for the token's issuer")]
    NoKeys,
    /// No key has the token's `kid`.
    #[error("no key has the token's key id")]
    UnknownKey,
    /// The key with the token's `kid` is not for its `alg`.
    #[error("the token's algorithm is not its key's")]
    AlgorithmMismatch,
    /// More keys could have signed the token than are tried.
    #[error("the token names no key, and too many could have signed it")]
    TooManyKeys,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// A registered claim is not of the type that RFC 7519 states.
    #[error("the token's claim {0} has the wrong type")]
    ClaimType(&'static str),
    /// No `iss`.
    #[error("the token has no issuer")]
    NoIssuer,
    /// `iss` is not that of a rule that looks where the token stands.
    #[error("the token's issuer is not accepted here")]
    UnknownIssuer,
    /// `aud` is missing, or none of those accepted.
    #[error("the token is not for this audience")]
    WrongAudience,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is still to come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iat` is still to come.
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// `sub` is no workload of the trust domain whose JWT-SVIDs are taken.
    #[error("the token's subject is not a workload of the issuer's trust domain")]
    ForeignSubject,
    /// A JWT-SVID without `exp`.
    #[error("the token has no time of expiry")]
    NoExpiry,
    /// The operator has revoked the identity in `sub`.
    #[error("the token's subject is revoked")]
    Revoked,
    /// More claims, values or levels than are accepted.
    #[error("the token has too many claims")]
    TooManyClaims,
    /// A claim name with dots reads like a nested claim that is there too.
    #[error("two of the token's claims have the same name when nested ones are joined with dots")]
    AmbiguousClaims,
}

impl TokenError {
    /// The reason as one word for records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::TooManyTokens => "too_many_tokens",
            Self::Malformed => "malformed",
            Self::MalformedHeader => "malformed_header",
            Self::MalformedClaims => "malformed_claims",
            Self::DuplicateMember => "duplicate_member",
            Self::Unsigned => "unsigned",
            Self::SymmetricAlgorithm => "symmetric_algorithm",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::CriticalHeader => "critical_header",
            Self::WrongType => "wrong_type",
            Self::TooManyKeys => "too_many_keys",
            Self::NoKeys => "no_keys",
            Self::UnknownKey => "unknown_key",
            Self::AlgorithmMismatch => "algorithm_mismatch",
            Self::BadSignature => "bad_signature",
            Self::ClaimType(_) => "claim_type",
            Self::NoIssuer => "no_issuer",
            Self::UnknownIssuer => "unknown_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::ForeignSubject => "foreign_subject",
            Self::NoExpiry => "no_expiry",
            Self::Revoked => "revoked",
            Self::TooManyClaims => "too_many_claims",
            Self::AmbiguousClaims => "ambiguous_claims",
        }
    }
}

/// Why a key set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Longer than the limit.
    #[error("a key set is at most {max} bytes long")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// Not JSON, or a name occurs twice.
    #[error("the key set is not JSON: {0}")]
    Json(String),
    /// No `keys` array (RFC 7517 section 5).
    #[error("a key set is a JSON object with an array `keys`")]
    Shape,
    /// More keys than the limit.
    #[error("a key set has at most {max} keys")]
    TooManyKeys {
        /// The limit.
        max: usize,
    },
    /// None of its keys verifies signatures of a supported algorithm.
    #[error(
        "the key set has no usable key: RSA of 2048 to 8192 bits, EC P-256, P-384 or P-521, or Ed25519, not marked for another use"
    )]
    NoUsableKey,
}
