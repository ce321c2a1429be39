//! An endpoint of the simulation: its application, which notes what it carries out before it answers.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{task::spawn_local, time::sleep};
use turmoil::net::TcpListener;

use super::super::mesh::{AnyBody, full};

/// What was carried out, across all endpoints and their crashes; and in what mood the endpoints are.
#[derive(Debug)]
pub(super) struct Ledger {
    done: RefCell<HashMap<usize, Vec<String>>>,
    pub(super) tries: RefCell<HashMap<usize, usize>>,
    rng: RefCell<StdRng>,
    pub(super) moody: RefCell<bool>,
}

impl Ledger {
    pub(super) fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            done: RefCell::default(),
            tries: RefCell::default(),
            rng: RefCell::new(StdRng::seed_from_u64(seed)),
            moody: RefCell::new(true),
        })
    }

    fn note(&self, id: usize, mark: String) {
        self.done.borrow_mut().entry(id).or_default().push(mark);
    }

    /// By whom it was carried out, each time.
    pub(super) fn done(&self, id: usize) -> Vec<String> {
        self.done.borrow().get(&id).cloned().unwrap_or_default()
    }

    fn mood(&self) -> Mood {
        if !*self.moody.borrow() {
            return Mood::default();
        }
        let mut rng = self.rng.borrow_mut();
        let mut millis = |most| Duration::from_millis(rng.random_range(0..most));
        let (before, after) = (millis(15), millis(15));
        let (refuses, dies, dawdles) = match rng.random_range(0..100) {
            0..6 => (true, false, false),
            6..12 => (false, true, false),
            12..17 => (false, false, true),
            _ => (false, false, false),
        };
        Mood {
            refuses,
            dies,
            before,
            after: match dawdles {
                true => Duration::from_millis(400),
                false => after,
            },
        }
    }
}

/// What an endpoint does with a request.
#[derive(Clone, Copy, Debug, Default)]
struct Mood {
    /// Answered 503, nothing done.
    refuses: bool,
    /// Carried out, and the connection closed without an answer.
    dies: bool,
    /// How long it takes before it acts, and from there to the answer.
    before: Duration,
    after: Duration,
}

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the application is gone")]
struct Gone;

/// Serves on this host until it crashes.
pub(super) async fn serve(name: String, at: (&str, u16), ledger: Rc<Ledger>) -> turmoil::Result {
    let listener = TcpListener::bind(at).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (name, ledger) = (name.clone(), ledger.clone());
        spawn_local(async move {
            let service = service_fn(move |request| {
                let (name, ledger) = (name.clone(), ledger.clone());
                async move { act(&name, request, &ledger).await }
            });
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A connection that broke is the other side's to notice.
            serving.await.unwrap_or_default();
        });
    }
}

async fn act(
    name: &str,
    request: Request<Incoming>,
    ledger: &Ledger,
) -> Result<Response<AnyBody>, Gone> {
    let id = request.headers()["x-id"].to_str().unwrap();
    let id: usize = id.parse().unwrap();
    let Ok(body) = request.into_body().collect().await else {
        return Err(Gone);
    };
    assert_eq!(body.to_bytes(), format!("pay {id}"), "whole, on every try");
    *ledger.tries.borrow_mut().entry(id).or_default() += 1;
    let mood = ledger.mood();
    sleep(mood.before).await;
    if mood.refuses {
        let mut refusal = Response::new(full(""));
        *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(refusal);
    }
    let mark = format!("{name} at {:?}", turmoil::sim_elapsed().unwrap_or_default());
    ledger.note(id, mark.clone());
    sleep(mood.after).await;
    match mood.dies {
        true => Err(Gone),
        false => Ok(Response::new(full(mark))),
    }
}
