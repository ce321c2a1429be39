//! What two sidecars tell each other about their workloads, so that metrics can name both ends.
//!
//! The header crosses mesh mTLS only. It names things in metrics and logs; nothing is decided by it.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue};
use reeve_core::model::WorkloadConfig;

use crate::headers::PEER;

/// Longest value of one field; labels of Kubernetes are at most 63 bytes, names 253.
const MAX_FIELD_BYTES: usize = 253;

/// One end of a request, for metric labels. Empty text = unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PeerInfo {
    pub(crate) workload: String,
    pub(crate) namespace: String,
    pub(crate) app: String,
    pub(crate) version: String,
}

impl PeerInfo {
    /// The proxy's own workload.
    pub(crate) fn of(workload: &WorkloadConfig) -> Self {
        Self::from_labels(
            workload.workload.as_str(),
            workload.namespace.as_str(),
            &workload.labels,
        )
    }

    /// From a workload's name, namespace and labels.
    pub(crate) fn from_labels(
        workload: &str,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let label = |names: [&str; 3]| {
            let found = names.iter().find_map(|name| labels.get(*name));
            found.cloned().unwrap_or_default()
        };
        Self {
            workload: workload.to_owned(),
            namespace: namespace.to_owned(),
            app: label([
                "service.istio.io/canonical-name",
                "app.kubernetes.io/name",
                "app",
            ]),
            version: label([
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ]),
        }
    }

    /// Anyone, when there are too many to name.
    pub(crate) fn other() -> Self {
        Self {
            workload: "other".to_owned(),
            ..Self::default()
        }
    }

    /// The header's value.
    pub(crate) fn to_value(&self) -> Option<HeaderValue> {
        let Self {
            workload,
            namespace,
            app,
            version,
        } = self;
        HeaderValue::try_from(format!("w={workload};n={namespace};a={app};v={version}")).ok()
    }

    /// Takes the header out of `headers`. Anything malformed reads as unknown.
    pub(crate) fn take(headers: &mut HeaderMap) -> Option<Self> {
        Self::read(&headers.remove(PEER)?)
    }

    /// Reads the header's value.
    pub(crate) fn read(value: &HeaderValue) -> Option<Self> {
        let mut info = Self::default();
        for field in value.to_str().ok()?.split(';') {
            let (name, text) = field.split_once('=')?;
            let slot = match name {
                "w" => &mut info.workload,
                "n" => &mut info.namespace,
                "a" => &mut info.app,
                "v" => &mut info.version,
                _ => continue,
            };
            if is_label(text) {
                text.clone_into(slot);
            }
        }
        Some(info)
    }
}

fn is_label(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.len() <= MAX_FIELD_BYTES && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_one_says_the_other_reads() {
        let info = PeerInfo {
            workload: "reviews-v1".into(),
            namespace: "default".into(),
            app: "reviews".into(),
            version: "v1".into(),
        };
        let mut headers = HeaderMap::from_iter([(PEER, info.to_value().unwrap())]);
        assert_eq!(PeerInfo::take(&mut headers), Some(info));
        assert!(headers.is_empty());
    }

    #[test]
    fn what_is_no_label_is_not_taken() {
        let mut headers =
            HeaderMap::from_iter([(PEER, HeaderValue::from_static("w=a\"b;n=ok;a={x};v=v1;z=1"))]);
        let info = PeerInfo::take(&mut headers).unwrap();
        assert_eq!(
            (info.workload.as_str(), info.namespace.as_str()),
            ("", "ok")
        );
        assert_eq!((info.app.as_str(), info.version.as_str()), ("", "v1"));
    }

    proptest! {
        #[test]
        fn every_label_is_read_as_it_was_written(labels in proptest::array::uniform4("[A-Za-z0-9._-]{0,253}")) {
            let [workload, namespace, app, version] = labels;
            let info = PeerInfo { workload, namespace, app, version };
            prop_assert_eq!(PeerInfo::read(&info.to_value().unwrap()), Some(info));
        }

        #[test]
        fn nothing_but_labels_comes_of_any_bytes(text in "([wnavz]=?[a\"{}=. -]{0,6};?){0,6}", bytes: Vec<u8>) {
            for bytes in [text.into_bytes(), bytes] {
                let value = HeaderValue::from_bytes(&bytes);
                let info = value.ok().and_then(|value| PeerInfo::read(&value)).unwrap_or_default();
                let PeerInfo { workload, namespace, app, version } = info;
                prop_assert!([workload, namespace, app, version].iter().all(|text| is_label(text)));
            }
        }
    }
}
