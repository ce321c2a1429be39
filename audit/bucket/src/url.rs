//! Addresses of buckets: `s3://bucket/prefix`, and where they are served.

use std::{fmt, net::IpAddr, str::FromStr};

/// The longest address.
const MAX_URL_BYTES: usize = 1024;

/// `s3://BUCKET/PREFIX`, with `?endpoint=URL&region=NAME` where it is not AWS's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketUrl {
    bucket: String,
    /// Empty, or ends with a slash.
    prefix: String,
    endpoint: Option<String>,
    region: Option<String>,
}

/// An address is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what}; write s3://BUCKET/PREFIX, with ?endpoint=https://HOST:PORT&region=NAME if it is not AWS's own"
)]
pub struct UrlError {
    what: &'static str,
}

impl BucketUrl {
    /// Whether `text` is meant as one.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("s3://")
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What names in it begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Who serves it, if it is not AWS.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Its region.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// Whether what serves it is on this machine: only then may it be plaintext.
    pub(crate) fn is_on_this_machine(&self) -> bool {
        let endpoint = self.endpoint().unwrap_or_default();
        endpoint.strip_prefix("http://").is_some_and(is_loopback)
    }
}

/// Whether a `host:port` is this machine's.
fn is_loopback(authority: &str) -> bool {
    let authority = authority.trim_end_matches('/');
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let ip = host.parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

impl FromStr for BucketUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let wrong = |what| UrlError { what };
        if text.len() > MAX_URL_BYTES {
            return Err(wrong("the bucket's address is too long"));
        }
        let rest = text
            .strip_prefix("s3://")
            .ok_or_else(|| wrong("a bucket's address begins with s3://"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let named = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if bucket.len() < 3 || !bucket.chars().all(named) {
            return Err(wrong("that is no bucket's name"));
        }
        let prefix = prefix.trim_matches('/');
        let parts = || prefix.split('/');
        let sound = |part: &str| !part.is_empty() && part != "." && part != "..";
        let legal = prefix.chars().all(|c| named(c) || c == '/');
        if !(prefix.is_empty() || legal && parts().all(sound)) {
            return Err(wrong("the prefix has parts that object names do not have"));
        }
        let mut url = Self {
            bucket: bucket.to_owned(),
            prefix: match prefix {
                "" => String::new(),
                prefix => format!("{prefix}/"),
            },
            endpoint: None,
            region: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("endpoint", at)) => url.endpoint = Some(endpoint(at)?),
                Some(("region", name)) if !name.is_empty() && name.chars().all(named) => {
                    url.region = Some(name.to_owned());
                }
                _ => {
                    return Err(wrong(
                        "only endpoint and region may follow the question mark",
                    ));
                }
            }
        }
        Ok(url)
    }
}

/// SECURITY: credentials have no place in an address, and are not sent over a network in the clear.
fn endpoint(at: &str) -> Result<String, UrlError> {
    let plain = at.strip_prefix("http://");
    let authority = at.strip_prefix("https://").or(plain);
    match authority {
        Some(authority) if authority.is_empty() || authority.contains(['@', '?', '#']) => {
            Err(UrlError {
                what: "the endpoint is no address of a server",
            })
        }
        Some(authority) if plain.is_none() || is_loopback(authority) => Ok(at.to_owned()),
        Some(_) => Err(UrlError {
            what: "an endpoint on another machine must be https",
        }),
        None => Err(UrlError {
            what: "the endpoint must be https",
        }),
    }
}

impl BucketUrl {
    /// The same bucket with another prefix beside this one's.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        let prefix = self.prefix.trim_end_matches('/');
        Self {
            prefix: format!("{prefix}-{name}/"),
            ..self.clone()
        }
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "s3://{}/{}",
            self.bucket,
            self.prefix.trim_end_matches('/')
        )?;
        let pairs = [("endpoint", &self.endpoint), ("region", &self.region)];
        let given = pairs
            .iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for ((name, value), mark) in given.zip(['?', '&']) {
            write!(f, "{mark}{name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back() {
        for text in [
            "s3://trail/",
            "s3://trail/mesh.local/audit",
            "s3://trail/audit?endpoint=https://minio.example:9000",
            "s3://trail/audit?endpoint=http://127.0.0.1:9000&region=eu-1",
            "s3://trail/audit?endpoint=http://[::1]:9000",
            "s3://trail/audit?region=eu-central-1",
        ] {
            let url: BucketUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), text);
        }
        assert_eq!("s3://trail".parse::<BucketUrl>().unwrap().prefix(), "");
    }

    #[test]
    fn what_is_no_address_or_would_send_credentials_in_the_clear_is_refused() {
        for (text, what) in [
            ("https://trail/audit", "begins with s3://"),
            ("s3://", "no bucket's name"),
            ("s3://key:secret@trail/audit", "no bucket's name"),
            ("s3://trail/a//b", "the prefix"),
            ("s3://trail/../b", "the prefix"),
            (
                "s3://trail/a?endpoint=http://minio.example:9000",
                "must be https",
            ),
            (
                "s3://trail/a?endpoint=http://127.0.0.1.example",
                "must be https",
            ),
            (
                "s3://trail/a?endpoint=https://key:secret@minio.example",
                "no address",
            ),
            ("s3://trail/a?secret=abc", "only endpoint and region"),
        ] {
            let error = text.parse::<BucketUrl>().unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
