//! What every scrape port tells of its process: the version, and the figures that Prometheus' client libraries agree on
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>).

use prometheus::{IntGauge, Opts, Registry, process_collector::ProcessCollector};

/// Adds `reeve_build_info` and the `process_` metrics. `component` is what the process is: `proxy` or `mesh`.
pub fn register(registry: &Registry, component: &str) -> prometheus::Result<()> {
    let about = Opts::new("reeve_build_info", "Always 1; its labels tell what runs.")
        .const_label("version", env!("CARGO_PKG_VERSION"))
        .const_label("component", component);
    let build = IntGauge::with_opts(about)?;
    build.set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(ProcessCollector::for_self()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_its_version_and_its_figures() {
        let registry = Registry::new();
        register(&registry, "proxy").unwrap();
        let page = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let build = format!("reeve_build_info{{component=\"proxy\",version=\"{version}\"}} 1");
        assert!(page.contains(&build), "{page}");
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
        ] {
            let value = page
                .lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            let zero_may_be = name == "process_cpu_seconds_total";
            assert!(
                value.is_some_and(|v| v > 0.0 || zero_may_be),
                "{name} in {page}"
            );
        }
    }
}
