//! Lines over a logarithmic scale of sizes, as SVG.

use std::fmt::Write as _;

pub struct Line {
    pub name: String,
    /// Size and milliseconds.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 56.0;
const COLOURS: [&str; 4] = ["#b7410e", "#1f6f8b", "#6b8e23", "#888888"];

/// Both axes are logarithmic: what grows with its input is a straight line that rises, and what does not is level.
pub fn svg(title: &str, axis: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let span = |values: Vec<f64>| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        (least.log10().floor(), values.iter().copied().fold(least, f64::max).log10().ceil())
    };
    let (left, right) = span(points().map(|point| point.0).collect());
    let (bottom, top) = span(points().map(|point| point.1).collect());
    let x = |size: f64| MARGIN + (size.log10() - left) / (right - left).max(1.0) * (WIDTH - 3.0 * MARGIN);
    let y = |time: f64| {
        HEIGHT - MARGIN - (time.log10() - bottom) / (top - bottom).max(1.0) * (HEIGHT - 2.0 * MARGIN)
    };

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"15\">{title}</text>\n"
    );
    for power in left as i32..=right as i32 {
        let (value, at) = (10f64.powi(power), x(10f64.powi(power)));
        let (from, to) = (MARGIN, HEIGHT - MARGIN);
        // Memory takes all text, here and below.
        let _ = writeln!(out, "<path d=\"M{at:.1} {from}V{to}\" stroke=\"#ddd\"/>");
        let _ =
            writeln!(out, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>", to + 16.0);
    }
    for power in bottom as i32..=top as i32 {
        let (value, at) = (10f64.powi(power), y(10f64.powi(power)));
        let _ = writeln!(out, "<path d=\"M{MARGIN} {at:.1}H{}\" stroke=\"#ddd\"/>", WIDTH - 2.0 * MARGIN);
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value} ms</text>",
            MARGIN - 4.0,
            at + 4.0
        );
    }
    let middle = (WIDTH - MARGIN) / 2.0;
    let _ =
        writeln!(out, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{axis}</text>", HEIGHT - 16.0);
    for (number, line) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let path: Vec<String> =
            line.points.iter().map(|(size, time)| format!("{:.1},{:.1}", x(*size), y(*time))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        if let Some((size, time)) = line.points.last() {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
                x(*size) + 6.0,
                y(*time) + 4.0,
                line.name
            );
        }
    }
    out + "</svg>\n"
}
