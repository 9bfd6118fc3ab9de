//! Line charts as SVG.
//!
//! A chart that takes the whole width is drawn twice, for wide and for narrow screens, and the style sheet shows one of
//! them: text in a drawing that merely shrinks becomes unreadable. Colours are drawn in the light palette, which
//! `style.css` exchanges by value in the dark.

use maud::html;
use plotters::prelude::*;

use super::chart::Chart;

/// Repeated in `style.css` with its counterpart for dark screens.
pub(crate) const PALETTE: [RGBColor; 6] = [
    RGBColor(0x2B, 0x62, 0xA8),
    RGBColor(0xC2, 0x5E, 0x1C),
    RGBColor(0x1E, 0x84, 0x6B),
    RGBColor(0x8A, 0x4F, 0xA3),
    RGBColor(0xA8, 0x32, 0x4A),
    RGBColor(0x6B, 0x6F, 0x1D),
];
pub(crate) const INK: RGBColor = RGBColor(0x5A, 0x64, 0x70);
pub(crate) const GRID: RGBColor = RGBColor(0xE3, 0xE6, 0xE8);

/// Series beyond these share colours.
pub(crate) const NUM_COLOURS: usize = PALETTE.len();

/// Few points are results and get dots; many are a curve.
const MAX_DOTTED: usize = 24;
/// More points than this cannot be told apart and only make the page heavy.
const MAX_POINTS: usize = 2000;

/// Sizes in drawing units; half a CSS pixel each, because plotters places points on whole units.
pub(crate) struct Canvas {
    pub(crate) size: (u32, u32),
    pub(crate) text: u32,
    pub(crate) ticks: usize,
}

/// The width of the page.
pub(crate) const ROOMY: Canvas = Canvas { size: (1440, 600), text: 26, ticks: 8 };
/// A telephone's, or half the page's.
pub(crate) const NARROW: Canvas = Canvas { size: (720, 540), text: 32, ticks: 5 };

/// The drawing with its description for those who do not see it.
pub(super) fn svg(chart: &Chart, description: &str, canvas: &Canvas) -> String {
    let mut drawing = String::new();
    draw(&mut drawing, chart, canvas).expect("drawing into a string does not fail");
    described(&drawing, description, canvas.size)
}

/// A drawing of plotters with its description, as wide as its place.
pub(crate) fn described(drawing: &str, description: &str, (width, height): (u32, u32)) -> String {
    let (_, inside) = drawing.split_once('>').expect("plotters opens with the svg tag");
    let opening = html! { (description) }.into_string();
    format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{opening}\">{inside}")
}

fn draw(drawing: &mut String, chart: &Chart, canvas: &Canvas) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let root = SVGBackend::with_string(drawing, canvas.size).into_drawing_area();
    let all = || chart.series.iter().flat_map(|series| &series.points);
    let (x_range, y_range) = (range(all().map(|p| p.0), 0.0), range(all().map(|p| p.1), 0.05));
    let (x_span, y_span) = (x_range.end - x_range.start, y_range.end - y_range.start);
    let mark = chart.mark.as_ref().map(|mark| mark.x).filter(|x| x_range.contains(x) || *x == x_range.end);
    let (low, high) = (y_range.start, y_range.end);
    let mut area = ChartBuilder::on(&root)
        .margin_top(16)
        .margin_right(32)
        .x_label_area_size(3 * canvas.text)
        .y_label_area_size(4 * canvas.text)
        .build_cartesian_2d(x_range, y_range)?;
    let text = ("sans-serif", canvas.text).into_font().color(&INK);
    area.configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.stroke_width(2))
        .axis_style(GRID.stroke_width(2))
        .label_style(text.clone())
        .axis_desc_style(text)
        .x_desc(&chart.labels[0])
        .y_desc(&chart.labels[1])
        .x_labels(canvas.ticks)
        .y_labels(5)
        .x_label_formatter(&|value| tick(*value, x_span))
        .y_label_formatter(&|value| tick(*value, y_span))
        .draw()?;
    if let Some(x) = mark {
        area.draw_series(DashedLineSeries::new([(x, low), (x, high)], 10, 8, INK.stroke_width(3)))?;
    }
    for (index, series) in chart.series.iter().enumerate() {
        let colour = PALETTE[index % PALETTE.len()];
        let bold = colour.stroke_width(4);
        match chart.window {
            Some(window) => {
                area.draw_series(LineSeries::new(thinned(&series.points), colour.mix(0.35).stroke_width(2)))?;
                area.draw_series(LineSeries::new(thinned(&series.smoothed(window).points), bold))?;
            }
            None => {
                area.draw_series(LineSeries::new(thinned(&series.points), bold))?;
            }
        }
        if series.points.len() <= MAX_DOTTED {
            area.draw_series(series.points.iter().map(|&point| Circle::new(point, 7, colour.filled())))?;
        }
    }
    root.present()
}

/// Smallest range around all values, wider by `margin` of it on both sides; never empty.
pub(crate) fn range(values: impl Iterator<Item = f64>, margin: f64) -> std::ops::Range<f64> {
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
pub(crate) fn tick(value: f64, span: f64) -> String {
    let needed = (1.0 - span.log10()).ceil();
    let decimals = needed.clamp(0.0, 9.0) as usize;
    // What stands for 0 may be off by rounding, such as -2.8e-17.
    let value = if value.abs() < 0.5 * 10f64.powf(-needed.max(0.0)) { 0.0 } else { value };
    if value != 0.0 && !(1e-4..1e6).contains(&value.abs()) {
        return format!("{value:.1e}");
    }
    let label = format!("{value:.decimals$}");
    match label.contains('.') {
        true => label.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => label,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_sheet_knows_every_colour_that_is_drawn() {
        let style = include_str!("style.css");
        for RGBColor(r, g, b) in PALETTE.into_iter().chain([INK, GRID]) {
            let colour = format!("=\"#{r:02X}{g:02X}{b:02X}\"]");
            assert!(style.contains(&colour), "{colour}");
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
        assert_eq!([-2.8e-17, 1e-18].map(|value| tick(value, 0.5)), ["0", "0"]);
        assert_eq!(tick(1e-300, 2e-300), "1.0e-300");
        assert_eq!(tick(0.815, 0.02), "0.815");
        assert_eq!(tick(-0.00001, 1e-4), "-1.0e-5");
    }
}
