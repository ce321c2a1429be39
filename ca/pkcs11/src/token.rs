//! A token behind a thread of its own: modules are not made for many threads, and may hang.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    time::Duration,
};

use reeve_ca::{KeyName, KeyVault, SIGNATURE_BYTES, VaultError, VaultKey, VaultName};
use zeroize::Zeroizing;

use crate::{
    TokenAddress,
    session::{Open, away},
};

/// How long the token may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Calls that wait for the token; the authority makes one at a time.
const MAX_WAITING: usize = 8;

/// A token that makes and keeps the authority's keys.
#[derive(Clone)]
pub struct Token {
    address: Arc<TokenAddress>,
    line: Arc<Line>,
}

struct Line {
    jobs: SyncSender<Job>,
    /// Whether a call has not been answered in time, and still is not: nobody else waits for it.
    hangs: Arc<AtomicBool>,
}

/// What is done in the module.
type Job = Box<dyn FnOnce(&mut Module) + Send>;

/// What the thread has of the module.
#[derive(Default)]
struct Module {
    session: Option<Open>,
    /// The PIN that the token refused: it is not tried again, or the token would lock itself.
    refused: Option<Zeroizing<String>>,
}

/// A key in the token.
struct TokenKey {
    token: Token,
    id: String,
    point: Vec<u8>,
}

impl Token {
    /// A token. It is asked for the first time when it is needed, and may be away until then.
    pub fn new(address: TokenAddress) -> std::io::Result<Self> {
        let (jobs, to_do) = mpsc::sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new().name("pkcs11".to_owned());
        thread.spawn(move || work(&to_do))?;
        Ok(Self {
            address: Arc::new(address),
            line: Arc::new(Line {
                jobs,
                hangs: Arc::default(),
            }),
        })
    }

    /// Has the token's thread do something, and waits for it, but not for ever. After a failure of any kind the next call
    /// begins with a new session.
    fn ask<T: Send + 'static>(
        &self,
        act: impl Fn(&mut Open) -> Result<T, VaultError> + Send + 'static,
    ) -> Result<T, VaultError> {
        let late = || {
            away(
                &self.address,
                format!("no answer within {} s", ANSWER.as_secs()),
            )
        };
        if self.line.hangs.load(Ordering::Acquire) {
            return Err(late());
        }
        let (answer, answered) = mpsc::sync_channel(1);
        let (address, hangs) = (Arc::clone(&self.address), Arc::clone(&self.line.hangs));
        let job = Box::new(move |module: &mut Module| {
            drop(answer.send(module.attempt(&address, &act)));
            hangs.store(false, Ordering::Release);
        });
        let sent = self.line.jobs.try_send(job);
        sent.map_err(|error| match error {
            TrySendError::Full(_) => late(),
            TrySendError::Disconnected(_) => away(&self.address, "its thread has ended".to_owned()),
        })?;
        answered.recv_timeout(ANSWER).unwrap_or_else(|_| {
            self.line.hangs.store(true, Ordering::Release);
            // It may have been answered just now, and the flag be down before it was up.
            let answer = answered.try_recv();
            if answer.is_ok() {
                self.line.hangs.store(false, Ordering::Release);
            }
            answer.unwrap_or_else(|_| Err(late()))
        })
    }

    fn key(&self, name: &KeyName) -> Result<TokenKey, VaultError> {
        let point = hex::decode(&name.public_key).map_err(|_| VaultError::NoSuchKey {
            vault: self.address.to_string(),
            id: name.id.clone(),
        })?;
        Ok(TokenKey {
            token: self.clone(),
            id: name.id.clone(),
            point,
        })
    }
}

impl Module {
    /// Once, and once more with a new session if the old one has gone stale: the token may have been away meanwhile.
    fn attempt<T>(
        &mut self,
        address: &TokenAddress,
        act: &impl Fn(&mut Open) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        if let Some(open) = &mut self.session {
            match act(open) {
                Err(VaultError::Away { .. } | VaultError::NoSuchKey { .. }) => self.session = None,
                done => return done,
            }
        }
        let mut open = Open::new(address, &mut self.refused)?;
        let done = act(&mut open);
        if !matches!(done, Err(VaultError::Away { .. })) {
            self.session = Some(open);
        }
        done
    }
}

fn work(jobs: &Receiver<Job>) {
    let mut module = Module::default();
    while let Ok(job) = jobs.recv() {
        job(&mut module);
    }
}

impl KeyVault for Token {
    fn describe(&self) -> VaultName {
        VaultName {
            kind: "pkcs11",
            name: self.address.to_string(),
        }
    }

    fn make(&self) -> Result<(KeyName, Arc<dyn VaultKey>), VaultError> {
        let (name, point) = self.ask(Open::make)?;
        let key = TokenKey {
            token: self.clone(),
            id: name.id.clone(),
            point: point.to_vec(),
        };
        Ok((name, Arc::new(key)))
    }

    fn find(&self, name: &KeyName) -> Result<Arc<dyn VaultKey>, VaultError> {
        Ok(Arc::new(self.key(name)?))
    }

    fn destroy(&self, name: &KeyName) -> Result<(), VaultError> {
        let id = name.id.clone();
        self.ask(move |open| open.destroy(&id))
    }
}

impl VaultKey for TokenKey {
    fn public_key(&self) -> &[u8] {
        &self.point
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], VaultError> {
        let (id, message) = (self.id.clone(), message.to_vec());
        self.token.ask(move |open| open.sign(&id, &message))
    }

    fn check(&self) -> Result<(), VaultError> {
        let id = self.id.clone();
        self.token.ask(move |open| open.check(&id))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Token").field(&self.address).finish()
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
