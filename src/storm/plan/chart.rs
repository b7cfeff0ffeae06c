//! The chart of connected clients over time, as an SVG without external fonts, styles or scripts.

use std::fmt::Write as _;

use crate::storm::{
    plan::summary::{Case, Forecast},
    text::grouped,
};

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 118.0;
/// The number of points of a line.
const POINTS: u32 = 400;
/// One for each case. They differ in brightness as well as in hue.
const COLOURS: [&str; 3] = ["#c0392b", "#e0a100", "#1a5fb4"];

/// The smallest step of the series 1, 2, 5, 10, 20, … that divides `most` into at most `parts` parts.
fn tick(most: f64, parts: f64) -> f64 {
    let raw = (most / parts).max(1e-9);
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= raw * 0.999).unwrap_or(10.0);
    step * power
}

pub(super) fn draw(forecast: &Forecast) -> String {
    let mut chart = Chart::new(forecast);
    chart.titles();
    chart.axes();
    chart.ideal();
    chart.curves();
    chart.legend();
    chart.put("</svg>".into());
    chart.svg
}

/// Long enough for all clients that come back, and for some of the time in which others do not.
fn seconds_shown(case: &Case, ideal_seconds: f64) -> f64 {
    let end = case.outcome.end();
    if case.outcome.count.seconds_to_100.is_some() { end * 1.08 } else { end.min(ideal_seconds.max(40.0) * 3.0) }
}

struct Chart<'a> {
    forecast: &'a Forecast,
    /// The length of the time axis.
    seconds: f64,
    /// The height of the other axis.
    clients: f64,
    svg: String,
}

impl<'a> Chart<'a> {
    fn new(forecast: &'a Forecast) -> Self {
        let ideal = forecast.ideal_seconds;
        let longest = forecast.cases.iter().map(|case| seconds_shown(case, ideal)).fold(ideal * 1.08, f64::max);
        Self {
            forecast,
            seconds: longest.max(1.0),
            clients: forecast.cases.first().map_or(1, |case| case.outcome.count.clients).max(1) as f64,
            svg: String::new(),
        }
    }

    fn x(&self, time: f64) -> f64 {
        LEFT + time / self.seconds * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, clients: f64) -> f64 {
        HEIGHT - BOTTOM - clients / self.clients * (HEIGHT - TOP - BOTTOM)
    }

    fn put(&mut self, line: String) {
        self.svg.push_str(&line);
        self.svg.push('\n');
    }

    fn titles(&mut self) {
        self.put(format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="13" fill="#222">"##
        ));
        self.put(format!(r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>"##));
        self.put(format!(
            r##"<text x="{LEFT}" y="24" font-size="15" font-weight="600">Connected clients over time</text>"##
        ));
        self.put(format!(r##"<text x="{LEFT}" y="43" fill="#555">{}</text>"##, self.forecast.title));
    }

    fn axes(&mut self) {
        let (seconds, clients, bottom) = (self.seconds, self.clients, self.y(0.0));
        let (step_x, step_y) = (tick(seconds, 8.0), tick(clients, 5.0));
        for n in 0..=(seconds / step_x) as u32 {
            let time = f64::from(n) * step_x;
            let at = self.x(time);
            self.put(format!(r##"<line x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{bottom:.1}" stroke="#eee"/>"##));
            self.put(format!(r##"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{time}</text>"##, bottom + 18.0));
        }
        let right = self.x(seconds);
        for n in 0..=(clients / step_y + 1e-9) as u32 {
            let count = f64::from(n) * step_y;
            let at = self.y(count);
            self.put(format!(r##"<line x1="{LEFT}" y1="{at:.1}" x2="{right:.1}" y2="{at:.1}" stroke="#eee"/>"##));
            let label = grouped(count as u64);
            self.put(format!(r##"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"##, LEFT - 8.0, at + 4.5));
        }
        self.put(format!(r##"<path d="M{LEFT} {TOP}V{bottom:.1}H{right:.1}" fill="none" stroke="#888"/>"##));
        self.put(format!(
            r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#555">seconds since the beginning</text>"##,
            self.x(seconds / 2.0),
            bottom + 36.0
        ));
        self.put(format!(
            r##"<text transform="translate(16 {:.1}) rotate(-90)" text-anchor="middle" fill="#555">clients</text>"##,
            self.y(clients / 2.0)
        ));
    }

    /// The dashed line of the least possible time.
    fn ideal(&mut self) {
        self.put(format!(
            r##"<path d="M{:.1} {:.1}L{:.1} {:.1}H{:.1}" fill="none" stroke="#999" stroke-dasharray="4 4"/>"##,
            self.x(self.forecast.cases.last().map_or(0.0, |case| case.outcome.first_try)),
            self.y(0.0),
            self.x(self.forecast.ideal_seconds),
            self.y(self.clients),
            self.x(self.seconds)
        ));
    }

    fn curves(&mut self) {
        for (case, colour) in self.forecast.cases.iter().zip(COLOURS) {
            let points = self.points(case);
            self.put(format!(
                r##"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2.2" stroke-linejoin="round"/>"##,
                points.trim_end()
            ));
        }
    }

    fn points(&self, case: &Case) -> String {
        let mut points = String::new();
        let mut last = usize::MAX;
        for n in 0..=POINTS {
            let time = self.seconds * f64::from(n) / f64::from(POINTS);
            let back = case.outcome.back_at(time);
            // A horizontal part needs its two ends only.
            let next = case.outcome.back_at(time + self.seconds / f64::from(POINTS));
            if back != last || back != next || n == POINTS {
                let _ = write!(points, "{:.1},{:.1} ", self.x(time), self.y(back as f64));
            }
            last = back;
        }
        points
    }

    fn legend(&mut self) {
        let (top, ideal) = (HEIGHT - BOTTOM + 58.0, self.forecast.ideal_seconds);
        for (n, (case, colour)) in self.forecast.cases.iter().zip(COLOURS).enumerate() {
            let at = top + 18.0 * n as f64;
            self.put(format!(
                r##"<line x1="{LEFT}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}" stroke-width="3"/>"##,
                at - 4.5,
                LEFT + 22.0,
                at - 4.5
            ));
            let verdict = case.verdict(self.forecast.least_seconds(case));
            self.put(format!(r##"<text x="{:.1}" y="{at:.1}">{}: {verdict}</text>"##, LEFT + 30.0, case.name));
        }
        self.put(format!(
            r##"<text x="{:.1}" y="{top:.1}" text-anchor="end" fill="#777">dashed: the least possible, {ideal:.1} s</text>"##,
            WIDTH - RIGHT
        ));
    }
}
