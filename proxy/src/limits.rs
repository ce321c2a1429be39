//! Every bound on what a peer can make the proxy hold, in one place. Each is named after what it bounds.

use std::time::Duration;

/// Open connections per listener; more wait in the kernel's queue.
pub(crate) const MAX_CONNECTIONS_PER_LISTENER: usize = 16_384;
/// Connections per inbound listener that have not shown yet who speaks; beyond, the oldest of them is cut.
pub(crate) const MAX_UNPROVEN_PER_LISTENER: usize = 1024;
/// Plaintext connections per inbound listener; more are closed, so that there is room for peers of the mesh.
pub(crate) const MAX_STRANGERS_PER_LISTENER: usize = 12_288;
/// The kernel's queue of connections not yet accepted.
pub(crate) const LISTEN_BACKLOG: i32 = 1024;
/// Wait after a connection that could not be accepted (no descriptors); doubles up to `MAX_ACCEPT_BACKOFF`.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(10);
/// Longest wait before the next try.
pub(crate) const MAX_ACCEPT_BACKOFF: Duration = Duration::from_millis(500);
/// What peers can bring about is warned of once in so long, with the number of times: connections that cannot be accepted
/// (by all listeners together), decisions that cannot be recorded (by each worker).
pub(crate) const WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// Request streams at once on one HTTP/2 connection of a mesh peer, which carries many callers' requests.
pub(crate) const MAX_CONCURRENT_STREAMS: u32 = 1024;
/// Request streams at once on one plaintext HTTP/2 connection, which is one client's (Envoy's advice for edges).
pub(crate) const MAX_PLAINTEXT_STREAMS: u32 = 100;
/// Streams that a plaintext peer reset before they were served, per HTTP/2 connection; beyond, it ends (rapid reset).
pub(crate) const MAX_PENDING_RESETS: usize = 20;
/// The same for a mesh peer: when one of its callers goes, all that it asked for is reset at once, and the others'
/// requests on that connection must not go with it. Several times [`MAX_STREAMS_PER_LINK`].
pub(crate) const MAX_PENDING_RESETS_OF_PEER: usize = 1024;
/// Streams that the proxy had to reset for the peer's errors, per HTTP/2 connection; beyond, it ends.
pub(crate) const MAX_ERROR_RESETS: usize = 128;
/// Frames that do nothing (PING, SETTINGS, WINDOW_UPDATE and the like) that an HTTP/2 connection may send on top of what
/// its requests and data allow; beyond, it ends with GOAWAY.
pub(crate) const MAX_IDLE_FRAMES: u32 = 2000;
/// How many such frames a second adds.
pub(crate) const IDLE_FRAMES_PER_SECOND: u32 = 100;
/// Requests in flight through one proxy; more are answered 503 with the flag `UO`.
pub(crate) const MAX_REQUESTS_IN_FLIGHT: usize = 65_536;
/// Requests at the application at once from one connection; more are answered 429.
pub(crate) const MAX_REQUESTS_PER_CONNECTION: usize = 512;
/// Requests and relayed connections at the application at once from one caller – a workload by its identity, anybody else
/// by address; more requests are answered 429, more connections closed.
pub(crate) const MAX_REQUESTS_PER_CALLER: usize = 2048;
/// Requests at once that the proxy sends on one HTTP/2 connection; for more it opens another.
pub(crate) const MAX_STREAMS_PER_LINK: usize = 256;
/// Such connections to one endpoint, per worker; when all are full, requests wait there.
pub(crate) const MAX_LINKS_PER_ENDPOINT: usize = 16;
/// How long a request that was given up keeps its place on such a connection.
pub(crate) const RESET_PAUSE: Duration = Duration::from_millis(250);
/// How long a request waits for the disk to take its record (level `disk`); then it is denied.
pub(crate) const RECORD_TIMEOUT: Duration = Duration::from_secs(2);
/// A worker whose timers are this late for a whole window sheds requests (RFC 8033's reference delay).
pub(crate) const OVERLOAD_DELAY: Duration = Duration::from_millis(100);
/// How often a worker looks how late it is.
pub(crate) const OVERLOAD_TICK: Duration = Duration::from_millis(50);
/// Looks per window; the least lateness of them counts.
pub(crate) const OVERLOAD_TICKS_PER_WINDOW: u32 = 4;
/// The most that is ever refused: some requests show whether the overload is over.
pub(crate) const MAX_REFUSED_SHARE: f64 = 0.98;
/// Seconds that a refused caller is asked to wait (`Retry-After`).
pub(crate) const RETRY_AFTER_SECONDS: u16 = 1;
/// Requests that may always wait for the application, however few it has time for.
pub(crate) const MIN_APP_REQUESTS: usize = 16;
/// How long is looked whether callers give up before the application answers.
pub(crate) const APP_WINDOW: Duration = Duration::from_millis(500);
/// Callers that give up within that time, at least, if it is to mean anything.
pub(crate) const MIN_GIVEN_UP: u32 = 10;
/// Who waited for less than this, on an average, before giving up, had not waited.
pub(crate) const MIN_APP_WAIT: Duration = Duration::from_millis(100);
/// Who waited longer than this waited for something that takes long.
pub(crate) const APP_PATIENCE: Duration = Duration::from_secs(10);
/// Header fields of one request.
pub(crate) const MAX_HEADERS: usize = 128;
/// Bytes of one request's header list (names, values and 32 each, RFC 9113 section 6.5.2).
pub(crate) const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// Buffer for an HTTP/1.1 head; also its longest request line.
pub(crate) const MAX_HTTP1_BUFFER_BYTES: usize = 64 * 1024 + 1024;
/// Longest request target.
pub(crate) const MAX_PATH_BYTES: usize = 16 * 1024;
/// Longest name of a host (RFC 1035 section 2.3.4).
pub(crate) const MAX_HOST_BYTES: usize = 255;
/// Longest host that the challenge of a 401 repeats, with its port.
pub(crate) const MAX_REALM_BYTES: usize = 261;
/// Flow-control window of one HTTP/2 stream: what a body may hold in memory per hop.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Flow-control window of one HTTP/2 connection.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes that may be queued for sending per HTTP/2 stream.
pub(crate) const MAX_SEND_BUFFER_BYTES: usize = 256 * 1024;
/// From accept to a finished TLS handshake.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first bytes of a connection may take on a port where the server might speak first.
pub(crate) const DETECT_TIMEOUT: Duration = Duration::from_millis(500);
/// From the end of one HTTP/1.1 request to a complete head of the next.
pub(crate) const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// A ClientHello must fit in this.
pub(crate) const MAX_CLIENT_HELLO_BYTES: usize = 16 * 1024 + 5;
/// HTTP/2 keep-alive pings on mesh connections.
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long such a ping may go unanswered.
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle HTTP/1.1 connections kept per endpoint.
pub(crate) const MAX_IDLE_PER_ENDPOINT: usize = 256;
/// Requests at once to one mesh endpoint up to which each rides on an HTTP/1.1 connection of its own.
pub(crate) const MAX_HTTP1_LINKS: usize = 8;
/// How long an idle connection is kept.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Endpoints with connections kept at all.
pub(crate) const MAX_POOLS: usize = 4096;
/// Bound on connecting to the application itself.
pub(crate) const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bound on connecting to a captured destination that no service stands for (Istio's default for every cluster).
pub(crate) const PASSTHROUGH_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Mirrored requests under way at once from one proxy; more are not sent.
pub(crate) const MAX_MIRRORS: usize = 1024;
/// Frames of a body that may wait for a mirrored request; a mirror that takes them more slowly is given up.
pub(crate) const MAX_MIRROR_FRAMES: usize = 64;
/// Bytes of a body that may wait so.
pub(crate) const MAX_MIRROR_BYTES: usize = 1024 * 1024;
/// Longest life of a mirrored request.
pub(crate) const MIRROR_TIMEOUT: Duration = Duration::from_secs(30);
/// Most tries of one request, whatever its retry policy says.
pub(crate) const MAX_ATTEMPTS: u32 = 10;
/// Wait before the first retry, unless the route says otherwise; doubles up to [`RETRY_BACKOFF_GROWTH`] times as much
/// (Envoy's defaults).
pub(crate) const BASE_RETRY_BACKOFF: Duration = Duration::from_millis(25);
/// Longest wait before a retry, in waits before the first.
pub(crate) const RETRY_BACKOFF_GROWTH: u32 = 10;
/// Bytes of a request's body that are kept for another try, where the route asks for retries; of a longer one nothing is,
/// and it is tried once (Envoy's default buffer limit is as much).
pub(crate) const MAX_RETRY_BODY_BYTES: usize = 1024 * 1024;
/// Pieces that it may have come in.
pub(crate) const MAX_RETRY_BODY_PIECES: usize = 4096;
/// Bytes of a body that is held to be transformed, before and after; what is longer is refused, or passes as it is if
/// the transformation says so.
pub(crate) const MAX_TRANSFORM_BODY_BYTES: usize = 1024 * 1024;
/// Bytes of all such bodies together; beyond, requests are answered 503.
pub(crate) const MAX_TRANSFORM_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of such bodies that one caller – a workload by its identity, anybody else by address – may hold; beyond, its
/// requests are answered 429.
pub(crate) const MAX_TRANSFORM_BYTES_PER_CALLER: usize = 16 * 1024 * 1024;
/// A longer one is transformed on a thread of its own.
pub(crate) const MAX_TRANSFORM_INLINE_BYTES: usize = 64 * 1024;
/// Such threads at once; more bodies wait for one.
pub(crate) const MAX_TRANSFORM_THREADS: usize = 4;
/// How long such a body may take to come in.
pub(crate) const TRANSFORM_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Names in `x-envoy-retriable-header-names` that are looked at.
pub(crate) const MAX_RETRIABLE_HEADERS: usize = 16;
/// How often it is looked whether ejected endpoints may come back, at most.
pub(crate) const OUTLIER_TICK: Duration = Duration::from_millis(100);
/// How long an endpoint that another caller had taken out takes to get its whole share again.
pub(crate) const HEALING: Duration = Duration::from_secs(10);
/// How long it is told that a circuit breaker tripped.
pub(crate) const TRIP_MEMORY: Duration = Duration::from_secs(3);
/// Share of requests that a proxy fails at once while a breaker of one other workload is tripped, in thousandths.
pub(crate) const OVERRUN_SHARE: u32 = 250;
/// The same, however many workloads say so.
pub(crate) const MAX_OVERRUN_SHARE: u32 = 750;
/// Questions to one rate limit server at once; beyond, the limit counts as unknown.
pub(crate) const MAX_GLOBAL_LIMIT_QUESTIONS: usize = 1024;
/// Largest answer of a rate limit server.
pub(crate) const MAX_GLOBAL_LIMIT_ANSWER_BYTES: usize = 64 * 1024;
/// Headers that a rate limit server may add to a response.
pub(crate) const MAX_GLOBAL_LIMIT_HEADERS: usize = 16;
/// Questions to one provider of external authorization at once; beyond, there is no answer.
pub(crate) const MAX_EXTERNAL_QUESTIONS: usize = 1024;
/// Largest answer of such a provider.
pub(crate) const MAX_EXTERNAL_ANSWER_BYTES: usize = 64 * 1024;
/// Headers that such a provider may set, remove or have the caller told, each.
pub(crate) const MAX_EXTERNAL_HEADERS: usize = 64;
/// How long connecting to a rate limit server may take.
pub(crate) const GLOBAL_LIMIT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest value in what a rate limit server is asked; of a longer one the beginning counts.
pub(crate) const MAX_DESCRIPTOR_VALUE_BYTES: usize = 1024;
/// Callers that one rate limit tells apart; beyond, those who are new share one bucket.
pub(crate) const MAX_RATE_KEYS: usize = 16_384;
/// A connection starts to drain this long before its certificates end …
pub(crate) const DRAIN_BEFORE_EXPIRY: Duration = Duration::from_secs(30);
/// … or, for short-lived ones, when this part (1/n) of the rest of their life is left.
pub(crate) const DRAIN_FRACTION: u32 = 5;
/// Series per metric; beyond, the peers' labels are folded into `other`.
pub(crate) const MAX_SERIES: usize = 5000;
/// Lumps of access log lines waiting to be written; beyond, their lines are counted as dropped.
pub(crate) const ACCESS_LOG_QUEUE: usize = 64;
/// A worker hands its access log lines on when it has gathered this much.
pub(crate) const ACCESS_LOG_LUMP_BYTES: usize = 64 * 1024;
/// Access log lines and outcome records (at level `buffered` all records) wait no longer than this in their worker.
pub(crate) const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
/// Refusals of plaintext, and of unknown server names, that are recorded one by one per second, each; more are counted.
pub(crate) const REFUSALS_PER_SECOND: u32 = 5;
/// Refused requests of callers without an identity that are recorded one by one per second; more are counted.
pub(crate) const REFUSED_REQUESTS_PER_SECOND: u32 = 1000;
/// How often counted refusals are written down.
pub(crate) const AGGREGATE_INTERVAL: Duration = Duration::from_secs(5);
/// How often open streams are looked at for an expired token, a lapsed policy or a condition on the time that has flipped.
pub(crate) const EXPIRY_TICK: Duration = Duration::from_millis(250);
/// Snapshots that are held for the requests that began under them, so that none of those gives them back.
pub(crate) const MAX_RETIRED_SNAPSHOTS: usize = 64;
/// Bytes read at once below TLS; what TLS has not asked for of them is all that a connection keeps.
pub(crate) const READ_AHEAD_BYTES: usize = 32 * 1024;
/// Bytes of HTTP/2 frames that may wait to leave together.
pub(crate) const CORK_BYTES: usize = 64 * 1024;
/// Most bytes that wait in one direction of a relay, and what it reads at once.
pub(crate) const RELAY_BUFFER_BYTES: usize = 64 * 1024;
/// A relay (TCP, or an upgraded connection) through which nothing passed for this long, or at most twice, ends
/// (Envoy's `tcp_proxy.idle_timeout`).
pub(crate) const RELAY_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long a caller that sent `Expect: 100-continue` is left waiting for the upstream to say so (RFC 9110 section
/// 10.1.1: no longer than is reasonable, since the upstream may never).
pub(crate) const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
/// From `101 Switching Protocols` to both connections being switched.
pub(crate) const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// When an HTTP/1.1 connection is to end: how long its next request may take to come before it is closed unasked.
pub(crate) const LAST_REQUEST_GRACE: Duration = Duration::from_secs(1);
/// How long a connection that was answered before its request was read takes what is still on its way.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
/// Such connections at once; further ones are closed at once, and their clients may lose the answer.
pub(crate) const MAX_LINGERING: usize = 1024;
/// Live taps at once on one proxy.
pub(crate) const MAX_TAPS: usize = 8;
/// Requests that wait to be shown by one tap; beyond, they are counted and dropped.
pub(crate) const TAP_QUEUE: usize = 1024;
/// Bytes of one body that are kept for taps.
pub(crate) const MAX_TAP_BODY_BYTES: usize = 16 * 1024;
/// Requests at once whose bodies are kept for taps; of more, no bodies are shown.
pub(crate) const MAX_TAP_BODIES: usize = 256;
/// Bytes of one header's value that a tap shows.
pub(crate) const MAX_TAP_VALUE_BYTES: usize = 1024;
/// Break-glass grants in force at once on one proxy.
pub(crate) const MAX_BREAK_GLASS: usize = 8;
/// How often it is looked whether a break-glass grant has ended; its policy ends by itself, on time.
pub(crate) const BREAK_GLASS_TICK: Duration = Duration::from_millis(250);
/// How often a break-glass grant in force is logged again.
pub(crate) const BREAK_GLASS_SHOUT: Duration = Duration::from_secs(60);
/// The same of one that opens every namespace.
pub(crate) const BREAK_GLASS_MESH_SHOUT: Duration = Duration::from_secs(10);
/// Largest file of certificates or of a key for the outside.
pub(crate) const MAX_PEM_FILE_BYTES: u64 = 1024 * 1024;
/// How often such files are looked at.
pub(crate) const PEM_FILE_POLL: Duration = Duration::from_secs(1);
/// Names of endpoints that one proxy looks up.
pub(crate) const MAX_DNS_NAMES: usize = 1024;
/// Addresses of one name that are endpoints.
pub(crate) const MAX_DNS_ADDRESSES: usize = 64;
/// Names that are looked up at once.
pub(crate) const MAX_DNS_LOOKUPS: usize = 16;
/// An answer holds at least this long, whatever it says …
pub(crate) const MIN_DNS_TTL: Duration = Duration::from_secs(1);
/// … and at most this long.
pub(crate) const MAX_DNS_TTL: Duration = Duration::from_secs(300);
/// When a name that could not be looked up is asked for again; what was known of it stays.
pub(crate) const DNS_RETRY: Duration = Duration::from_secs(2);
/// How long one DNS server may take to answer.
pub(crate) const DNS_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked which names are due.
pub(crate) const DNS_TICK: Duration = Duration::from_millis(250);
/// How long a configuration waits for the names that it is the first to have.
pub(crate) const DNS_WARM_UP: Duration = Duration::from_secs(3);
/// Longest thing that a caller's proxy says of its workload before a connection of bytes.
pub(crate) const MAX_INTRODUCTION_BYTES: usize = 1024;
/// Longest PROXY protocol header before a connection to a gateway.
pub(crate) const MAX_PROXY_HEADER_BYTES: usize = 2048;
