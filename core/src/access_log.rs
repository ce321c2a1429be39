//! Envoy's access log format (envoyproxy.io, "Access logging"): literal text with `%OPERATOR(ARGUMENT):LENGTH%`.
//!
//! A format is parsed once, when configuration is read; an operator that there is not, or not here, is refused by its
//! name. Whoever writes lines goes over the pieces and parses nothing.

mod parse;

use serde::{Deserialize, Serialize};

/// Most pieces of one format.
pub const MAX_PIECES: usize = 256;
/// Longest text of one format.
pub const MAX_FORMAT_BYTES: usize = 8 * 1024;

/// Istio's default format of text lines (istio.io, "Envoy Access Logs").
pub const ISTIO_TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n",
);

/// Istio's default members of JSON lines.
pub const ISTIO_JSON: [(&str, &str); 23] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("user_agent", "%REQ(USER-AGENT)%"),
];

/// What access log lines look like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogConfig {
    /// Reeve's own JSON lines, with every fact that it has.
    #[default]
    Reeve,
    /// No lines.
    Off,
    /// Lines of this format, which ends them itself.
    Text(String),
    /// JSON objects with these members, each of a format.
    Json(Vec<(String, String)>),
}

/// A parsed format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// In the order in which they are written.
    pub pieces: Vec<Piece>,
}

/// A part of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Written as it is.
    Literal(String),
    /// What the operator stands for, cut to this many bytes.
    Field(Operator, Option<usize>),
}

/// What a format can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `%START_TIME%`, `%START_TIME(%Y-%m-%d)%`: when the request began; without argument, ISO 8601 with milliseconds.
    StartTime(Option<String>),
    /// `%REQ(NAME?OTHER)%`
    Request(Header),
    /// `%RESP(NAME?OTHER)%`
    Response(Header),
    /// `%TRAILER(NAME?OTHER)%`: of the response.
    Trailer(Header),
    /// `%DYNAMIC_METADATA(reeve:KEY)%`: what Reeve knows beyond Envoy's operators.
    Reeve(Fact),
    /// One without argument.
    Plain(Plain),
}

/// A header by its name, or another where that is absent. Names are in lower case; those that begin with a colon are
/// `:method`, `:path`, `:authority`, `:scheme` and, of responses, `:status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: String,
    /// The other one.
    pub other: Option<String>,
}

/// What Reeve knows of a decision, as `DYNAMIC_METADATA(reeve:…)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// `decision_id`: opaque, the same as in the audit log.
    DecisionId,
    /// `effect`: `allow` or `deny`.
    Effect,
    /// `reason`
    Reason,
    /// `policies`: those that the decision rests on, joined by commas.
    Policies,
    /// `record`: the record's id.
    Record,
    /// `user`: the subject of the verified token.
    User,
    /// `service`: the service asked for.
    Service,
    /// `direction`: `inbound` or `outbound`.
    Direction,
}

macro_rules! plain {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Operators without argument.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Plain { $($(#[$doc])* $variant,)* }

        impl Plain {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Envoy's name for it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

plain! {
    /// `HTTP/1.1`, `HTTP/2`; `-` for TCP.
    Protocol = "PROTOCOL",
    /// 0 without a response.
    ResponseCode = "RESPONSE_CODE",
    /// Why Reeve answered, or `via_upstream`.
    ResponseCodeDetails = "RESPONSE_CODE_DETAILS",
    /// Short flags, joined by commas.
    ResponseFlags = "RESPONSE_FLAGS",
    /// Their long names.
    ResponseFlagsLong = "RESPONSE_FLAGS_LONG",
    /// Why a TCP connection was ended here.
    ConnectionTerminationDetails = "CONNECTION_TERMINATION_DETAILS",
    /// Why the upstream could not be reached.
    UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON",
    /// Body bytes from the caller.
    BytesReceived = "BYTES_RECEIVED",
    /// Body bytes to the caller.
    BytesSent = "BYTES_SENT",
    /// Milliseconds from the first byte of the request to the last of the response.
    Duration = "DURATION",
    /// Milliseconds until the upstream's response began.
    ResponseDuration = "RESPONSE_DURATION",
    /// Milliseconds from the upstream's first byte to the last that was handed on.
    ResponseTxDuration = "RESPONSE_TX_DURATION",
    /// The endpoint.
    UpstreamHost = "UPSTREAM_HOST",
    /// `outbound|9080|v1|reviews.default.svc.cluster.local`, or `inbound|9080||`.
    UpstreamCluster = "UPSTREAM_CLUSTER",
    /// The same.
    UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW",
    /// Not known here: `-`.
    UpstreamLocalAddress = "UPSTREAM_LOCAL_ADDRESS",
    /// How many tries there were.
    UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    /// The caller's address.
    DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS",
    /// The caller's address without its port.
    DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    /// The same as `DOWNSTREAM_REMOTE_ADDRESS`: no header changes it.
    DownstreamDirectRemoteAddress = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    /// The same without its port.
    DownstreamDirectRemoteAddressWithoutPort = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    /// The address that was reached.
    DownstreamLocalAddress = "DOWNSTREAM_LOCAL_ADDRESS",
    /// That address without its port.
    DownstreamLocalAddressWithoutPort = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    /// That address's port.
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT",
    /// The caller's SPIFFE ID, proved by mutual TLS.
    DownstreamPeerUriSan = "DOWNSTREAM_PEER_URI_SAN",
    /// The proxy's own SPIFFE ID, on the inbound side.
    DownstreamLocalUriSan = "DOWNSTREAM_LOCAL_URI_SAN",
    /// The server's SPIFFE ID, on the outbound side.
    UpstreamPeerUriSan = "UPSTREAM_PEER_URI_SAN",
    /// The server name that the caller asked TLS for.
    RequestedServerName = "REQUESTED_SERVER_NAME",
    /// The route.
    RouteName = "ROUTE_NAME",
    /// gRPC's status by its name.
    GrpcStatus = "GRPC_STATUS",
    /// gRPC's status as a number.
    GrpcStatusNumber = "GRPC_STATUS_NUMBER",
    /// W3C's or B3's trace id.
    TraceId = "TRACE_ID",
}

/// Why a format cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No such operator, or none that is supported.
    #[error("%{0}% is no operator that is supported here")]
    Unknown(String),
    /// A per cent sign that begins nothing.
    #[error("a % at byte {0} begins no operator; write %% for a per cent sign")]
    Stray(usize),
    /// An operator that takes an argument has none, or one that takes none has one.
    #[error("%{0}% does not take such an argument")]
    Argument(String),
    /// The argument is no header name.
    #[error("{0:?} is no name of a header")]
    HeaderName(String),
    /// Not a strftime text that is supported.
    #[error("%START_TIME({0})% has a specifier that is not supported")]
    TimeFormat(String),
    /// Too long.
    #[error("a format has at most {MAX_FORMAT_BYTES} bytes and {MAX_PIECES} parts")]
    TooLong,
}

impl Format {
    /// Reads a format.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        parse::format(text)
    }

    /// Whether it needs the response's headers.
    pub fn needs_response(&self) -> bool {
        let response = |p: &Piece| {
            matches!(
                p,
                Piece::Field(Operator::Response(_) | Operator::Trailer(_), _)
            )
        };
        self.pieces.iter().any(response)
    }
}

#[cfg(test)]
mod tests;
