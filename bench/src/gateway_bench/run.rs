//! One run of one row, and whether it counts.

use std::time::Duration;

use idempotency_bench::usage::{cpu_time, cpu_time_of_children, cpu_time_with_children};
use idempotency_stack::{until, Error};

use crate::plan::{Cell, Size};
use crate::rig::Rig;
use crate::rows::Way;
use crate::seed;
use idempotency_bench::wrk::{Keys, Load, Seen};

/// One measured run.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The load generator's view.
    pub seen: Seen,
    /// CPU time of the parts meanwhile.
    pub cpu: Cpu,
}

/// CPU time of the parts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// Envoy's.
    pub envoy: Duration,
    /// The service's.
    pub service: Duration,
    /// That of its store's server.
    pub server: Duration,
    /// The upstream's.
    pub upstream: Duration,
    /// The load generator's.
    pub load: Duration,
}

/// Which run this is.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// What runs.
    pub cell: &'a Cell,
    /// How long.
    pub duration: Duration,
    /// Name of the whole session, part of its keys.
    pub session: &'a str,
    /// Number of the run in its session, part of its keys.
    pub number: usize,
}

/// Path and query of a way's requests.
pub fn target(way: Way, size: Size) -> String {
    format!("{}?bytes={}", way.path(), size.response)
}

impl Plan<'_> {
    /// Runs it. The inner `Err` says why it does not count.
    ///
    /// # Errors
    ///
    /// If it could not be run at all.
    pub fn run(&self, rig: &Rig, wrk: &std::path::Path) -> Result<Result<Sample, String>, Error> {
        let Cell {
            row,
            size,
            connections,
        } = *self.cell;
        let path = rig.path(&row)?;
        let load = Load {
            method: row.way.method(),
            target: target(row.way, size),
            size,
            keys: if row.way.replays() {
                Keys::Cycle(self.key_prefix(), seed::KEYS)
            } else {
                Keys::Unique(self.key_prefix())
            },
            connections,
            duration: self.duration,
        };
        let cpu = || Cpu {
            envoy: cpu_time(path.envoy_id),
            service: path.service_id.map_or(Duration::ZERO, cpu_time),
            server: path
                .server_id
                .map_or(Duration::ZERO, cpu_time_with_children),
            upstream: cpu_time(rig.upstream_id),
            load: cpu_time_of_children(),
        };
        rig.upstream.reset();
        let before = cpu();
        let seen = load.run(wrk, path.gateway)?;
        let cpu = cpu().since(before);
        let fault = seen
            .fault()
            .or_else(|| self.executions_fault(rig, seen.requests));
        Ok(fault.map_or(Ok(Sample { seen, cpu }), Err))
    }

    /// What the keys of this run begin with, and those of no other run but of other replays.
    fn key_prefix(&self) -> String {
        if self.cell.row.way.replays() {
            seed::prefix(self.session, self.cell.size)
        } else {
            format!("{}-{}-", self.session, self.number)
        }
    }

    /// Compares what the upstream did with what clients saw. Only this run's keys count: a
    /// detached execution whose client was cut off at the end of its run may end in the next one.
    fn executions_fault(&self, rig: &Rig, answered: u64) -> Option<String> {
        let mut executed = rig.upstream.executions();
        // What was cut off when the load stopped may still be on its way.
        until(Duration::from_secs(2), || {
            std::thread::sleep(Duration::from_millis(20));
            let before = executed.total;
            executed = rig.upstream.executions();
            executed.total == before
        });
        let twice = executed.by_key.values().filter(|count| **count > 1).count();
        if twice > 0 {
            return Some(format!("{twice} keys were executed more than once"));
        }
        let prefix = self.key_prefix();
        let own = executed
            .by_key
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix));
        let own = own.map(|(_, count)| count).sum();
        executions_fault(self.cell.row.way, answered, self.cell.connections, own)
    }
}

/// Each answer was one execution; each connection may have had one more under way at the end.
fn executions_fault(way: Way, answered: u64, connections: usize, executed: u64) -> Option<String> {
    let (least, most) = if way.executes() {
        (answered, answered.saturating_add(connections as u64))
    } else {
        (0, 0)
    };
    (!(least..=most).contains(&executed))
        .then(|| format!("{executed} executions for {answered} answers, not {least} to {most}"))
}

impl Cpu {
    fn since(self, before: Self) -> Self {
        Self {
            envoy: self.envoy.saturating_sub(before.envoy),
            service: self.service.saturating_sub(before.service),
            server: self.server.saturating_sub(before.server),
            upstream: self.upstream.saturating_sub(before.upstream),
            load: self.load.saturating_sub(before.load),
        }
    }
}

impl Sample {
    /// Microseconds of CPU time per answer.
    pub fn per_answer(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.seen.requests.max(1) as f64
    }

    /// Share of one core's time, in percent.
    pub fn busy(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e8 / self.seen.duration_us.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_must_fit_the_answers() {
        for (way, executed, fits) in [
            (Way::Inline, 100, true),
            (Way::Inline, 164, true),
            (Way::Inline, 165, false),
            (Way::Inline, 99, false),
            (Way::Bare, 100, true),
            (Way::Replay, 0, true),
            (Way::Replay, 1, false),
        ] {
            let fault = executions_fault(way, 100, 64, executed);
            assert_eq!(fault.is_none(), fits, "{way:?} {executed}: {fault:?}");
        }
    }
}
