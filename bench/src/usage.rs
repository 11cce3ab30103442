//! What a process has used, from `/proc`.

use std::time::Duration;

use rustix::param::clock_ticks_per_second;

/// CPU time of all threads of a process, user and system; zero if it is gone.
pub fn cpu_time(id: u32) -> Duration {
    stat(&id.to_string()).map_or(Duration::ZERO, |stat| seconds(stat.own))
}

/// The same with all children, those that have ended too: for servers of many processes.
pub fn cpu_time_with_children(id: u32) -> Duration {
    let Some(own) = stat(&id.to_string()) else {
        return Duration::ZERO;
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let running: u64 = processes
        .filter_map(|entry| stat(entry.file_name().to_str()?))
        .filter(|other| other.parent == id)
        .map(|other| other.own)
        .sum();
    seconds(own.own + own.ended_children + running)
}

/// CPU time of all children of this process that have ended.
pub fn cpu_time_of_children() -> Duration {
    stat("self").map_or(Duration::ZERO, |stat| seconds(stat.ended_children))
}

fn stat(process: &str) -> Option<Stat> {
    // Most entries of /proc are no processes.
    let named = process == "self" || process.bytes().all(|byte| byte.is_ascii_digit());
    let text = named.then(|| std::fs::read_to_string(format!("/proc/{process}/stat")));
    Stat::read(&text?.ok()?)
}

fn seconds(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64)
}

/// Largest resident size so far in bytes; 0 if it is gone.
pub fn peak_rss(id: u32) -> u64 {
    std::fs::read_to_string(format!("/proc/{id}/status"))
        .ok()
        .and_then(|status| high_water(&status))
        .unwrap_or(0)
}

/// What is of interest in `/proc/PID/stat`; times in clock ticks, user and system.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own: u64,
    /// Children that were waited for.
    ended_children: u64,
}

impl Stat {
    fn read(stat: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything; the state after it is field 3.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ').skip(1);
        let parent = fields.next()?.parse().ok()?;
        let mut times = fields.skip(9).map(|field| field.parse::<u64>().ok());
        let mut time = || times.next().flatten();
        Some(Self {
            parent,
            own: time()? + time()?,
            ended_children: time()? + time()?,
        })
    }
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
        let read = Stat {
            parent: 1,
            own: 42,
            ended_children: 11,
        };
        assert_eq!(Stat::read(stat), Some(read));
        assert_eq!(
            high_water("Name:\tx\nVmHWM:\t   12 kB\nVmRSS: 1 kB\n"),
            Some(12_288)
        );
        assert!(peak_rss(std::process::id()) > 0);
    }
}
