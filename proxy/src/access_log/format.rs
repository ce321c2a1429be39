//! Lines in the form that configuration asks for. Formats are compiled with the snapshot; here, per line, nothing is
//! parsed.
//!
//! SECURITY: what a peer chose (paths, headers, names) is escaped, so that it can begin no line and close no quote.

use std::{borrow::Cow, io::Write as _};

use http::HeaderMap;
use reeve_core::{
    UnixTime,
    access_log::{AccessLogConfig, Fact, Format, FormatError, Header, Operator, Piece, Plain},
};

use super::{Line, Told, flags};

/// A compiled [`AccessLogConfig`].
#[derive(Debug, Default)]
pub(crate) enum LogFormat {
    #[default]
    Reeve,
    Off,
    Text(Format),
    Json(Vec<(String, Format)>),
}

/// What an operator stands for in one line.
enum Value<'a> {
    Absent,
    Number(u64),
    /// Of our own making.
    Safe(Cow<'a, str>),
    /// As a peer sent it.
    Raw(Cow<'a, [u8]>),
}

impl LogFormat {
    /// Compiles what configuration says.
    pub(crate) fn compile(config: &AccessLogConfig) -> Result<Self, FormatError> {
        Ok(match config {
            AccessLogConfig::Reeve => Self::Reeve,
            AccessLogConfig::Off => Self::Off,
            AccessLogConfig::Text(text) => Self::Text(Format::parse(text)?),
            AccessLogConfig::Json(members) => {
                let member =
                    |(name, text): &(String, String)| Ok((name.clone(), Format::parse(text)?));
                Self::Json(members.iter().map(member).collect::<Result<_, _>>()?)
            }
        })
    }

    /// Whether the response's headers must be kept for the line.
    pub(crate) fn needs_response(&self) -> bool {
        match self {
            Self::Reeve | Self::Off => false,
            Self::Text(format) => format.needs_response(),
            Self::Json(members) => members.iter().any(|(_, format)| format.needs_response()),
        }
    }

    /// Appends the line, if there is to be one; whether it could be formed.
    pub(crate) fn write(&self, told: &Told<'_>, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        match self {
            Self::Off => return true,
            Self::Reeve => {
                if serde_json::to_writer(&mut *out, &told.line).is_err() {
                    out.truncate(before);
                    return false;
                }
                out.push(b'\n');
            }
            Self::Text(format) => {
                for piece in &format.pieces {
                    text_piece(piece, told, out);
                }
                if out.last() != Some(&b'\n') {
                    out.push(b'\n');
                }
            }
            Self::Json(members) => {
                out.push(b'{');
                for (n, (name, format)) in members.iter().enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    json_text(name.as_bytes(), out);
                    out.push(b':');
                    json_member(format, told, out);
                }
                out.extend_from_slice(b"}\n");
            }
        }
        true
    }
}

fn text_piece(piece: &Piece, told: &Told<'_>, out: &mut Vec<u8>) {
    let (operator, most) = match piece {
        Piece::Literal(text) => return out.extend_from_slice(text.as_bytes()),
        Piece::Field(operator, most) => (operator, most.unwrap_or(usize::MAX)),
    };
    match value(operator, told) {
        Value::Absent => out.push(b'-'),
        Value::Number(number) => number_text(number, out),
        Value::Safe(text) => escape_text(cut(text.as_bytes(), most), out),
        Value::Raw(bytes) => escape_text(cut(&bytes, most), out),
    }
}

/// A member of one operator keeps its type, as in Envoy's `json_format`; anything else is a text.
fn json_member(format: &Format, told: &Told<'_>, out: &mut Vec<u8>) {
    if let [Piece::Field(operator, most)] = format.pieces.as_slice() {
        let most = most.unwrap_or(usize::MAX);
        return match value(operator, told) {
            Value::Absent => out.extend_from_slice(b"null"),
            Value::Number(number) => number_text(number, out),
            Value::Safe(text) => json_text(cut(text.as_bytes(), most), out),
            Value::Raw(bytes) => json_text(cut(&bytes, most), out),
        };
    }
    let mut text = Vec::new();
    for piece in &format.pieces {
        text_piece(piece, told, &mut text);
    }
    json_text(&text, out);
}

fn cut(bytes: &[u8], most: usize) -> &[u8] {
    bytes.get(..most).unwrap_or(bytes)
}

fn number_text(number: u64, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    drop(write!(out, "{number}"));
}

fn escape_text(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            other => drop(write!(out, "\\x{other:02x}")),
        }
    }
}

fn json_text(bytes: &[u8], out: &mut Vec<u8>) {
    let before = out.len();
    if serde_json::to_writer(&mut *out, &String::from_utf8_lossy(bytes)).is_err() {
        out.truncate(before);
        out.extend_from_slice(b"null");
    }
}

fn value<'a>(operator: &Operator, told: &'a Told<'_>) -> Value<'a> {
    match operator {
        Operator::StartTime(format) => start_time(told.line.time, format.as_deref()),
        Operator::Request(header) => either(header, |name| request_header(told, name)),
        Operator::Response(header) => either(header, |name| response_header(told, name)),
        Operator::Trailer(header) => either(header, |name| header_value(told.trailers, name)),
        Operator::Reeve(fact) => of_reeve(*fact, &told.line),
        Operator::Plain(plain) => of_plain(*plain, told),
    }
}

fn either<'a>(header: &Header, of: impl Fn(&str) -> Value<'a>) -> Value<'a> {
    match (of(&header.name), &header.other) {
        (Value::Absent, Some(other)) => of(other),
        (found, _) => found,
    }
}

fn request_header<'a>(told: &'a Told<'_>, name: &str) -> Value<'a> {
    let line = &told.line;
    let text = |text: &'a str| match text {
        "" => Value::Absent,
        text => Value::Raw(text.as_bytes().into()),
    };
    match name {
        ":method" => text(line.method),
        ":authority" => text(line.authority),
        ":scheme" if line.protocol != "tcp" => Value::Safe("http".into()),
        // As it came, with its query.
        ":path" => match told.query {
            Some(query) => Value::Raw(
                [line.raw_path.as_bytes(), b"?", query.as_bytes()]
                    .concat()
                    .into(),
            ),
            None => text(line.raw_path),
        },
        name => header_value(told.request, name),
    }
}

fn response_header<'a>(told: &'a Told<'_>, name: &str) -> Value<'a> {
    match (name, header_value(told.response, name)) {
        (":status", _) if told.line.response_code > 0 => {
            Value::Number(told.line.response_code.into())
        }
        // Envoy adds it; here it is told and not sent.
        ("x-envoy-upstream-service-time", Value::Absent) => millis(told.response_ms),
        (_, found) => found,
    }
}

fn header_value<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Value<'a> {
    match headers.and_then(|headers| headers.get(name)) {
        Some(value) => Value::Raw(value.as_bytes().into()),
        None => Value::Absent,
    }
}

fn safe(text: Option<&str>) -> Value<'_> {
    match text {
        Some(text) if !text.is_empty() => Value::Safe(text.into()),
        _ => Value::Absent,
    }
}

fn owned<'a>(text: Option<String>) -> Value<'a> {
    text.map_or(Value::Absent, |text| Value::Safe(text.into()))
}

fn millis<'a>(time: Option<f64>) -> Value<'a> {
    time.map_or(Value::Absent, |ms| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float that is cast saturates"
        )]
        Value::Number(ms.max(0.0) as u64)
    })
}

fn of_reeve<'a>(fact: Fact, line: &'a Line<'_>) -> Value<'a> {
    match fact {
        Fact::DecisionId => safe(line.decision_id),
        Fact::Effect => safe(line.effect),
        Fact::Reason => safe(line.reason),
        Fact::Policies if line.policies.is_empty() => Value::Absent,
        Fact::Policies => {
            let all: Vec<String> = line.policies.iter().map(ToString::to_string).collect();
            Value::Safe(all.join(",").into())
        }
        Fact::Record => owned(line.record.map(ToString::to_string)),
        Fact::User => line
            .user
            .map_or(Value::Absent, |user| Value::Raw(user.as_bytes().into())),
        Fact::Service => safe(Some(line.service)),
        Fact::Direction => safe(Some(line.direction)),
    }
}

fn of_plain<'a>(plain: Plain, told: &'a Told<'_>) -> Value<'a> {
    let line = &told.line;
    let inbound = line.direction == "inbound";
    match plain {
        Plain::Protocol => safe(told.version),
        Plain::ResponseCode => Value::Number(line.response_code.into()),
        Plain::ResponseCodeDetails => safe(Some(told.details)),
        Plain::ResponseFlags => safe(Some(line.flags)),
        Plain::ResponseFlagsLong => owned(flags::long(line.flags)),
        Plain::ConnectionTerminationDetails => {
            let denied = line.protocol == "tcp" && line.effect == Some("deny");
            safe(line.reason.filter(|_| denied))
        }
        Plain::UpstreamTransportFailureReason => safe(told.failure),
        Plain::BytesReceived => Value::Number(line.bytes_received),
        Plain::BytesSent => Value::Number(line.bytes_sent),
        Plain::Duration => millis(Some(line.duration_ms)),
        Plain::ResponseDuration => millis(told.response_ms),
        Plain::ResponseTxDuration => millis(told.response_ms.map(|ms| line.duration_ms - ms)),
        Plain::UpstreamHost => safe(line.upstream),
        Plain::UpstreamCluster | Plain::UpstreamClusterRaw => owned(told.cluster()),
        Plain::UpstreamLocalAddress => Value::Absent,
        Plain::UpstreamRequestAttemptCount => Value::Number(line.attempts.into()),
        Plain::DownstreamRemoteAddress | Plain::DownstreamDirectRemoteAddress => {
            owned(told.remote())
        }
        Plain::DownstreamRemoteAddressWithoutPort
        | Plain::DownstreamDirectRemoteAddressWithoutPort => {
            owned(line.peer_address.map(|ip| ip.to_string()))
        }
        Plain::DownstreamLocalAddress => owned(told.local.map(|at| at.to_string())),
        Plain::DownstreamLocalAddressWithoutPort => owned(told.local.map(|at| at.ip().to_string())),
        Plain::DownstreamLocalPort => told
            .local
            .map_or(Value::Absent, |at| Value::Number(at.port().into())),
        Plain::DownstreamPeerUriSan => safe(Some(line.peer).filter(|_| inbound)),
        Plain::DownstreamLocalUriSan => safe(told.server.filter(|_| inbound)),
        Plain::UpstreamPeerUriSan => safe(told.server.filter(|_| !inbound)),
        Plain::RequestedServerName => told
            .server_name
            .map_or(Value::Absent, |name| Value::Raw(name.as_bytes().into())),
        Plain::RouteName => safe(line.route),
        Plain::GrpcStatus => {
            line.grpc_status
                .map_or(Value::Absent, |code| match flags::grpc(code) {
                    Some(name) => Value::Safe(name.into()),
                    None => Value::Number(code.into()),
                })
        }
        Plain::GrpcStatusNumber => line
            .grpc_status
            .map_or(Value::Absent, |code| Value::Number(code.into())),
        Plain::TraceId => safe(line.trace_id),
    }
}

fn start_time<'a>(time: UnixTime, format: Option<&str>) -> Value<'a> {
    let at = i64::try_from(time.as_millis())
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let Some(at) = at else {
        return Value::Absent;
    };
    let format = format.unwrap_or("%Y-%m-%dT%H:%M:%S.%3fZ");
    owned(jiff::fmt::strtime::format(format, &at.to_zoned(jiff::tz::TimeZone::UTC)).ok())
}

#[cfg(test)]
mod tests;
