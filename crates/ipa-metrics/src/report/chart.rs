//! Line charts as SVG inside the page.
//!
//! Each chart is drawn twice, for wide and for narrow screens, and the style sheet shows one of them: text
//! in a drawing that merely shrinks becomes unreadable. Colours are drawn in the light palette, which
//! `style.css` exchanges by value in the dark.

use maud::{Markup, PreEscaped, html};
use plotters::prelude::*;

/// A named curve: its points as `(x, y)`, in order of x.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Shown in the legend.
    pub name: String,
    /// `(x, y)` in order of x.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// Mean over the `window` points around each point; fewer at the two ends, so that no point is invented.
    fn smoothed(&self, window: usize) -> Self {
        let half = window / 2;
        let mean_around = |index: usize| {
            let near = &self.points[index.saturating_sub(half)..(index + half + 1).min(self.points.len())];
            near.iter().map(|(_, y)| y).sum::<f64>() / near.len() as f64
        };
        let points = self.points.iter().enumerate().map(|(index, &(x, _))| (x, mean_around(index))).collect();
        Self { name: self.name.clone(), points }
    }

    fn drawable(&self) -> Self {
        let points = self.points.iter().copied().filter(|&(x, y)| is_drawable(x) && is_drawable(y)).collect();
        Self { name: self.name.clone(), points }
    }
}

/// Repeated in `style.css` with its counterpart for dark screens.
const PALETTE: [RGBColor; 6] = [
    RGBColor(0x2B, 0x62, 0xA8),
    RGBColor(0xC2, 0x5E, 0x1C),
    RGBColor(0x1E, 0x84, 0x6B),
    RGBColor(0x8A, 0x4F, 0xA3),
    RGBColor(0xA8, 0x32, 0x4A),
    RGBColor(0x6B, 0x6F, 0x1D),
];
const INK: RGBColor = RGBColor(0x5A, 0x64, 0x70);
const GRID: RGBColor = RGBColor(0xE3, 0xE6, 0xE8);

/// Few points are results and get dots; many are a curve.
const MAX_DOTTED: usize = 24;
/// More points than this cannot be told apart and only make the page heavy.
const MAX_POINTS: usize = 2000;

/// Sizes in drawing units; half a CSS pixel each, because plotters places points on whole units.
struct Canvas {
    class: &'static str,
    size: (u32, u32),
    text: u32,
    ticks: usize,
}

const CANVASES: [Canvas; 2] = [
    Canvas { class: "roomy", size: (1440, 600), text: 26, ticks: 8 },
    Canvas { class: "narrow", size: (720, 540), text: 32, ticks: 5 },
];

pub(super) fn figure(title: &str, labels: [&str; 2], series: &[Series], window: Option<usize>) -> Markup {
    let drawable: Vec<Series> = series.iter().map(Series::drawable).collect();
    let count = |series: &[Series]| series.iter().map(|series| series.points.len()).sum::<usize>();
    let left_out = count(series) - count(&drawable);
    html! {
        figure.card.chart {
            h3 { (title) }
            @if count(&drawable) == 0 {
                p.note { "There are no values to draw." }
            } @else {
                (legend(&drawable))
                @for canvas in &CANVASES {
                    div class=(canvas.class) {
                        (PreEscaped(svg(&description(title, labels, &drawable), labels, &drawable, window, canvas)))
                    }
                }
            }
            @if let Some(window) = window { p.note { "Thin: every value. Bold: mean over " (window) " values." } }
            @if left_out > 0 { p.note { "Values left out because they are not finite: " (left_out) "." } }
        }
    }
}

fn legend(series: &[Series]) -> Markup {
    html! {
        ul.legend {
            @for (index, series) in series.iter().enumerate() {
                li { span class={ "swatch colour-" (index % PALETTE.len()) } {} (series.name) }
            }
        }
    }
}

/// The chart in words.
fn description(title: &str, [x_label, y_label]: [&str; 2], series: &[Series]) -> String {
    let ends = series.iter().filter_map(|series| {
        let ((first_x, first_y), (last_x, last_y)) = (series.points.first()?, series.points.last()?);
        Some(format!("; {}: {first_y:.4} at {first_x}, {last_y:.4} at {last_x}", series.name))
    });
    format!("{title}: {y_label} against {x_label}{}", ends.collect::<String>())
}

fn svg(description: &str, labels: [&str; 2], series: &[Series], window: Option<usize>, canvas: &Canvas) -> String {
    let mut drawing = String::new();
    draw(&mut drawing, labels, series, window, canvas).expect("drawing into a string does not fail");
    let (width, height) = canvas.size;
    let (_, inside) = drawing.split_once('>').expect("plotters opens with the svg tag");
    let opening = html! { (description) }.into_string();
    format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{opening}\">{inside}")
}

fn draw(
    drawing: &mut String,
    [x_label, y_label]: [&str; 2],
    series: &[Series],
    window: Option<usize>,
    canvas: &Canvas,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let root = SVGBackend::with_string(drawing, canvas.size).into_drawing_area();
    let all = || series.iter().flat_map(|series| &series.points);
    let (x_range, y_range) = (range(all().map(|p| p.0), 0.0), range(all().map(|p| p.1), 0.05));
    let (x_span, y_span) = (x_range.end - x_range.start, y_range.end - y_range.start);
    let mut chart = ChartBuilder::on(&root)
        .margin_top(16)
        .margin_right(32)
        .x_label_area_size(3 * canvas.text)
        .y_label_area_size(4 * canvas.text)
        .build_cartesian_2d(x_range, y_range)?;
    let text = ("sans-serif", canvas.text).into_font().color(&INK);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.stroke_width(2))
        .axis_style(GRID.stroke_width(2))
        .label_style(text.clone())
        .axis_desc_style(text)
        .x_desc(x_label)
        .y_desc(y_label)
        .x_labels(canvas.ticks)
        .y_labels(5)
        .x_label_formatter(&|value| tick(*value, x_span))
        .y_label_formatter(&|value| tick(*value, y_span))
        .draw()?;
    for (index, series) in series.iter().enumerate() {
        let colour = PALETTE[index % PALETTE.len()];
        let bold = colour.stroke_width(4);
        match window {
            Some(window) => {
                chart.draw_series(LineSeries::new(thinned(&series.points), colour.mix(0.35).stroke_width(2)))?;
                chart.draw_series(LineSeries::new(thinned(&series.smoothed(window).points), bold))?;
            }
            None => {
                chart.draw_series(LineSeries::new(thinned(&series.points), bold))?;
            }
        }
        if series.points.len() <= MAX_DOTTED {
            chart.draw_series(series.points.iter().map(|&point| Circle::new(point, 7, colour.filled())))?;
        }
    }
    root.present()
}

/// Smallest range around all values, wider by `margin` of it on both sides; never empty.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    let smallest = low.abs().max(high.abs()).max(1e-6) * 1e-6; // one value, or values that differ by rounding alone
    let margin = if high - low < smallest { smallest.max(0.5 * high.abs()) } else { margin * (high - low) };
    low - margin..high + margin
}

/// Lowest and highest point of each stretch of a long curve: what an eye can see of it.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MAX_POINTS {
        return points.to_vec();
    }
    let stretch = (2 * points.len()).div_ceil(MAX_POINTS);
    let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
    points
        .chunks(stretch)
        .flat_map(|chunk| {
            let (low, high) = (chunk.iter().min_by(by_y), chunk.iter().max_by(by_y));
            let mut ends: Vec<(f64, f64)> = low.into_iter().chain(high).copied().collect();
            ends.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            ends
        })
        .collect()
}

/// A number at an axis, with the decimals that tell it from its neighbours.
fn tick(value: f64, span: f64) -> String {
    let decimals = (1.0 - span.log10()).ceil().clamp(0.0, 9.0) as usize;
    if value != 0.0 && !(1e-4..1e6).contains(&value.abs()) {
        return format!("{value:.1e}");
    }
    let label = format!("{value:.decimals$}");
    match label.contains('.') {
        true => label.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => label,
    }
}

/// Finite, and small enough that the width of a range stays finite too.
fn is_drawable(value: f64) -> bool {
    value.abs() < 1e30
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series { name: "loss".into(), points: points.to_vec() }
    }

    fn shown(points: &[(f64, f64)], window: Option<usize>) -> String {
        figure("Loss", ["step", "loss"], &[series(points)], window).into_string()
    }

    #[test]
    fn the_style_sheet_knows_every_colour_that_is_drawn() {
        let style = include_str!("style.css");
        for RGBColor(r, g, b) in PALETTE.into_iter().chain([INK, GRID]) {
            let colour = format!("=\"#{r:02X}{g:02X}{b:02X}\"]");
            assert!(style.contains(&colour), "{colour}");
        }
    }

    #[test]
    fn smoothing_takes_means_of_what_is_near() {
        let smoothed = series(&[(0.0, 3.0), (1.0, 0.0), (2.0, 6.0), (3.0, 3.0)]).smoothed(3);
        assert_eq!(smoothed.points, [(0.0, 1.5), (1.0, 3.0), (2.0, 3.0), (3.0, 4.5)]);
        assert_eq!(smoothed.smoothed(1), smoothed);
    }

    #[test]
    fn smoothing_draws_both_curves() {
        let points: Vec<(f64, f64)> = (0..100).map(|x| (f64::from(x), f64::from(x % 7))).collect();
        let lines = |window| shown(&points, window).matches("<polyline").count();
        assert_eq!(lines(Some(9)) - lines(None), CANVASES.len());
    }

    #[test]
    fn values_that_are_not_finite_are_counted_and_left_out() {
        let html = shown(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, 2.0)], None);
        assert!(html.contains("not finite: 2."));
        assert!(!html.contains("NaN") && !html.contains("inf"));
        assert!(shown(&[(0.0, f64::NAN)], Some(5)).contains("no values to draw"));
    }

    #[test]
    fn strange_ranges_are_drawn() {
        for points in [
            vec![(1.0, 0.5)],
            vec![(0.0, 0.0), (1.0, 0.0)],
            vec![(0.0, -1e29), (1.0, 1e29)],
            vec![(0.0, 1e-300), (1.0, 2e-300)],
            vec![(1e15, 1e15), (1e15 + 1.0, 1e15 + 1.0)],
            vec![(0.0, -3.0), (0.0, 5.0)],
        ] {
            assert!(shown(&points, Some(3)).contains("<svg"), "{points:?}");
        }
    }

    #[test]
    fn long_curves_keep_their_peaks() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|x| (f64::from(x), 0.0)).collect();
        points[54_321].1 = 9.0;
        let thinned = thinned(&points);
        assert!(thinned.len() <= MAX_POINTS);
        assert!(thinned.contains(&(54_321.0, 9.0)));
        assert!(thinned.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn ticks_have_the_decimals_that_tell_them_apart() {
        assert_eq!([0.0, 0.25, 0.5].map(|value| tick(value, 1.0)), ["0", "0.2", "0.5"]);
        assert_eq!([0.0, 20.0, 1500.0].map(|value| tick(value, 2000.0)), ["0", "20", "1500"]);
        assert_eq!(tick(0.815, 0.02), "0.815");
        assert_eq!(tick(-0.00001, 1e-4), "-1.0e-5");
    }
}
