//! The audit log's store in a bucket: S3 and what speaks it, through the crate `object_store`.
//!
//! Flow: [`BucketUrl`] says where, the environment or a credentials file who asks, and [`Bucket`] is a
//! [`reeve_audit::store::Store`] whose calls block: their requests run on a thread of its own.
//!
//! Invariants:
//! - An object is created with `If-None-Match` and replaced with `If-Match`: a bucket that ignores either is refused.
//! - Every request ends within [`REQUEST_TIMEOUT`], every call within [`CALL_TIMEOUT`]; so many objects travel at once as
//!   [`OBJECTS_AT_ONCE`] says, and no more than that is in memory.
//! - Credentials are in no log line and no error.

mod credentials;
#[cfg(test)]
#[expect(dead_code, reason = "the end-to-end tests use the rest of it")]
mod server;
#[cfg(test)]
mod tests;
mod url;

use std::{
    fmt,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig, UpdateVersion,
    WriteMultipart,
    aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut},
    path::Path as Key,
};
use reeve_audit::store::{Listed, MAX_OBJECT_BYTES, Object, Store, StoreError, Tag};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{Builder, Runtime},
};

pub use self::{
    credentials::{Credentials, CredentialsError},
    url::{BucketUrl, UrlError},
};

/// One request, its answer included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A call with all its attempts at one object; when this is over no further attempt is made.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Attempts after the first.
const RETRIES: usize = 4;
/// Objects of one call that travel at once.
pub const OBJECTS_AT_ONCE: usize = 16;
/// Files longer than this are sent in parts of it.
const PART_BYTES: usize = 8 << 20;
/// Parts that travel at once.
const PARTS_AT_ONCE: usize = 2;

/// A bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The address is none.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The client cannot be made of it.
    #[error("the bucket {url} cannot be used")]
    Client {
        /// Which.
        url: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// The thread that makes the requests cannot be started.
    #[error("no thread for the requests to a bucket")]
    Thread(#[source] std::io::Error),
}

/// A place in a bucket.
pub struct Bucket {
    url: BucketUrl,
    store: Arc<AmazonS3>,
    runtime: Option<Runtime>,
}

impl Bucket {
    /// With credentials from the environment, as AWS's own tools take them: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_SESSION_TOKEN`, or a profile of `AWS_SHARED_CREDENTIALS_FILE`, or a web identity, or the machine's role.
    pub fn from_environment(url: BucketUrl) -> Result<Self, BucketError> {
        let given = Credentials::from_environment()?;
        Self::build(AmazonS3Builder::from_env(), url, given)
    }

    /// With these credentials.
    pub fn new(url: BucketUrl, credentials: Credentials) -> Result<Self, BucketError> {
        Self::build(AmazonS3Builder::new(), url, Some(credentials))
    }

    fn build(
        mut builder: AmazonS3Builder,
        url: BucketUrl,
        credentials: Option<Credentials>,
    ) -> Result<Self, BucketError> {
        if let Some(credentials) = credentials {
            builder = credentials.give_to(builder);
        }
        if let Some(endpoint) = url.endpoint() {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = url.region() {
            builder = builder.with_region(region);
        }
        let client = ClientOptions::new()
            .with_timeout(REQUEST_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(url.is_on_this_machine());
        let retry = RetryConfig {
            max_retries: RETRIES,
            retry_timeout: CALL_TIMEOUT,
            ..RetryConfig::default()
        };
        let store = builder
            .with_bucket_name(url.bucket())
            .with_client_options(client)
            .with_retry(retry)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .build()
            .map_err(|source| BucketError::Client {
                url: url.to_string(),
                source,
            })?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("bucket")
            .enable_all()
            .build()
            .map_err(BucketError::Thread)?;
        Ok(Self {
            url,
            store: Arc::new(store),
            runtime: Some(runtime),
        })
    }

    /// Where it is.
    pub fn url(&self) -> &BucketUrl {
        &self.url
    }

    fn key(&self, name: &str) -> Key {
        Key::from(format!("{}{name}", self.url.prefix()))
    }

    /// Runs `work` on the bucket's own thread, so that callers may be in a runtime or in none.
    fn run<T, F>(&self, name: &str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let ended = || StoreError::failed(name, "the bucket's thread has ended");
        let runtime = self.runtime.as_ref().ok_or_else(ended)?;
        let (answer, answered) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            // Nobody listens when the caller has gone.
            drop(answer.send(work.await));
        });
        answered.recv().map_err(|_gone| ended())?
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Store for Bucket {
    fn get(&self, name: &str) -> Result<Option<Object>, StoreError> {
        let (store, key, named) = (Arc::clone(&self.store), self.key(name), name.to_owned());
        self.run(name, async move { get(&store, &key, named).await })
    }

    fn create_all(&self, objects: &[(String, Vec<u8>)]) -> Result<Vec<String>, StoreError> {
        let puts: Vec<_> = (objects.iter())
            .map(|(name, bytes)| {
                let store = Arc::clone(&self.store);
                let (key, name, payload) = (self.key(name), name.clone(), bytes.clone());
                async move {
                    match put(&store, &key, payload, PutMode::Create).await {
                        Ok(_) => Ok(None),
                        Err(object_store::Error::AlreadyExists { .. }) => Ok(Some(name)),
                        Err(error) => Err(StoreError::failed(&name, error)),
                    }
                }
            })
            .collect();
        let first = objects.first().map_or("", |(name, _)| name);
        self.run(first, async move {
            let mut there = Vec::new();
            let mut puts = stream::iter(puts).buffer_unordered(OBJECTS_AT_ONCE);
            while let Some(was_there) = puts.try_next().await? {
                there.extend(was_there);
            }
            Ok(there)
        })
    }

    fn replace(&self, name: &str, bytes: &[u8], seen: Option<&Tag>) -> Result<Tag, StoreError> {
        let (store, key, named) = (Arc::clone(&self.store), self.key(name), name.to_owned());
        let bytes = bytes.to_vec();
        let mode = match seen {
            Some(Tag(tag)) => PutMode::Update(UpdateVersion {
                e_tag: Some(tag.clone()),
                version: None,
            }),
            None => PutMode::Create,
        };
        self.run(name, async move {
            use object_store::Error::{AlreadyExists, NotFound, Precondition};
            match put(&store, &key, bytes, mode).await {
                Ok(tag) => tag.ok_or_else(|| no_tag(&named)),
                Err(AlreadyExists { .. } | Precondition { .. } | NotFound { .. }) => {
                    Err(StoreError::Changed { name: named })
                }
                Err(error) => Err(StoreError::failed(&named, error)),
            }
        })
    }

    fn upload(&self, name: &str, from: &Path) -> Result<(), StoreError> {
        let (store, key, named) = (Arc::clone(&self.store), self.key(name), name.to_owned());
        let from = from.to_owned();
        self.run(name, async move {
            let done = upload(&store, &key, &from).await;
            done.map_err(|error| StoreError::failed(&named, error))
        })
    }

    fn download(&self, name: &str, to: &Path) -> Result<(), StoreError> {
        let (store, key, named) = (Arc::clone(&self.store), self.key(name), name.to_owned());
        let to = to.to_owned();
        self.run(name, async move {
            let done = download(&store, &key, &to).await;
            done.map_err(|error| StoreError::failed(&named, error))
        })
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        let ours = self.url.prefix().to_owned();
        let under = match format!("{ours}{prefix}").trim_end_matches('/') {
            "" => None,
            under => Some(Key::from(under)),
        };
        let (store, named) = (Arc::clone(&self.store), prefix.to_owned());
        // A page of names at a time is on its way.
        let (pages, listed) = mpsc::sync_channel::<Vec<Listed>>(1);
        let asked = prefix.to_owned();
        let runtime = self.runtime.as_ref();
        let runtime = runtime.ok_or_else(|| StoreError::failed(prefix, "it is closed"))?;
        let listing = runtime.spawn(async move {
            let mut objects = store.list(under.as_ref()).chunks(LISTED_AT_ONCE);
            while let Some(page) = objects.next().await {
                let page = page.into_iter().map(|object| {
                    let object = object.map_err(|e| StoreError::failed(&asked, e))?;
                    let name = object.location.as_ref().strip_prefix(&ours);
                    let name = name.unwrap_or_default().to_owned();
                    Ok(Listed {
                        bytes: object.size,
                        tag: object.e_tag.map(Tag),
                        name,
                    })
                });
                let page = page.collect::<Result<Vec<_>, StoreError>>()?;
                let room = tokio::task::block_in_place(|| pages.send(page));
                if room.is_err() {
                    break;
                }
            }
            Ok(())
        });
        for page in &listed {
            page.into_iter().for_each(&mut *each);
        }
        self.run(&named.clone(), async move {
            let done = listing.await;
            done.map_err(|error| StoreError::failed(&named, error))?
        })
    }

    fn delete_all(&self, names: &[String]) -> Result<(), StoreError> {
        let keys: Vec<_> = names.iter().map(|name| Ok(self.key(name))).collect();
        let first = names.first().cloned().unwrap_or_default();
        let store = Arc::clone(&self.store);
        self.run(&first.clone(), async move {
            let mut deleted = store.delete_stream(stream::iter(keys).boxed());
            while let Some(key) = deleted.next().await {
                match key {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(StoreError::failed(&first, error)),
                }
            }
            Ok(())
        })
    }
}

/// Names of a listing that are handed on together.
const LISTED_AT_ONCE: usize = 1000;

async fn get(store: &AmazonS3, key: &Key, name: String) -> Result<Option<Object>, StoreError> {
    let failed = |error| StoreError::failed(&name, error);
    let got = match store.get(key).await {
        Ok(got) => got,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let tag = got.meta.e_tag.clone().ok_or_else(|| no_tag(&name))?;
    let mut bytes = Vec::new();
    let mut chunks = got.into_stream();
    while let Some(chunk) = chunks.try_next().await.map_err(failed)? {
        if bytes.len() + chunk.len() > MAX_OBJECT_BYTES {
            return Err(StoreError::TooLong { name });
        }
        bytes.extend_from_slice(&chunk);
    }
    let tag = Tag(tag);
    Ok(Some(Object { bytes, tag }))
}

async fn put(
    store: &AmazonS3,
    key: &Key,
    bytes: Vec<u8>,
    mode: PutMode,
) -> Result<Option<Tag>, object_store::Error> {
    let put = store
        .put_opts(key, PutPayload::from(bytes), mode.into())
        .await?;
    Ok(put.e_tag.map(Tag))
}

async fn upload(
    store: &AmazonS3,
    key: &Key,
    from: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut file = tokio::fs::File::open(from).await?;
    let mut part = vec![0; PART_BYTES];
    let mut filled = fill(&mut file, &mut part).await?;
    if filled < PART_BYTES {
        part.truncate(filled);
        put(store, key, part, PutMode::Overwrite).await?;
        return Ok(());
    }
    let parts = store.put_multipart(key).await?;
    let mut parts = WriteMultipart::new_with_chunk_size(parts, PART_BYTES);
    while filled > 0 {
        parts.wait_for_capacity(PARTS_AT_ONCE).await?;
        parts.write(part.get(..filled).unwrap_or_default());
        filled = fill(&mut file, &mut part).await?;
    }
    parts.finish().await?;
    Ok(())
}

/// Reads until `part` is full or the file ends.
async fn fill(file: &mut tokio::fs::File, part: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = part.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest).await? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

async fn download(
    store: &AmazonS3,
    key: &Key,
    to: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut chunks = store.get(key).await?.into_stream();
    let mut file = tokio::fs::File::create(to).await?;
    while let Some(chunk) = chunks.try_next().await? {
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    Ok(())
}

/// Without versions nobody could tell whether an object was changed.
fn no_tag(name: &str) -> StoreError {
    StoreError::failed(name, "the bucket gives no ETag")
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.url)
    }
}
