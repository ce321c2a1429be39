//! Names of Envoy's response flags and of gRPC's status codes.

/// The long names of short flags (Envoy, "Access logging", `%RESPONSE_FLAGS_LONG%`); a flag of no such name stays.
pub(super) fn long(flags: &str) -> Option<String> {
    if flags.is_empty() {
        return None;
    }
    let name = |flag| match flag {
        "DC" => "DownstreamConnectionTermination",
        "DPE" => "DownstreamProtocolError",
        "DI" => "DelayInjected",
        "FI" => "FaultInjected",
        "NC" => "NoClusterFound",
        "NR" => "NoRouteFound",
        "RL" => "RateLimited",
        "RLSE" => "RateLimitServiceError",
        "UAEX" => "UnauthorizedExternalService",
        "UC" => "UpstreamConnectionTermination",
        "UF" => "UpstreamConnectionFailure",
        "UH" => "NoHealthyUpstream",
        "UO" => "UpstreamOverflow",
        "UPE" => "UpstreamProtocolError",
        "UR" => "UpstreamRemoteReset",
        "URX" => "UpstreamRetryLimitExceeded",
        "UT" => "UpstreamRequestTimeout",
        "SI" => "StreamIdleTimeout",
        "DT" => "DurationTimeout",
        "OM" => "OverloadManagerTerminated",
        other => other,
    };
    let names: Vec<&str> = flags.split(',').map(name).collect();
    Some(names.join(","))
}

/// gRPC's status by its name (grpc.io, "Status codes"), as Envoy writes it.
pub(super) fn grpc(code: u16) -> Option<&'static str> {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES.get(usize::from(code)).copied()
}
