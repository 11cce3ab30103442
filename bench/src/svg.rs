//! Small pictures: bars and lines, as SVG.

use std::fmt::Write;

const FONT: &str = "font-family=\"Helvetica,Arial,sans-serif\"";
const INK: &str = "#24292f";
const FAINT: &str = "#d0d7de";

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What it is of.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// The extremes, drawn across its end.
    pub range: (f64, f64),
    /// A mark that it should reach.
    pub goal: Option<f64>,
    /// Its colour.
    pub colour: &'static str,
}

/// One line of a chart with shares of all requests across and a time upwards.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is of.
    pub label: String,
    /// Share in percent, time in microseconds.
    pub points: Vec<(f64, f64)>,
    /// Its colour.
    pub colour: &'static str,
}

/// A picture of panels, one below the other.
#[derive(Debug)]
pub struct Picture {
    width: f64,
    height: f64,
    body: String,
}

impl Picture {
    /// An empty one of that width.
    pub fn new(width: f64) -> Self {
        Self {
            width,
            height: 10.0,
            body: String::new(),
        }
    }

    /// A panel of horizontal bars on a scale from 0 to `most`.
    pub fn bars(&mut self, title: &str, bars: &[Bar], most: f64) {
        const STEP: f64 = 24.0;
        const LEFT: f64 = 300.0;
        let top = self.title(title);
        let right = self.width - 70.0;
        let x = |value: f64| LEFT + (right - LEFT) * (value / most).clamp(0.0, 1.0);
        let bottom = top + STEP * bars.len() as f64;
        for tenth in 0..=(most * 10.0) as u32 {
            if tenth % 2 == 0 {
                let value = f64::from(tenth) / 10.0;
                self.line((x(value), top), (x(value), bottom), FAINT, 1.0);
                self.text((x(value), bottom + 14.0), "middle", &format!("{value:.1}"));
            }
        }
        for (at, bar) in bars.iter().enumerate() {
            let middle = top + STEP * (at as f64 + 0.5);
            self.text((LEFT - 8.0, middle + 4.0), "end", &bar.label);
            let _ = writeln!(
                self.body,
                "<rect x=\"{LEFT:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                middle - 8.0,
                x(bar.value) - LEFT,
                16.0,
                bar.colour
            );
            let (low, high) = bar.range;
            self.line((x(low), middle), (x(high), middle), INK, 1.2);
            if let Some(goal) = bar.goal {
                let ends = ((x(goal), middle - 11.0), (x(goal), middle + 11.0));
                self.line(ends.0, ends.1, "#cf222e", 2.0);
            }
            let end = x(bar.value.max(high).max(bar.goal.unwrap_or(0.0))) + 6.0;
            self.text((end, middle + 4.0), "start", &format!("{:.2}", bar.value));
        }
        self.height = bottom + 34.0;
    }

    /// A panel of lines: the slowest so many percent of all requests across, their time upwards,
    /// both on scales of powers of ten.
    pub fn percentiles(&mut self, title: &str, lines: &[Line]) {
        const LEFT: f64 = 70.0;
        const HEIGHT: f64 = 260.0;
        let top = self.title(title);
        let (right, bottom) = (self.width - 290.0, top + HEIGHT);
        let times = || {
            lines
                .iter()
                .flat_map(|line| &line.points)
                .map(|(_, us)| *us)
        };
        let low = 10_f64.powf(times().fold(f64::MAX, f64::min).max(1.0).log10().floor());
        let high = 10_f64.powf(times().fold(10.0, f64::max).log10().ceil());
        // 0 % is at the left, 99.9 % at the right.
        let x = |share: f64| {
            let slowest = (100.0 - share).clamp(0.1, 100.0);
            LEFT + (right - LEFT) * (2.0 - slowest.log10()) / 3.0
        };
        let y = |us: f64| {
            let at = (us.clamp(low, high) / low).log10() / (high / low).log10();
            bottom - HEIGHT * at
        };
        for share in [0.0, 50.0, 90.0, 99.0, 99.9] {
            self.line((x(share), top), (x(share), bottom), FAINT, 1.0);
            self.text((x(share), bottom + 14.0), "middle", &format!("{share} %"));
        }
        let mut time = low;
        while time <= high * 1.001 {
            self.line((LEFT, y(time)), (right, y(time)), FAINT, 1.0);
            let label = if time >= 1000.0 {
                format!("{} ms", time / 1000.0)
            } else {
                format!("{time} µs")
            };
            self.text((LEFT - 6.0, y(time) + 4.0), "end", &label);
            time *= 10.0;
        }
        for (at, line) in lines.iter().enumerate() {
            let points: Vec<String> = line
                .points
                .iter()
                .map(|(share, us)| format!("{:.1},{:.1}", x(*share), y(*us)))
                .collect();
            let _ = writeln!(
                self.body,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
                points.join(" "),
                line.colour
            );
            let row = top + 12.0 + 20.0 * at as f64;
            self.line((right + 16.0, row), (right + 36.0, row), line.colour, 3.0);
            self.text((right + 42.0, row + 4.0), "start", &line.label);
        }
        self.height = bottom + 34.0;
    }

    /// A line of small text below all that is there.
    pub fn note(&mut self, text: &str) {
        self.text((10.0, self.height + 4.0), "start", text);
        self.height += 18.0;
    }

    /// The whole file.
    pub fn finish(&self) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0} {1:.0}\" \
             width=\"{0:.0}\" height=\"{1:.0}\" font-size=\"12\" {FONT}>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{2}</svg>\n",
            self.width, self.height, self.body
        )
    }

    fn title(&mut self, title: &str) -> f64 {
        let _ = writeln!(
            self.body,
            "<text x=\"10\" y=\"{:.1}\" font-size=\"14\" font-weight=\"bold\" fill=\"{INK}\">{}</text>",
            self.height + 14.0,
            escaped(title)
        );
        self.height + 28.0
    }

    fn text(&mut self, at: (f64, f64), anchor: &str, text: &str) {
        let _ = writeln!(
            self.body,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"{INK}\">{}</text>",
            at.0,
            at.1,
            escaped(text)
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" \
             stroke-width=\"{width}\"/>",
            from.0, from.1, to.0, to.1
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let mut picture = Picture::new(870.0);
        let bar = |value| Bar {
            label: "a < b".to_owned(),
            value,
            range: (value, value),
            goal: None,
            colour: "#000000",
        };
        picture.bars("t", &[bar(0.5), bar(1.0)], 1.0);
        let svg = picture.finish();
        assert!(svg.contains("width=\"250.0\" height=\"16.0\""), "{svg}");
        assert!(svg.contains("width=\"500.0\" height=\"16.0\""), "{svg}");
        assert!(svg.contains("a &lt; b"));
    }

    #[test]
    fn a_line_stays_in_its_panel() {
        let mut picture = Picture::new(870.0);
        let line = Line {
            label: "l".to_owned(),
            points: vec![(1.0, 10.0), (50.0, 100.0), (99.9, 1000.0)],
            colour: "#000000",
        };
        picture.percentiles("t", &[line]);
        let svg = picture.finish();
        // From the bottom to the top, the slowest at the right.
        assert!(svg.contains("580.0,38.0\" fill"), "{svg}");
        assert!(svg.contains("points=\"70."), "{svg}");
    }
}
