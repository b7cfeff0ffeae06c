//! Connected clients over time, as an SVG that needs nothing else.

use std::fmt::Write as _;

use crate::storm::{plan::Forecast, text::grouped};

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 118.0;
/// Points of a line.
const POINTS: u32 = 400;
/// One for each case, told apart by shade as well as by hue.
const COLOURS: [&str; 3] = ["#c0392b", "#e0a100", "#1a5fb4"];

/// The next of 1, 2, 5, 10, … that divides `most` into at most `parts`.
fn tick(most: f64, parts: f64) -> f64 {
    let raw = (most / parts).max(1e-9);
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= raw * 0.999).unwrap_or(10.0);
    step * power
}

/// Draws it.
pub(super) fn draw(forecast: &Forecast) -> String {
    let clients = forecast.cases.first().map_or(1, |case| case.outcome.clients).max(1) as f64;
    // Long enough for all that come back, and for a while of those that do not.
    let enough = |case: &super::Case| {
        let end = case.outcome.end();
        if case.outcome.seconds_to_100.is_some() { end * 1.08 } else { end.min(forecast.ideal_seconds.max(40.0) * 3.0) }
    };
    let seconds = forecast.cases.iter().map(enough).fold(forecast.ideal_seconds * 1.08, f64::max).max(1.0);
    let x = |time: f64| LEFT + time / seconds * (WIDTH - LEFT - RIGHT);
    let y = |n: f64| HEIGHT - BOTTOM - n / clients * (HEIGHT - TOP - BOTTOM);
    let mut svg = String::new();
    let mut put = |line: String| {
        svg.push_str(&line);
        svg.push('\n');
    };
    put(format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="13" fill="#222">"##
    ));
    put(format!(r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>"##));
    put(format!(r##"<text x="{LEFT}" y="24" font-size="15" font-weight="600">Connected clients over time</text>"##));
    put(format!(r##"<text x="{LEFT}" y="43" fill="#555">{}</text>"##, forecast.title));
    let (step_x, step_y) = (tick(seconds, 8.0), tick(clients, 5.0));
    for n in 0..=(seconds / step_x) as u32 {
        let time = f64::from(n) * step_x;
        let at = x(time);
        put(format!(r##"<line x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{:.1}" stroke="#eee"/>"##, y(0.0)));
        put(format!(r##"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{time}</text>"##, y(0.0) + 18.0));
    }
    for n in 0..=(clients / step_y + 1e-9) as u32 {
        let count = f64::from(n) * step_y;
        let at = y(count);
        put(format!(r##"<line x1="{LEFT}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}" stroke="#eee"/>"##, x(seconds)));
        let label = grouped(count as u64);
        put(format!(r##"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"##, LEFT - 8.0, at + 4.5));
    }
    put(format!(r##"<path d="M{LEFT} {TOP}V{:.1}H{:.1}" fill="none" stroke="#888"/>"##, y(0.0), x(seconds)));
    put(format!(
        r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#555">seconds since the beginning</text>"##,
        x(seconds / 2.0),
        y(0.0) + 36.0
    ));
    put(format!(
        r##"<text transform="translate(16 {:.1}) rotate(-90)" text-anchor="middle" fill="#555">clients</text>"##,
        y(clients / 2.0)
    ));
    put(format!(
        r##"<path d="M{:.1} {:.1}L{:.1} {:.1}H{:.1}" fill="none" stroke="#999" stroke-dasharray="4 4"/>"##,
        x(forecast.cases.last().map_or(0.0, |case| case.outcome.first_try)),
        y(0.0),
        x(forecast.ideal_seconds),
        y(clients),
        x(seconds)
    ));
    for (case, colour) in forecast.cases.iter().zip(COLOURS) {
        let mut points = String::new();
        let mut last = usize::MAX;
        for n in 0..=POINTS {
            let time = seconds * f64::from(n) / f64::from(POINTS);
            let back = case.outcome.back_at(time);
            // What stays the same needs no points between its ends.
            let next = case.outcome.back_at(time + seconds / f64::from(POINTS));
            if back != last || back != next || n == POINTS {
                let _ = write!(points, "{:.1},{:.1} ", x(time), y(back as f64));
            }
            last = back;
        }
        put(format!(
            r##"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2.2" stroke-linejoin="round"/>"##,
            points.trim_end()
        ));
    }
    let legend = HEIGHT - BOTTOM + 58.0;
    for (n, (case, colour)) in forecast.cases.iter().zip(COLOURS).enumerate() {
        let at = legend + 18.0 * n as f64;
        put(format!(
            r##"<line x1="{LEFT}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}" stroke-width="3"/>"##,
            at - 4.5,
            LEFT + 22.0,
            at - 4.5
        ));
        let verdict = case.verdict(forecast.ideal_seconds);
        put(format!(r##"<text x="{:.1}" y="{at:.1}">{}: {verdict}</text>"##, LEFT + 30.0, case.name));
    }
    put(format!(
        r##"<text x="{:.1}" y="{:.1}" text-anchor="end" fill="#777">dashed: the least possible, {:.1} s</text>"##,
        WIDTH - RIGHT,
        legend,
        forecast.ideal_seconds
    ));
    put("</svg>".into());
    svg
}
