//! The result to look at: throughput under load, latency without any.

use idempotency_bench::machine::Machine;
use idempotency_bench::svg::{self, Bar, Picture};

use crate::plan::SIZES;
use crate::rows::{Flavour, Way};
use crate::summary::Line;

/// Connections of the first panel.
const MANY: usize = 64;
const COLOURS: [&str; 6] = [
    "#57606a", "#0969da", "#8250df", "#bf8700", "#1a7f37", "#cf222e",
];

/// Draws it; what was not measured is left out.
pub fn draw(lines: &[Line], machine: &Machine, envoy: &str) -> String {
    let mut picture = Picture::new(870.0);
    let small = |line: &&Line| line.workers == 1 && line.cell.size == SIZES[0];
    let bars: Vec<Bar> = lines
        .iter()
        .filter(small)
        .filter(|line| line.connections == MANY)
        .filter_map(bar)
        .collect();
    if !bars.is_empty() {
        // Extremes of a busy machine may leave the picture.
        let most = bars.iter().map(|bar| bar.value).fold(1.1, f64::max);
        picture.bars(
            "Throughput, bare Envoy = 1 (64 connections, one worker, 200 B; red: the goal)",
            &bars,
            (most * 5.0).ceil() / 5.0,
        );
    }
    let telling = [
        "bare",
        "ext-authz",
        "lua",
        "unprotected",
        "inline-redis",
        "replay-redis",
    ];
    let percentiles: Vec<svg::Line> = telling
        .iter()
        .zip(COLOURS)
        .filter_map(|(id, colour)| {
            let own = |line: &&Line| line.connections == 1 && line.id == **id;
            let line = lines.iter().filter(small).find(own)?;
            (!line.latency_us.is_empty()).then(|| svg::Line {
                label: line.label.clone(),
                points: line.latency_us.clone(),
                colour,
            })
        })
        .collect();
    if !percentiles.is_empty() {
        picture.percentiles(
            "Latency, one connection: so many requests take at most …",
            &percentiles,
        );
    }
    picture.note(&format!("Envoy {envoy}; {}", machine.describe()));
    picture.finish()
}

fn bar(line: &Line) -> Option<Bar> {
    let ratio = line.ratio?;
    let way = line.cell.row.way;
    Some(Bar {
        label: line.label.clone(),
        value: ratio.median,
        range: (ratio.min, ratio.max),
        goal: match way {
            Way::Unprotected => Some(0.90),
            Way::Inline => Some(0.50),
            Way::Replay => Some(0.75),
            _ => None,
        },
        colour: match way.flavour() {
            Flavour::Bare => "#afb8c1",
            Flavour::ExtAuthz | Flavour::Lua | Flavour::ByHand => "#d4a72c",
            Flavour::Filter => "#54aeff",
        },
    })
}
