//! Kubernetes' own kinds. Fields that we do not read are tolerated.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de::Visitor};

use crate::source::de::ANY_SCALAR;

/// `Service`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) ports: Vec<ServicePortSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServicePortSpec {
    pub(crate) port: u16,
    pub(crate) name: String,
    pub(crate) target_port: Option<PortRef>,
    pub(crate) app_protocol: Option<String>,
    pub(crate) protocol: Option<String>,
}

/// A port by number or name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortRef(pub(crate) String);

impl<'de> Deserialize<'de> for PortRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = PortRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number or name")
            }

            fn visit_str<E>(self, text: &str) -> Result<PortRef, E> {
                Ok(PortRef(text.to_owned()))
            }
        }
        deserializer.deserialize_newtype_struct(ANY_SCALAR, Text)
    }
}
