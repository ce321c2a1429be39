//! Mirrored requests: copies that go to another destination as well, and whose answers nobody waits for.
//!
//! A copy has a head of its own, marked as shadow traffic, a permit of its own, and a bounded copy of the body. It can
//! neither delay nor change what the caller gets: where there is no room for it, it is dropped and counted.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{HeaderName, HeaderValue, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rand::Rng as _;
use reeve_core::model::{Destination, Mirror};
use tokio::time::timeout;

use crate::{
    body::{CopyBody, Upload},
    chance,
    cluster::{Cluster, Security},
    end::End,
    forward::Outgoing,
    head::Head,
    headers,
    judge::{Peer, Place, Question},
    life::dialect,
    limits::{MAX_MIRRORS, MIRROR_TIMEOUT},
    permit::{self, Changes, Permit},
    route::{CompiledRoute, RetryOn, without_port},
    shadow,
    snapshot::Snapshot,
    worker::Worker,
};

/// How many mirrored requests one proxy has under way.
#[derive(Debug, Default)]
pub(crate) struct Mirrors(AtomicUsize);

impl Mirrors {
    fn enter(self: &Arc<Self>) -> Option<UnderWay> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(self.clone());
        (before < MAX_MIRRORS).then_some(under_way)
    }
}

/// Counts a mirrored request while it lives.
#[derive(Debug)]
struct UnderWay(Arc<Mirrors>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request of which copies are made.
pub(crate) struct From<'a> {
    pub(crate) worker: &'a Arc<Worker>,
    pub(crate) snapshot: &'a Arc<Snapshot>,
    /// The proxy's own workload, which asks.
    pub(crate) peer: Peer,
    pub(crate) head: &'a Arc<Head>,
    pub(crate) changes: &'a Changes<'a>,
    pub(crate) route: &'a Arc<CompiledRoute>,
}

impl From<'_> {
    /// Sends the copies that the route asks for, if there is room for them.
    pub(crate) fn mirror(&self, upload: &Upload) {
        let mut rng = chance::rng();
        let mirrors = self
            .route
            .rule
            .mirrors
            .iter()
            .zip(&self.route.mirror_filters);
        let view = self.head.view();
        let mirrors = mirrors.filter(|(_, filter)| filter.holds(&view));
        let mut drawn = Vec::new();
        for (mirror, _) in mirrors.filter(|(m, _)| rng.random_range(0..1_000_000) < m.per_million) {
            match self.worker.proxy.mirrors.enter() {
                Some(under_way) => drawn.push((mirror, under_way)),
                None => {
                    self.worker.proxy.metrics.limit_hit("max_mirrors");
                    self.worker.proxy.metrics.mirrored("dropped");
                }
            }
        }
        if drawn.is_empty() {
            return;
        }
        let bodies = upload.copies(drawn.len());
        for ((mirror, under_way), body) in drawn.into_iter().zip(bodies) {
            match self.copy(mirror, body) {
                Some(copy) => drop(tokio::spawn(copy.send(under_way))),
                None => self.worker.proxy.metrics.mirrored("failed"),
            }
        }
    }

    /// The head as it goes upstream, marked; `None` if the destination is not there.
    fn copy(&self, mirror: &Mirror, body: CopyBody) -> Option<Copy> {
        let to = &mirror.to;
        let key = (to.service.clone(), to.subset.clone(), to.port);
        let cluster = self.snapshot.clusters.get(&key)?.clone();
        let mut head = (**self.head).clone();
        let edits = [self.changes.first_edits, self.changes.edits];
        for edits in edits.into_iter().flatten() {
            edits.apply(&mut head.headers);
        }
        head.headers.remove(header::EXPECT);
        for name in &mirror.remove_headers {
            head.headers.remove(name);
        }
        shadow::mark(&mut head.headers);
        if let Some(path) = self.changes.path {
            path.clone_into(&mut head.path);
        }
        let authority = self.changes.authority.unwrap_or(&head.authority);
        head.authority = shadow_authority(authority);
        let own = self.snapshot.own_header.clone();
        Some(Copy {
            worker: self.worker.clone(),
            snapshot: self.snapshot.clone(),
            own: own.filter(|_| cluster.is_meshed),
            cluster,
            peer: self.peer.clone(),
            head: Arc::new(head),
            to: to.clone(),
            body,
        })
    }
}

/// Envoy's: `-shadow` behind the host, so that logs tell copies from originals.
fn shadow_authority(authority: &str) -> String {
    let host = without_port(authority);
    let port = authority.strip_prefix(host).unwrap_or_default();
    format!("{host}-shadow{port}")
}

struct Copy {
    worker: Arc<Worker>,
    snapshot: Arc<Snapshot>,
    cluster: Arc<Cluster>,
    own: Option<HeaderValue>,
    peer: Peer,
    head: Arc<Head>,
    to: Destination,
    body: CopyBody,
}

impl Copy {
    async fn send(self, _under_way: UnderWay) {
        let (proxy, patience) = (self.worker.proxy.clone(), MIRROR_TIMEOUT);
        let result = timeout(patience, self.exchange()).await;
        let result = result.unwrap_or("failed");
        proxy.metrics.mirrored(result);
    }

    /// What came of it.
    async fn exchange(self) -> &'static str {
        let Ok(plain) = self.judge_outside().await else {
            return "denied";
        };
        let lost = self.body.lost();
        let upload = Upload::new(self.body, Arc::default(), End::default());
        let dialect = dialect(self.cluster.protocol, &self.head);
        let peer = |value| -> (HeaderName, HeaderValue) { (headers::PEER, value) };
        let sent = Outgoing {
            cluster: &self.cluster,
            permit: &Permit::for_mesh_hop(self.head),
            plain: plain.as_ref(),
            changes: &Changes {
                header: self.own.map(peer),
                ..Changes::default()
            },
            upload: &upload,
            retry: &RetryOn::default(),
            dialect,
            hash: None,
            original: None,
        }
        .send_copy(&self.worker)
        .await;
        let Some((response, lease)) = sent else {
            if lost.happened() {
                self.worker.proxy.metrics.limit_hit("max_mirror_frames");
                return "dropped";
            }
            return "failed";
        };
        if read(response.into_body()).await
            && let Some(lease) = lease
        {
            lease.give_back();
        }
        "answered"
    }

    /// Where an endpoint has no proxy that judges, this one does: a copy is a request of its own.
    async fn judge_outside(&self) -> Result<Option<Permit<permit::Recorded>>, permit::Refused> {
        let mut hops = self.cluster.hops.iter();
        if hops.all(|hop| hop.security != Security::Plain) {
            return Ok(None);
        }
        let question = Question {
            peer: self.peer.clone(),
            place: Arc::new(Place::outside_service(&self.cluster.service, self.to.port)),
            user: None,
            head: Some(self.head.clone()),
            transformed: None,
            said: None,
        };
        let ledger = &self.worker.ledger;
        let now = ledger.now();
        let permit = permit::permit_request(&question, &self.head, &self.snapshot, ledger, now);
        permit.await.map(Some)
    }
}

/// Reads an answer, and keeps nothing of it; whether it came to its end.
async fn read(mut body: Incoming) -> bool {
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return false;
        }
    }
    true
}
