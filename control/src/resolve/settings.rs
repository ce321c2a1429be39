//! `MeshConfig`.

mod audit;
mod break_glass;
mod edge;
mod federation;
mod kubernetes;
mod providers;

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use reeve_core::{
    Namespace, ServiceName, TrustDomain,
    access_log::AccessLogConfig,
    model::{
        BreakGlass, CallerShares, EcdhCurve, FederationSettings, FieldClasses, MtlsMode,
        OutboundPolicy, PathNormalization, ServiceState, TapMode, Topology, TracingConfig,
    },
};

use super::{
    hosts::{CLUSTER_SUFFIX, Services, advice},
    paths,
    values::Notes,
};
use crate::{
    AuditLevel, AuthorizationSettings, Code, Fault, MeshSettings, TapSettings, Witnesses,
    kinds::{
        AuthorizationSpec, MeshConfigSpec, MeshMtlsSpec, Object, SecretSpec, TapSpec, TracingSpec,
    },
    source::path::Path,
};

pub(super) fn resolve(
    objects: &[Object<MeshConfigSpec>],
    (services, secrets): (&Services, &[Object<SecretSpec>]),
    faults: &mut Vec<Fault>,
) -> MeshSettings {
    let mut settings = MeshSettings::default();
    for object in objects.iter().skip(1) {
        let text = "there is more than one MeshConfig";
        faults.push(object.error(&Path::of(&["kind"]), Code::Conflict, text));
    }
    if let Some(object) = objects.first() {
        let notes = &mut Notes { object, faults };
        apply(&mut settings, notes, services);
        audit::resolve(&mut settings, notes, secrets);
        break_glass::resolve(&mut settings, notes);
        settings.kubernetes_tokens = kubernetes::resolve(notes);
        federation::resolve(&mut settings, notes);
    }
    settings
}

fn apply(settings: &mut MeshSettings, notes: &mut Notes<'_, MeshConfigSpec>, services: &Services) {
    let spec = &notes.object.spec;
    let at = |key: &str| Path::of(&["spec", key]);
    if let Some(text) = &spec.trust_domain {
        match TrustDomain::parse(text) {
            Ok(domain) => settings.trust_domain = domain,
            Err(error) => notes.error(&at("trustDomain"), Code::Invalid, error.to_string()),
        }
    }
    if let Some(text) = &spec.root_namespace {
        match Namespace::parse(text) {
            Ok(namespace) => settings.root_namespace = namespace,
            Err(error) => notes.error(&at("rootNamespace"), Code::Invalid, error.to_string()),
        }
    }
    lives(settings, notes, spec);
    let mode = spec.mtls.as_ref().and_then(|m| m.mode.as_deref());
    if let Some(mode) = notes.mtls_mode(&at("mtls").key("mode"), mode) {
        settings.mtls = mode;
    }
    edge::resolve(settings, notes);
    settings.caller_shares = caller_shares(notes);
    settings.ecdh_curves = ecdh_curves(notes, spec.mesh_mtls.as_ref());
    settings.path_normalization = paths::mesh_wide(notes);
    settings.extension_providers = providers::resolve(notes, services);
    let policy = spec.outbound_traffic_policy.as_ref();
    if let Some(text) = policy.and_then(|p| p.mode.as_ref()) {
        let words = [
            ("ALLOW_ANY", OutboundPolicy::AllowAny),
            ("REGISTRY_ONLY", OutboundPolicy::RegistryOnly),
        ];
        let path = at("outboundTrafficPolicy").key("mode");
        settings.outbound_policy = notes.word(&path, text, &words).unwrap_or_default();
    }
    if let Some(spec) = &spec.authorization {
        settings.authorization = authorization(notes, spec, services);
    }
    if let Some(spec) = &spec.tap {
        settings.tap = tap(notes, spec);
    }
    settings.tracing = spec.tracing.as_ref().and_then(|t| tracing(notes, t));
    settings.access_log = super::access_log::resolve(notes);
    if let Some(pem) = &spec.jwks_ca_certificates {
        match crate::jwks::check_authorities(pem) {
            Ok(()) => settings.jwks_authorities = Some(pem.clone()),
            Err(text) => notes.error(&at("jwksCaCertificates"), Code::Invalid, text),
        }
    }
    settings.danger_allow_internal_jwks = spec.danger_allow_internal_jwks;
    if spec.danger_allow_internal_jwks {
        let text = "token keys may be fetched from loopback and private addresses";
        notes.warn(
            &at("dangerAllowInternalJwks"),
            Code::Insecure,
            text,
            "set it to false outside of tests",
        );
    }
}

/// How long certificates and authorities live, and rotations wait.
fn lives(
    settings: &mut MeshSettings,
    notes: &mut Notes<'_, MeshConfigSpec>,
    spec: &MeshConfigSpec,
) {
    for (key, text, target) in [
        (
            "certificateTtl",
            &spec.certificate_ttl,
            &mut settings.certificate_ttl,
        ),
        (
            "intermediateTtl",
            &spec.intermediate_ttl,
            &mut settings.intermediate_ttl,
        ),
        ("rootTtl", &spec.root_ttl, &mut settings.root_ttl),
        (
            "rotationWait",
            &spec.rotation_wait,
            &mut settings.rotation_wait,
        ),
    ] {
        if let Some(value) = text
            .as_ref()
            .and_then(|t| notes.duration(&Path::of(&["spec", key]), t))
        {
            *target = value;
        }
    }
    check_lives(settings, notes);
}

fn check_lives(settings: &MeshSettings, notes: &mut Notes<'_, MeshConfigSpec>) {
    let path = Path::of(&["spec", "certificateTtl"]);
    let MeshSettings {
        certificate_ttl,
        intermediate_ttl,
        root_ttl,
        ..
    } = settings;
    if *certificate_ttl < Duration::from_secs(2) {
        notes.error(&path, Code::Invalid, "a certificate lives at least 2s");
    }
    if certificate_ttl >= intermediate_ttl || intermediate_ttl > root_ttl {
        let hint = "certificateTtl < intermediateTtl <= rootTtl";
        notes.hint(
            &path,
            Code::Invalid,
            "a certificate cannot outlive its issuer",
            hint,
        );
    }
}

/// The most requests at once that anybody can be given: as many as one proxy serves at all.
const LARGEST_SHARE: u32 = 65_536;

fn caller_shares(notes: &mut Notes<'_, MeshConfigSpec>) -> CallerShares {
    let Some(spec) = &notes.object.spec.caller_shares else {
        return CallerShares::default();
    };
    let path = Path::of(&["spec", "callerShares"]);
    let mut share = |key: &str, value: Option<i64>| {
        let value = value?;
        let share = u32::try_from(value).ok().and_then(NonZeroU32::new);
        let share = share.filter(|share| share.get() <= LARGEST_SHARE);
        if share.is_none() {
            let text = format!("a share is 1 to {LARGEST_SHARE} requests");
            notes.error(&path.key(key), Code::Invalid, text);
        }
        share
    };
    let shares = CallerShares {
        per_connection: share("requestsPerConnection", spec.requests_per_connection),
        per_caller: share("requestsPerCaller", spec.requests_per_caller),
    };
    if let (Some(connection), Some(caller)) = (shares.per_connection, shares.per_caller)
        && connection > caller
    {
        let text = "a connection's share is larger than its caller's, and never reached";
        let path = path.key("requestsPerConnection");
        notes.warn(&path, Code::Conflict, text, "make it the smaller one");
    }
    shares
}

fn ecdh_curves(
    notes: &mut Notes<'_, MeshConfigSpec>,
    spec: Option<&MeshMtlsSpec>,
) -> Vec<EcdhCurve> {
    let path = Path::of(&["spec", "meshMTLS", "ecdhCurves"]);
    let words = [
        ("X25519MLKEM768", EcdhCurve::X25519MLKEM768),
        ("X25519", EcdhCurve::X25519),
        ("P-256", EcdhCurve::P256),
        ("P-384", EcdhCurve::P384),
    ];
    let mut curves = Vec::new();
    for (n, name) in spec.iter().flat_map(|s| &s.ecdh_curves).enumerate() {
        let path = path.index(n);
        match notes.word(&path, name, &words) {
            Some(curve) if curves.contains(&curve) => {
                notes.error(&path, Code::Conflict, format!("{name} is named twice"));
            }
            Some(curve) => curves.push(curve),
            None => {}
        }
    }
    curves
}

fn authorization(
    notes: &mut Notes<'_, MeshConfigSpec>,
    spec: &AuthorizationSpec,
    services: &Services,
) -> AuthorizationSettings {
    let path = Path::of(&["spec", "authorization"]);
    let mut settings = AuthorizationSettings::default();
    if let Some(text) = &spec.state {
        settings.state = notes.state(&path.key("state"), text).unwrap_or_default();
    }
    for (name, text) in &spec.namespaces {
        let path = path.key("namespaces").key(name);
        let state = notes.state(&path, text).unwrap_or_default();
        match Namespace::parse(name) {
            Ok(namespace) => {
                settings.namespaces.insert(namespace, state);
            }
            Err(error) => notes.error(&path, Code::Invalid, error.to_string()),
        }
    }
    settings.services = service_states(notes, &path.key("services"), spec, services);
    settings
}

fn tap(notes: &mut Notes<'_, MeshConfigSpec>, spec: &TapSpec) -> TapSettings {
    let path = Path::of(&["spec", "tap"]);
    let words = [
        ("NONE", TapMode::Off),
        ("HEADS", TapMode::Heads),
        ("BODIES", TapMode::Bodies),
    ];
    let mut settings = TapSettings::default();
    if let Some(text) = &spec.mode {
        settings.mode = notes
            .word(&path.key("mode"), text, &words)
            .unwrap_or_default();
    }
    for (name, text) in &spec.namespaces {
        let path = path.key("namespaces").key(name);
        let mode = notes.word(&path, text, &words).unwrap_or_default();
        match Namespace::parse(name) {
            Ok(namespace) => {
                settings.namespaces.insert(namespace, mode);
            }
            Err(error) => notes.error(&path, Code::Invalid, error.to_string()),
        }
    }
    settings
}

fn service_states(
    notes: &mut Notes<'_, MeshConfigSpec>,
    path: &Path,
    spec: &AuthorizationSpec,
    services: &Services,
) -> BTreeMap<ServiceName, ServiceState> {
    let mut states = BTreeMap::new();
    for (name, text) in &spec.services {
        let path = path.key(name);
        let state = notes.state(&path, text).unwrap_or_default();
        let host = match name.matches('.').count() {
            0 => format!("{name}.{}.{CLUSTER_SUFFIX}", crate::DEFAULT_NAMESPACE),
            1 => format!("{name}.{CLUSTER_SUFFIX}"),
            _ => name.clone(),
        };
        match ServiceName::parse(&host) {
            Ok(host) => {
                if !services.contains_key(&host) {
                    let text = format!("there is no service {host}");
                    notes.warn(
                        &path,
                        Code::UnknownReference,
                        text,
                        &advice(&host.to_string(), services),
                    );
                }
                states.insert(host, state);
            }
            Err(error) => notes.error(&path, Code::Invalid, error.to_string()),
        }
    }
    states
}

fn tracing(notes: &mut Notes<'_, MeshConfigSpec>, spec: &TracingSpec) -> Option<TracingConfig> {
    let path = Path::of(&["spec", "tracing"]);
    let endpoint = spec.otlp_endpoint.parse::<http::Uri>().ok();
    if endpoint.is_none_or(|u| u.scheme().is_none() || u.host().is_none()) {
        let text = format!(
            "{:?} is not the URL of an OTLP endpoint",
            spec.otlp_endpoint
        );
        notes.hint(
            &path.key("otlpEndpoint"),
            Code::Invalid,
            text,
            "such as http://127.0.0.1:4317",
        );
        return None;
    }
    let percent = spec.sampling_percent.unwrap_or(1.0);
    if !(0.0..=100.0).contains(&percent) {
        notes.error(
            &path.key("samplingPercent"),
            Code::Invalid,
            "a percentage is 0 to 100",
        );
        return None;
    }
    // 0 to 10,000 by the check above, so that the text has at most five digits.
    let sampling_per_10k = format!("{:.0}", percent * 100.0)
        .parse()
        .unwrap_or_default();
    Some(TracingConfig {
        otlp_endpoint: spec.otlp_endpoint.clone(),
        sampling_per_10k,
    })
}

impl Default for MeshSettings {
    /// What holds without a `MeshConfig`.
    fn default() -> Self {
        Self {
            trust_domain: Self::default_trust_domain(),
            root_namespace: Self::default_root_namespace(),
            certificate_ttl: Duration::from_secs(4 * 3600),
            root_ttl: Duration::from_secs(87_600 * 3600),
            intermediate_ttl: Duration::from_secs(8_760 * 3600),
            rotation_wait: Duration::from_secs(30),
            mtls: MtlsMode::Permissive,
            ecdh_curves: Vec::new(),
            topology: Topology::default(),
            caller_shares: CallerShares::default(),
            name_servers: Vec::new(),
            authorization: AuthorizationSettings::default(),
            tap: TapSettings::default(),
            break_glass: BreakGlass::default(),
            path_normalization: PathNormalization::default(),
            extension_providers: Vec::new(),
            tracing: None,
            access_log: AccessLogConfig::default(),
            recorded_headers: Vec::new(),
            danger_pass_unrecorded: false,
            field_classes: FieldClasses::default(),
            audit_level: AuditLevel::default(),
            wal_max_bytes: 256 * 1024 * 1024,
            columns_after: Duration::from_secs(15 * 60),
            retention: None,
            witnesses: Witnesses::default(),
            audit_replicas: 0,
            audit_replicas_elsewhere: Vec::new(),
            outbound_policy: OutboundPolicy::default(),
            danger_allow_internal_jwks: false,
            jwks_authorities: None,
            kubernetes_tokens: None,
            federation: FederationSettings::default(),
        }
    }
}

impl MeshSettings {
    #[expect(
        clippy::expect_used,
        reason = "a constant that the parser takes; a test holds it to that"
    )]
    fn default_trust_domain() -> TrustDomain {
        TrustDomain::parse("mesh.local").expect("a legal trust domain")
    }

    #[expect(
        clippy::expect_used,
        reason = "a constant that the parser takes; a test holds it to that"
    )]
    fn default_root_namespace() -> Namespace {
        Namespace::parse("reeve-system").expect("a legal namespace")
    }
}
