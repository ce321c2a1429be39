//! `DestinationRule`'s traffic policies and `VirtualService`'s faults, as they are written.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{PercentSpec, TlsSpec, raw};

raw! {
    TrafficPolicySpec {
        load_balancer: Option<LoadBalancerSpec>,
        connection_pool: Option<ConnectionPoolSpec>,
        outlier_detection: Option<OutlierDetectionSpec>,
        tls: Option<TlsSpec>,
        retry_budget: Option<RetryBudgetSpec>,
        port_level_settings: Vec<PortTrafficSpec>,
    }
    PortTrafficSpec {
        port: Option<PolicyPortSpec>,
        load_balancer: Option<LoadBalancerSpec>,
        connection_pool: Option<ConnectionPoolSpec>,
        outlier_detection: Option<OutlierDetectionSpec>,
        tls: Option<TlsSpec>,
    }
    PolicyPortSpec { number: u16, }
    LoadBalancerSpec {
        simple: Option<String>,
        consistent_hash: Option<ConsistentHashSpec>,
        locality_lb_setting: Option<LocalityLbSpec>,
        warmup_duration_secs: Option<String>,
        warmup: Option<WarmupSpec>,
    }
    ConsistentHashSpec {
        http_header_name: Option<String>,
        http_cookie: Option<HttpCookieSpec>,
        use_source_ip: Option<bool>,
        http_query_parameter_name: Option<String>,
        minimum_ring_size: Option<u64>,
        ring_hash: Option<RingHashSpec>,
        maglev: Option<MaglevSpec>,
    }
    HttpCookieSpec {
        name: String,
        path: Option<String>,
        ttl: Option<String>,
    }
    RingHashSpec { minimum_ring_size: Option<u64>, }
    MaglevSpec { table_size: Option<u64>, }
    LocalityLbSpec {
        enabled: Option<bool>,
        distribute: Vec<DistributeSpec>,
        failover: Vec<FailoverSpec>,
        failover_priority: Vec<String>,
    }
    DistributeSpec {
        from: String,
        to: BTreeMap<String, u32>,
    }
    FailoverSpec {
        from: String,
        to: String,
    }
    WarmupSpec {
        duration: Option<String>,
        minimum_percent: Option<f64>,
        aggression: Option<f64>,
    }
    ConnectionPoolSpec {
        tcp: Option<TcpPoolSpec>,
        http: Option<HttpPoolSpec>,
    }
    TcpPoolSpec {
        max_connections: Option<i32>,
        connect_timeout: Option<String>,
        tcp_keepalive: Option<TcpKeepaliveSpec>,
        max_connection_duration: Option<String>,
        idle_timeout: Option<String>,
    }
    TcpKeepaliveSpec {
        probes: Option<u32>,
        time: Option<String>,
        interval: Option<String>,
    }
    HttpPoolSpec {
        http1_max_pending_requests: Option<i32>,
        http2_max_requests: Option<i32>,
        max_requests_per_connection: Option<i32>,
        max_retries: Option<i32>,
        idle_timeout: Option<String>,
        h2_upgrade_policy: Option<String>,
        use_client_protocol: Option<bool>,
        max_concurrent_streams: Option<i32>,
    }
    OutlierDetectionSpec {
        split_external_local_origin_errors: bool,
        consecutive_local_origin_failures: Option<u32>,
        consecutive_gateway_errors: Option<u32>,
        #[serde(rename = "consecutive5xxErrors")]
        consecutive_5xx_errors: Option<u32>,
        consecutive_errors: Option<i32>,
        interval: Option<String>,
        base_ejection_time: Option<String>,
        max_ejection_percent: Option<i32>,
        min_health_percent: Option<i32>,
    }
    RetryBudgetSpec {
        percent: Option<f64>,
        min_retry_concurrency: Option<u32>,
    }
    FaultSpec {
        delay: Option<DelaySpec>,
        abort: Option<AbortSpec>,
    }
    DelaySpec {
        percent: Option<i32>,
        percentage: Option<PercentSpec>,
        fixed_delay: Option<String>,
    }
    AbortSpec {
        percentage: Option<PercentSpec>,
        http_status: Option<i32>,
        grpc_status: Option<String>,
    }
}
