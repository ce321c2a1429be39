//! Forged at ingestion: a member with a certificate of its own sends the log what is not its, what is altered, what it has
//! already, and a chain that does not go on. What can be told at the door is refused there; the rest `verify` names.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use reeve_tests::{Folder, Mesh, MeshTls, eventually, local_mesh};
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, client, transport::Endpoint};
use tonic_prost::ProstCodec;

use crate::{
    fixture::settings,
    interop::{result_of, script},
};

const LIMIT: Duration = Duration::from_secs(60);

/// The messages of `reeve.audit.v1`.
#[derive(Clone, PartialEq, prost::Message)]
struct Hello {
    #[prost(string, tag = "1")]
    proxy: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Batch {
    #[prost(bytes = "vec", tag = "1")]
    header: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    chain_der: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    records: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Sent {
    #[prost(message, tag = "1")]
    Hello(Hello),
    #[prost(message, tag = "2")]
    Batch(Batch),
}

#[derive(Clone, PartialEq, prost::Message)]
struct ShipRequest {
    #[prost(oneof = "Sent", tags = "1, 2")]
    kind: Option<Sent>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Position {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    batch: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "4")]
    header_hash: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Refused {
    #[prost(string, tag = "1")]
    reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Positions {
    #[prost(map = "uint32, message", tag = "1")]
    workers: std::collections::HashMap<u32, Position>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Answered {
    #[prost(message, tag = "1")]
    Position(Position),
    #[prost(message, tag = "2")]
    Refused(Refused),
    #[prost(message, tag = "3")]
    Positions(Positions),
}

#[derive(Clone, PartialEq, prost::Message)]
struct ShipResponse {
    #[prost(oneof = "Answered", tags = "1, 2, 3")]
    kind: Option<Answered>,
}

/// Connects by the mesh's TLS.
#[derive(Clone)]
struct Dial(SocketAddr, Arc<MeshTls>);

impl tower_service::Service<http::Uri> for Dial {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = anyhow::Error;
    type Future = Pin<Box<dyn Future<Output = anyhow::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Self(address, tls) = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(TokioIo::new(tls.connect(stream, b"h2").await?))
        })
    }
}

/// A stream to the log.
struct Stream {
    requests: mpsc::Sender<ShipRequest>,
    answers: Streaming<ShipResponse>,
}

impl Stream {
    /// Says hello in the name of `proxy`; the positions that the log has.
    async fn open(mesh: &Mesh, tls: &MeshTls, proxy: &str) -> Result<(Self, Positions), Status> {
        let dial = Dial(mesh.grpc(), Arc::new(tls.clone()));
        let endpoint = Endpoint::from_static("http://mesh.invalid").timeout(LIMIT);
        let channel = endpoint.connect_with_connector(dial).await;
        let channel = channel.map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let (requests, outgoing) = mpsc::channel(4);
        let hello = Sent::Hello(Hello {
            proxy: proxy.to_owned(),
        });
        let first = ShipRequest { kind: Some(hello) };
        requests.send(first).await.expect("a reader");
        let mut grpc = client::Grpc::new(channel);
        grpc.ready().await.expect("a connection");
        let path = PathAndQuery::from_static("/reeve.audit.v1.Ingest/Ship");
        let codec = ProstCodec::<ShipRequest, ShipResponse>::default();
        let request = tonic::Request::new(ReceiverStream::new(outgoing));
        let answers = grpc.streaming(request, path, codec).await?.into_inner();
        let mut stream = Self { requests, answers };
        match stream.answer().await? {
            Answered::Positions(positions) => Ok((stream, positions)),
            other => panic!("no positions: {other:?}"),
        }
    }

    async fn answer(&mut self) -> Result<Answered, Status> {
        let message = self.answers.message().await?;
        let message = message.ok_or_else(|| Status::unavailable("it ended"))?;
        Ok(message.kind.expect("an answer"))
    }

    async fn send(&mut self, batch: &Batch) -> Result<Answered, Status> {
        let kind = Some(Sent::Batch(batch.clone()));
        self.requests
            .send(ShipRequest { kind })
            .await
            .expect("a reader");
        self.answer().await
    }

    async fn refused(&mut self, batch: &Batch, what: &str) {
        match self.send(batch).await {
            Ok(Answered::Refused(Refused { reason })) => {
                assert!(reason.contains(what), "{what}: {reason}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

/// Who has a certificate, and signs with its key.
struct Member {
    tls: MeshTls,
    key: EcdsaKeyPair,
    chain: Vec<Vec<u8>>,
}

impl Member {
    fn new(svid: &Value) -> Self {
        let der = |value: &Value| BASE64_STANDARD.decode(value.as_str().expect("base64"));
        let key = der(&svid["key"]).expect("base64");
        let chain = svid["chain"].as_array().expect("a chain");
        Self {
            tls: MeshTls::from_json(svid),
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key).expect("a key"),
            chain: chain.iter().map(|cert| der(cert).expect("DER")).collect(),
        }
    }

    /// A batch of one record of `proxy`, the first of its epoch, signed as it should be.
    fn batch(&self, proxy: &str, epoch: u64) -> Batch {
        let record = json!({
            "detail": {"version": "0.1.0"}, "event": "started", "id": format!("{proxy}/{epoch}/0/1"),
            "kind": "event", "schema": "reeve.audit/v1", "time": 1_700_000_000_000_u64,
        });
        let record = record.to_string().into_bytes();
        let leaf = sha256(&[&[0], record.as_slice()].concat());
        let hashes: Vec<u8> = self.chain.iter().flat_map(|der| sha256(der)).collect();
        let mut header: BTreeMap<&str, Value> = BTreeMap::new();
        for (name, value) in [
            ("schema", json!("reeve.batch/v1")),
            ("proxy", json!(proxy)),
            ("epoch", json!(epoch)),
            ("batch", json!(1)),
            ("sequences", json!({"0": [1, 1]})),
            ("count", json!(1)),
            ("root", json!(hex(&leaf))),
            ("chain", json!(hex(&[7; 32]))),
            ("link", Value::Null),
            ("previous", json!(hex(&[0; 32]))),
            ("signer", json!(hex(&sha256(&hashes)))),
            ("time", json!(now_ms())),
        ] {
            header.insert(name, value);
        }
        let text = serde_json::to_string(&header).expect("JSON");
        let message = format!("reeve.batch/v1 signature\n{text}");
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes());
        let signature = BASE64_STANDARD.encode(signature.expect("a signature"));
        header.insert("signature", json!(signature));
        Batch {
            header: serde_json::to_vec(&header).expect("JSON"),
            chain_der: self.chain.clone(),
            records: vec![record],
        }
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now_ms() -> u64 {
    rustls_pki_types::UnixTime::now().as_secs() * 1000
}

/// The batches of a proxy that the log holds, in their order.
fn held(audit: &Path, proxy: &str) -> Vec<Batch> {
    let mut found = Vec::new();
    for file in files(&audit.join("batches")) {
        let text = fs::read_to_string(&file).expect("a batch");
        let mut lines = text.lines();
        let header = lines.next().expect("a header");
        let parsed: Value = serde_json::from_str(header).expect("JSON");
        if parsed["proxy"] != proxy {
            continue;
        }
        let chain: Value = serde_json::from_str(lines.next().expect("a chain")).expect("JSON");
        let chain = chain["certificates"].as_array().expect("certificates");
        let der = |cert: &Value| BASE64_STANDARD.decode(cert.as_str().expect("base64"));
        let at = (parsed["epoch"].as_u64(), parsed["batch"].as_u64());
        let batch = Batch {
            header: header.as_bytes().to_vec(),
            chain_der: chain.iter().map(|cert| der(cert).expect("DER")).collect(),
            records: lines.map(|line| line.as_bytes().to_vec()).collect(),
        };
        found.push((at, batch));
    }
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, batch)| batch).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forged_at_ingestion_is_refused_or_named() {
    let result = std::env::temp_dir().join(format!("rv-{}-forger-svid.json", std::process::id()));
    drop(fs::remove_file(&result));
    let workloads = [
        reeve_tests::sidecar("client"),
        script("holder", "hold_svid.py", &result),
    ];
    let folder = Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("hold_svid.py", include_str!("peers/hold_svid.py"))
        .with("workloads.yaml", local_mesh(&workloads));
    let mesh = Mesh::start(folder).await;
    let member = Member::new(&result_of(&result).await);
    let audit = mesh.state.join("audit");

    // Without a certificate, and in another's name.
    let nobody = Stream::open(&mesh, &MeshTls::nobody(), "holder-0").await;
    assert!(nobody.is_err(), "a stream without a certificate");
    let other = Stream::open(&mesh, &member.tls, "client-0").await;
    let code = other.err().map(|status| status.code());
    assert_eq!(code, Some(Code::PermissionDenied), "in another's name");

    // In its own name: another's batch, one that was altered, and one whose signature is not over it.
    let (mut stream, _) = Stream::open(&mesh, &member.tls, "holder-0")
        .await
        .expect("its own");
    let epoch = now_ms() + 1_000_000;
    stream
        .refused(&member.batch("client-0", epoch), "the batch is of client-0")
        .await;
    let mut altered = member.batch("holder-0", epoch);
    altered.records[0].push(b' ');
    stream
        .refused(&altered, "do not hash to the header's root")
        .await;
    let mut unsigned = member.batch("holder-0", epoch);
    let text = String::from_utf8(unsigned.header).expect("UTF-8");
    unsigned.header = text.replace("\"batch\":1", "\"batch\":2").into_bytes();
    stream.refused(&unsigned, "the signature").await;

    // What the log has already changes nothing, in whatever order it comes.
    let own = eventually("the log has batches of holder-0", LIMIT, async || {
        let own = held(&audit, "holder-0");
        (!own.is_empty())
            .then_some(own)
            .ok_or_else(|| "none".to_owned())
    })
    .await;
    crate::tamper::at_rest(&audit.join("checkpoint")).await;
    let before = mesh.status().await.expect("a status")["audit"]["tree_size"].clone();
    for batch in own.iter().rev().chain(&own) {
        let answer = stream.send(batch).await;
        assert!(matches!(answer, Ok(Answered::Position(_))), "{answer:?}");
    }
    let after = mesh.status().await.expect("a status")["audit"]["tree_size"].clone();
    assert_eq!(before, after, "a duplicate was taken");
    mesh.verify_audit().await;

    // Signed by the right key, for its own proxy, and with a chain that goes on from nothing: it is taken, and named.
    let broken = member.batch("holder-0", epoch);
    let taken = stream.send(&broken).await;
    assert!(matches!(taken, Ok(Answered::Position(_))), "{taken:?}");
    let verified = mesh.reeve(&["audit", "verify"]).await;
    assert_eq!(verified.code, Some(1), "{}", verified.text());
    let name = hex(&sha256(&[&[0], broken.header.as_slice()].concat()));
    for what in [
        format!("{name}.jsonl (holder-0): epoch {epoch} does not link to a record before it"),
        format!("{name}.jsonl: the hash chain through its records does not end as its header says"),
    ] {
        assert!(
            verified.text().contains(&what),
            "{what}: {}",
            verified.text()
        );
    }
}
