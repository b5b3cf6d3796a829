//! Plots as SVG: bars with whiskers, and lines over a logarithmic scale. Text and shapes only; they adapt to dark pages.

use std::fmt::Write as _;

/// Colours that people who see red and green alike can tell apart.
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];
const WIDTH: f64 = 820.0;
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#24292f}.faint{stroke:#8c959f;stroke-width:1;stroke-opacity:.4}\
.axis{stroke:#57606a;stroke-width:1}.title{font-weight:600;font-size:15px}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.axis{stroke:#9198a1}}";

/// One bar: its name, and the least, the median, and the most of its figure.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) least: f64,
    pub(super) middle: f64,
    pub(super) most: f64,
    /// Bars of one kind have one colour.
    pub(super) kind: usize,
}

/// A line: its name, and its points.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) kind: usize,
    pub(super) dashed: bool,
}

/// Horizontal bars, one below the other. On a logarithmic scale bars begin at a power of ten below the least.
pub(super) fn bars(title: &str, unit: &str, bars: &[Bar], logarithmic: bool) -> String {
    const LEFT: f64 = 330.0;
    const RIGHT: f64 = 110.0;
    const TOP: f64 = 44.0;
    const EACH: f64 = 26.0;
    let height = TOP + bars.len() as f64 * EACH + 34.0;
    let most = bars.iter().fold(0.0_f64, |most, bar| most.max(bar.most));
    let least = bars.iter().fold(f64::MAX, |least, bar| least.min(bar.least));
    let from = if logarithmic { 10_f64.powf((least.max(1e-6) / 1.5).log10().floor()) } else { 0.0 };
    let scale = Scale { from, to: if logarithmic { most * 1.2 } else { most * 1.02 }, logarithmic };
    let x = |value: f64| LEFT + scale.share(value) * (WIDTH - LEFT - RIGHT);
    let mut svg = begin(title, height);
    for tick in scale.ticks() {
        let x = x(tick);
        rule(&mut svg, (x, TOP - 6.0), (x, height - 30.0), "faint");
        text(&mut svg, (x, height - 12.0), "middle", &short(tick));
    }
    text(&mut svg, (WIDTH - 8.0, height - 12.0), "end", unit);
    for (position, bar) in bars.iter().enumerate() {
        let y = TOP + position as f64 * EACH;
        text(&mut svg, (LEFT - 8.0, y + 14.0), "end", &bar.name);
        let (start, end) = (x(scale.from), x(bar.middle));
        let colour = COLOURS[bar.kind % COLOURS.len()];
        line(
            &mut svg,
            format_args!(r#"<rect x="{start:.1}" y="{:.1}" width="{:.1}" height="16" fill="{colour}"/>"#, y + 2.0, end - start),
        );
        rule(&mut svg, (x(bar.least), y + 10.0), (x(bar.most), y + 10.0), "axis");
        text(&mut svg, (x(bar.most) + 6.0, y + 14.0), "start", &short(bar.middle));
    }
    end(svg)
}

/// Lines with both scales logarithmic.
pub(super) fn lines(title: &str, (x_unit, y_unit): (&str, &str), lines: &[Line]) -> String {
    const LEFT: f64 = 64.0;
    const RIGHT: f64 = 230.0;
    const TOP: f64 = 52.0;
    const BOTTOM: f64 = 48.0;
    const HEIGHT: f64 = 420.0;
    let all = || lines.iter().flat_map(|line| &line.points);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)))
    };
    let (left, right) = range(&mut all().map(|point| point.0));
    let (low, high) = range(&mut all().map(|point| point.1));
    let (across, up) = (
        Scale { from: left, to: right.max(left * 1.01), logarithmic: true },
        Scale { from: low.max(1e-3) / 1.3, to: high.max(1e-3) * 1.3, logarithmic: true },
    );
    let x = |value: f64| LEFT + across.share(value) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - up.share(value) * (HEIGHT - TOP - BOTTOM);
    let mut svg = begin(title, HEIGHT);
    for tick in up.ticks() {
        rule(&mut svg, (LEFT, y(tick)), (WIDTH - RIGHT, y(tick)), "faint");
        text(&mut svg, (LEFT - 6.0, y(tick) + 4.0), "end", &short(tick));
    }
    for tick in across.ticks() {
        rule(&mut svg, (x(tick), TOP), (x(tick), HEIGHT - BOTTOM), "faint");
        text(&mut svg, (x(tick), HEIGHT - BOTTOM + 18.0), "middle", &short(tick));
    }
    text(&mut svg, ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0), "middle", x_unit);
    text(&mut svg, (8.0, TOP - 10.0), "start", y_unit);
    for (position, drawn) in lines.iter().enumerate() {
        let colour = COLOURS[drawn.kind % COLOURS.len()];
        let dashes = if drawn.dashed { r#" stroke-dasharray="6 4""# } else { "" };
        let points: Vec<String> = drawn.points.iter().map(|(across, up)| format!("{:.1},{:.1}", x(*across), y(*up))).collect();
        line(
            &mut svg,
            format_args!(r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>"#, points.join(" ")),
        );
        for (across, up) in &drawn.points {
            line(&mut svg, format_args!(r#"<circle cx="{:.1}" cy="{:.1}" r="3.5" fill="{colour}"/>"#, x(*across), y(*up)));
        }
        let (from, height) = (WIDTH - RIGHT + 16.0, TOP + 10.0 + position as f64 * 22.0);
        line(&mut svg, format_args!(r#"<path d="M{from} {height}h28" stroke="{colour}" stroke-width="2"{dashes}/>"#));
        text(&mut svg, (from + 36.0, height + 4.0), "start", &drawn.name);
    }
    end(svg)
}

struct Scale {
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    /// Where a value is, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        share.clamp(0.0, 1.0)
    }

    /// Round values within the scale.
    fn ticks(&self) -> Vec<f64> {
        let within = |tick: &f64| *tick >= self.from * 0.999 && *tick <= self.to * 1.001;
        if self.logarithmic {
            return (-3..12).map(|power| 10_f64.powi(power)).filter(within).collect();
        }
        let power = 10_f64.powf((self.to / 4.0).log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| self.to / step <= 6.0).unwrap_or(self.to);
        (0..10).map(|number| f64::from(number) * step).filter(within).collect()
    }
}

/// A number in few letters.
fn short(number: f64) -> String {
    let (scaled, letter) = match number {
        number if number >= 1e6 => (number / 1e6, "M"),
        number if number >= 1e3 => (number / 1e3, "k"),
        number => (number, ""),
    };
    let text = if scaled >= 100.0 {
        format!("{scaled:.0}")
    } else if scaled >= 10.0 {
        format!("{scaled:.1}")
    } else {
        format!("{scaled:.2}")
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{letter}")
}

fn begin(title: &str, height: f64) -> String {
    let mut svg = String::new();
    line(
        &mut svg,
        format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#
        ),
    );
    line(&mut svg, format_args!("<title>{}</title>\n<style>{STYLE}</style>", escaped(title)));
    line(&mut svg, format_args!(r#"<text class="title" x="8" y="20">{}</text>"#, escaped(title)));
    svg
}

fn end(mut svg: String) -> String {
    svg.push_str("</svg>\n");
    svg
}

fn rule(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
    line(svg, format_args!(r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#));
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    line(svg, format_args!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escaped(text)));
}

fn line(svg: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(svg, "{text}").expect("writing to a String cannot fail");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_scale_gives_each_power_of_ten_the_same_room() {
        let scale = Scale { from: 1.0, to: 1_000.0, logarithmic: true };
        let shares = [1.0, 10.0, 100.0, 1_000.0].map(|value| (scale.share(value) * 3.0).round());
        assert_eq!((shares, scale.ticks()), ([0.0, 1.0, 2.0, 3.0], vec![1.0, 10.0, 100.0, 1_000.0]));
    }

    #[test]
    fn numbers_are_short() {
        let cases = [(0.25, "0.25"), (4.0, "4"), (17.33, "17.3"), (1_500.0, "1.5k"), (786_000.0, "786k"), (2_000_000.0, "2M")];
        for (number, text) in cases {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn names_cannot_break_a_plot() {
        let bar = Bar { name: "a < b & c".to_owned(), least: 1.0, middle: 2.0, most: 3.0, kind: 0 };
        assert!(bars("t", "u", &[bar], false).contains("a &lt; b &amp; c"));
    }
}
