//! Plots as one SVG, one above the other. No script, no font, no link.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
/// Around a plot: left for its numbers, right, above, below.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;
/// Lines across a plot.
const LINES: u32 = 4;
/// Of one line after the other, and again from the first; told apart also without red and green.
const COLOURS: [&str; 8] =
    ["#06c", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444", "#8b4513"];
/// Room for the name of a line where there are several.
const NAME_HEIGHT: f64 = 15.0;

/// One plot: lines over an axis that goes from 0 to 1, with words below some places of it.
#[derive(Clone, Debug)]
pub struct Panel {
    title: String,
    below: Vec<(f64, String)>,
    lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl Panel {
    /// One without lines.
    #[must_use]
    pub fn new(title: impl Into<String>, below: Vec<(f64, String)>) -> Self {
        Self { title: title.into(), below, lines: Vec::new() }
    }

    /// And a line through points, each a place on the axis and a value of 0 or more. Names are shown where there
    /// are several lines.
    #[must_use]
    pub fn line(
        mut self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        self.lines.push((name.into(), points.into_iter().collect()));
        self
    }

    /// A round number above all values, so that the lines across have round ones too.
    fn highest(&self) -> f64 {
        let values = self.lines.iter().flat_map(|(_, points)| points).map(|(_, value)| *value);
        let highest = values.fold(0.0, f64::max);
        let step = 10_f64.powf(highest.max(1e-3).log10().floor());
        (highest / step).ceil().max(1.0) * step
    }

    fn x(share: f64) -> f64 {
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn draw(&self, out: &mut String, top: f64) {
        let highest = self.highest();
        let y = |value: f64| top + TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / highest);
        let (left, right) = (Self::x(0.0), Self::x(1.0));
        let _ = writeln!(
            out,
            "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}</text>",
            top + 24.0,
            plain(&self.title)
        );
        for line in 0..=LINES {
            let value = highest * f64::from(line) / f64::from(LINES);
            let y = y(value);
            let _ = writeln!(out, "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ccc\"/>");
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                y + 4.0,
                short(value)
            );
        }
        for (share, text) in &self.below {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                Self::x(*share),
                y(0.0) + 18.0,
                plain(text)
            );
        }
        for ((at, (name, points)), colour) in (0_u32..).zip(&self.lines).zip(COLOURS.iter().cycle())
        {
            let points: Vec<String> = points
                .iter()
                .map(|(share, value)| format!("{:.1},{:.1}", Self::x(*share), y(*value)))
                .collect();
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                points.join(" ")
            );
            if self.lines.len() > 1 {
                let _ = writeln!(
                    out,
                    "<text x=\"{}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
                    left + 8.0,
                    top + TOP + 12.0 + f64::from(at) * NAME_HEIGHT,
                    plain(name)
                );
            }
        }
    }
}

/// With what is behind the point only where something is.
fn short(value: f64) -> String {
    if value >= 10_000.0 {
        return format!("{:.0}k", value / 1000.0);
    }
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What stands for text and for nothing else.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// All of them, for a browser or a page.
#[must_use]
pub fn svg(panels: &[Panel]) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        panels.len() as f64 * HEIGHT
    );
    for (at, panel) in (0_u32..).zip(panels) {
        panel.draw(&mut out, f64::from(at) * HEIGHT);
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every point lies in its plot, and each element is closed.
    #[test]
    fn plots_are_whole_and_their_lines_told_apart() {
        let rising =
            |most: f64| (0..=10).map(move |at| (f64::from(at) / 10.0, f64::from(at) * most));
        let below = vec![(0.0, "a<b".to_owned()), (1.0, "more".to_owned())];
        let several =
            Panel::new("both", below).line("ours", rising(3.0)).line("theirs", rising(900.0));
        let text = svg(&[several, Panel::new("one", Vec::new()).line("ours", rising(0.0))]);
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        assert!(text.contains(">a&lt;b</text>") && text.contains(">9000</text>"), "{text}");
        assert_eq!(
            (text.matches(">ours</text>").count(), text.matches(">theirs</text>").count()),
            (1, 1)
        );
        assert_eq!((text.matches("<polyline").count(), text.matches(COLOURS[1]).count()), (3, 2));
        for points in text.split("points=\"").skip(1) {
            for point in points.split('"').next().unwrap().split_whitespace() {
                let (x, y) = point.split_once(',').unwrap();
                assert!((LEFT..=WIDTH - RIGHT).contains(&x.parse().unwrap()), "{point}");
                assert!((TOP..=2.0 * HEIGHT - BOTTOM).contains(&y.parse().unwrap()), "{point}");
            }
        }
    }
}
