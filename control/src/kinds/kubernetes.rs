//! Kubernetes' own kinds. Fields that we do not read are tolerated.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de::Visitor};
use zeroize::Zeroizing;

use crate::source::de::ANY_SCALAR;

/// `Service`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) ports: Vec<ServicePortSpec>,
    pub(crate) r#type: String,
    pub(crate) external_name: String,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Option<String>,
}

/// `EndpointSlice`, which has no `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EndpointSliceSpec {
    pub(crate) address_type: String,
    pub(crate) endpoints: Vec<SliceEndpointSpec>,
    pub(crate) ports: Vec<SlicePortSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SliceEndpointSpec {
    pub(crate) addresses: Vec<String>,
    pub(crate) conditions: SliceConditionsSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SliceConditionsSpec {
    pub(crate) ready: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SlicePortSpec {
    pub(crate) name: String,
    pub(crate) port: Option<u16>,
}

/// `Pod`: what is needed to send to it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodSpec {
    pub(crate) spec: PodContainersSpec,
    pub(crate) status: PodStatusSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodContainersSpec {
    pub(crate) containers: Vec<ContainerSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerSpec {
    pub(crate) ports: Vec<ContainerPortSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerPortSpec {
    pub(crate) name: String,
    pub(crate) container_port: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodStatusSpec {
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: Option<String>,
    pub(crate) conditions: Vec<PodConditionSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodConditionSpec {
    pub(crate) r#type: String,
    pub(crate) status: String,
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

/// `Secret`, which has no `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SecretSpec {
    pub(crate) data: BTreeMap<String, SecretText>,
    pub(crate) string_data: BTreeMap<String, SecretText>,
}

/// A value of a `Secret`: never shown, zeroed when dropped.
#[derive(Clone, Default)]
pub(crate) struct SecretText(Zeroizing<String>);

impl SecretText {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PortRef::deserialize(deserializer).map(|text| Self(Zeroizing::new(text.0)))
    }
}
