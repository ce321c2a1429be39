//! What a process has used, by the kernel's account.

use std::time::Duration;

use reeve_audit::batch::BoxError;

/// What this process has used of processors, in seconds, threads that have ended included.
pub(crate) fn processor_seconds() -> Result<f64, BoxError> {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = Duration::new(u64::try_from(used.tv_sec)?, u32::try_from(used.tv_nsec)?);
    Ok(used.as_secs_f64())
}

/// The most memory that this process ever had (`VmHWM`, proc(5)).
pub(crate) fn peak_kib() -> Result<u64, BoxError> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line
        .ok_or("no VmHWM")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?)
}
