//! What runs: which rows, at which sizes and connections, through how many workers.

use idempotency_bench::cores::usable;
pub use idempotency_bench::wrk::Size;

use crate::rows::Row;

/// Small ones first.
pub const SIZES: [Size; 3] = [
    size("small", 200, 200),
    size("large-request", 64 << 10, 200),
    size("large-response", 200, 64 << 10),
];

const fn size(id: &'static str, request: usize, response: usize) -> Size {
    Size {
        id,
        request,
        response,
    }
}

/// One line of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// The row.
    pub row: Row,
    /// The bodies.
    pub size: Size,
    /// Client connections.
    pub connections: usize,
}

/// What runs by turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Worker threads of every Envoy.
    pub workers: u16,
    /// In the order in which a round runs them.
    pub cells: Vec<Cell>,
}

/// What of all that was named.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Less of everything.
    pub quick: bool,
    /// Numbers of connections.
    pub connections: Option<Vec<usize>>,
    /// Bodies.
    pub sizes: Option<Vec<Size>>,
    /// Numbers of workers.
    pub workers: Option<Vec<u16>>,
}

impl Choice {
    /// What runs: all rows, small bodies and one worker at all numbers of connections; the most
    /// telling rows where bodies are large, and where there are several workers. With anything
    /// named: everything that is named with everything.
    pub fn sections(&self, rows: &[Row]) -> Vec<Section> {
        let [small, large @ ..] = SIZES;
        let core: Vec<Row> = rows.iter().filter(|row| row.is_core()).copied().collect();
        if self.connections.is_some() || self.sizes.is_some() || self.workers.is_some() {
            let connections = self.connections.as_deref().unwrap_or(&[1, 64]);
            let sizes = self.sizes.clone().unwrap_or_else(|| vec![small]);
            let workers = self.workers.as_deref().unwrap_or(&[1]);
            let each = |workers: &u16| Section {
                workers: *workers,
                cells: cells(rows, &sizes, connections),
            };
            return workers.iter().map(each).collect();
        }
        if self.quick {
            return vec![Section {
                workers: 1,
                cells: cells(&core, &[small], &[1, 64]),
            }];
        }
        let mut one = cells(rows, &[small], &[1, 32, 64, 128]);
        one.extend(cells(&core, &large, &[1, 64]));
        vec![
            Section {
                workers: 1,
                cells: one,
            },
            Section {
                workers: several_workers(),
                cells: cells(&core, &[small], &[64, 128]),
            },
        ]
    }
}

/// As many as there are cores that neither the load nor the parts behind Envoy need.
fn several_workers() -> u16 {
    let cores = usable().len().saturating_sub(2);
    u16::try_from(cores).unwrap_or(u16::MAX).max(2)
}

fn cells(rows: &[Row], sizes: &[Size], connections: &[usize]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for size in sizes {
        for connections in connections {
            cells.extend(rows.iter().map(|row| Cell {
                row: *row,
                size: *size,
                connections: *connections,
            }));
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ROWS;

    #[test]
    fn every_table_begins_with_the_reference() {
        for quick in [false, true] {
            let choice = Choice {
                quick,
                ..Choice::default()
            };
            for section in choice.sections(&ROWS) {
                assert_eq!(section.cells[0].row, ROWS[0]);
                let large = section.cells.iter().find(|cell| cell.size != SIZES[0]);
                assert!(large.is_none_or(|cell| cell.row == ROWS[0]));
            }
        }
    }

    #[test]
    fn what_is_named_runs_and_nothing_else() {
        let choice = Choice {
            connections: Some(vec![7]),
            workers: Some(vec![3]),
            ..Choice::default()
        };
        let sections = choice.sections(&ROWS);
        assert_eq!((sections.len(), sections[0].workers), (1, 3));
        assert_eq!(sections[0].cells.len(), ROWS.len());
        assert!(sections[0].cells.iter().all(|cell| cell.connections == 7));
    }
}
