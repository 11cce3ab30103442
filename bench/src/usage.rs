//! What a process has used, from `/proc`.

use std::time::Duration;

use rustix::param::clock_ticks_per_second;

/// CPU time of all threads of a process, user and system; zero if it is gone.
pub fn cpu_time(id: u32) -> Duration {
    std::fs::read_to_string(format!("/proc/{id}/stat"))
        .ok()
        .and_then(|stat| ticks(&stat))
        .map_or(Duration::ZERO, |ticks| {
            Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64)
        })
}

/// Largest resident size so far in bytes; 0 if it is gone.
pub fn peak_rss(id: u32) -> u64 {
    std::fs::read_to_string(format!("/proc/{id}/status"))
        .ok()
        .and_then(|status| high_water(&status))
        .unwrap_or(0)
}

fn ticks(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold anything; the state after it is field 3.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 30 12 5 6 20 0 9 0 100 0 0";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(
            high_water("Name:\tx\nVmHWM:\t   12 kB\nVmRSS: 1 kB\n"),
            Some(12_288)
        );
        assert!(peak_rss(std::process::id()) > 0);
    }
}
