//! What requests and policies are compared by: short texts about one thing, hashed to numbers.
//!
//! Two facts with the same number make a policy a candidate that it need not be, which costs an evaluation and decides
//! nothing. The hash is seeded anew in every process, so that nobody can look for such pairs.

use std::{hash::BuildHasher as _, net::IpAddr, sync::OnceLock};

/// A number for a fact.
pub(super) type FactId = u64;
/// "Whatever it is."
pub(super) const ANY: FactId = 0;

/// What a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum About {
    /// Entity types.
    Workload,
    Unauthenticated,
    ServiceAccount,
    Service,
    Namespace,
    TrustDomain,
    /// A type that the mesh adds, by a number for its name.
    Group(u64),
    /// `context.user.subject`
    Subject,
    /// `context.user.issuer`
    Issuer,
    /// `context.method`
    Method,
    /// `context.path`
    Path,
    /// What `context.path` starts with.
    PathPrefix,
    /// `context.host`
    Host,
    /// `context.grpc.service`
    GrpcService,
    /// `context.grpc.method`
    GrpcMethod,
}

/// What a fact with a name is about: a member of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Tag {
    /// A claim of the user.
    Claim,
    /// A header.
    Header,
    /// A query parameter.
    Query,
    /// A label of the principal.
    PrincipalLabel,
    /// A label of the resource.
    ResourceLabel,
}

impl About {
    /// The entity type of that name.
    pub(super) fn entity(name: &str) -> Self {
        match name {
            "Workload" => Self::Workload,
            "Unauthenticated" => Self::Unauthenticated,
            "ServiceAccount" => Self::ServiceAccount,
            "Service" => Self::Service,
            "Namespace" => Self::Namespace,
            "TrustDomain" => Self::TrustDomain,
            other => Self::Group(number(other)),
        }
    }

    /// The name of a built-in entity type that anything is known of.
    pub(super) fn entity_type(self) -> Option<&'static str> {
        Some(match self {
            Self::Workload => "Workload",
            Self::ServiceAccount => "ServiceAccount",
            Self::Service => "Service",
            Self::Namespace => "Namespace",
            Self::TrustDomain => "TrustDomain",
            Self::Unauthenticated
            | Self::Group(_)
            | Self::Subject
            | Self::Issuer
            | Self::Method
            | Self::Path
            | Self::PathPrefix
            | Self::Host
            | Self::GrpcService
            | Self::GrpcMethod => return None,
        })
    }

    /// How many requests share such a fact, roughly: lower is better to look up by.
    fn breadth(self) -> u8 {
        match self {
            Self::Workload | Self::Unauthenticated | Self::Subject | Self::Path => 0,
            Self::ServiceAccount | Self::GrpcService => 1,
            Self::Service | Self::Group(_) | Self::PathPrefix | Self::GrpcMethod => 2,
            Self::Namespace => 3,
            Self::TrustDomain | Self::Host | Self::Issuer => 4,
            Self::Method => 6,
        }
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Network {
    pub(super) v6: bool,
    pub(super) length: u8,
    /// The first address, as a number.
    pub(super) start: u128,
}

impl Network {
    /// The range of that length around `address`; `None` when there is none.
    pub(super) fn around(address: IpAddr, length: u8) -> Option<Self> {
        let (v6, width, number) = match address {
            IpAddr::V4(v4) => (false, 32, u128::from(v4.to_bits())),
            IpAddr::V6(v6) => (true, 128, v6.to_bits()),
        };
        let whole = Self {
            v6,
            length: width,
            start: number,
        };
        whole.widened(length)
    }

    /// The range of that length around it.
    pub(super) fn widened(self, length: u8) -> Option<Self> {
        let width: u8 = if self.v6 { 128 } else { 32 };
        let host = u32::from(width.checked_sub(length)?);
        let start = self.start.checked_shr(host).map_or(0, |high| high << host);
        Some(Self {
            length,
            start,
            ..self
        })
    }
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Fact {
    /// `About` is this text.
    Text(About, Box<str>),
    /// The tag of this name has this member.
    Member(Tag, Box<str>, Box<str>),
    /// The part of the path at this place, from 1, is this text.
    Segment(u8, Box<str>),
    /// The port.
    Port(u16),
    /// The caller's address is in this range.
    Network(Network),
}

impl Fact {
    pub(super) fn breadth(&self) -> u8 {
        match self {
            Self::Text(about, _) => about.breadth(),
            Self::Member(..) => 1,
            Self::Segment(..) => 2,
            Self::Port(_) => 5,
            Self::Network(network) if network.length >= 24 => 2,
            Self::Network(_) => 4,
        }
    }

    pub(super) fn id(&self) -> FactId {
        match self {
            Self::Text(about, text) => text_id(*about, text),
            Self::Member(tag, name, member) => member_id(*tag, name, member),
            Self::Segment(place, text) => segment_id(*place, text),
            Self::Port(port) => port_id(*port),
            Self::Network(network) => network_id(*network),
        }
    }
}

pub(super) fn text_id(about: About, text: &str) -> FactId {
    number((1u8, about, text))
}

pub(super) fn member_id(tag: Tag, name: &str, member: &str) -> FactId {
    number((2u8, tag, name, member))
}

pub(super) fn segment_id(place: u8, text: &str) -> FactId {
    number((3u8, place, text))
}

pub(super) fn port_id(port: u16) -> FactId {
    number((4u8, port))
}

pub(super) fn network_id(network: Network) -> FactId {
    number((5u8, network))
}

/// Any value as a number other than [`ANY`]; the same value is the same number throughout the process.
pub(super) fn number(value: impl std::hash::Hash) -> u64 {
    static SEED: OnceLock<foldhash::quality::RandomState> = OnceLock::new();
    SEED.get_or_init(Default::default).hash_one(value).max(1)
}
