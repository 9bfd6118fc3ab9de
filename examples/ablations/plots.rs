//! Drawings of arms and strengths, with intervals.

use anyhow::{Result, anyhow};
use ipa::metrics::Interval;
use plotters::prelude::*;

use crate::arms::DEFAULT;
use crate::draw::Condition;
use crate::results::{Measure, Results};
use crate::tables;

const CLEAR: RGBColor = RGBColor(0x2B, 0x62, 0xA8);
const UNCLEAR: RGBColor = RGBColor(0x9A, 0xA2, 0xAC);
const COLOURS: [RGBColor; 3] = [CLEAR, RGBColor(0xC2, 0x5E, 0x1C), RGBColor(0x1E, 0x84, 0x6B)];

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Differences of all pairs in CLIP-I and in the five attributes, of pictures drawn from the reference alone; gray where
/// they are not clear.
///
/// # Errors
/// If it cannot be drawn.
pub(crate) fn differences(results: &Results) -> Result<String> {
    let pairs = tables::pairs(results);
    drawn(|svg| {
        let root = SVGBackend::with_string(svg, (900, 90 + 26 * pairs.len() as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        let (left, right) = root.split_horizontally(560);
        panel(&left, results, &pairs, ("CLIP-I", Measure::ClipI, 1.0), 190)?;
        panel(&right, results, &pairs, ("all five attributes, points", Measure::Share(5), 100.0), 10)?;
        Ok(root.present()?)
    })
}

fn panel(
    area: &DrawingArea<SVGBackend, plotters::coord::Shift>,
    results: &Results,
    pairs: &[(&str, &str)],
    (title, measure, factor): (&str, Measure, f64),
    names: u32,
) -> Drawn {
    let found: Vec<_> = pairs.iter().map(|pair| results.difference(*pair, Condition::Image, measure)).collect();
    let ends = found.iter().flatten().flat_map(|found| [found.interval.low, found.interval.high]);
    let (low, high) = ends.fold((0.0_f64, 0.0_f64), |(low, high), end| (low.min(end * factor), high.max(end * factor)));
    let room = ((high - low) * 0.06).max(1e-3);
    let places = if factor == 1.0 { 2 } else { 0 };
    let last = pairs.len() as i32;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(names)
        .build_cartesian_2d(low - room..high + room, -1..last)?;
    // From top to bottom.
    let height = |index: i32| last - 1 - index;
    let name = |at: &i32| match usize::try_from(height(*at)).ok().and_then(|index| pairs.get(index)) {
        Some((arm, against)) if names > 10 => format!("{arm} less {against}"),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(pairs.len() + 2)
        .y_label_formatter(&name)
        .x_labels(5)
        .x_label_formatter(&|x| format!("{:.places$}", (x * 100.0).round() / 100.0 + 0.0)) // no "-0.00"
        .max_light_lines(1)
        .x_desc(title)
        .draw()?;
    chart.draw_series([PathElement::new([(0.0, -1), (0.0, last)], BLACK.mix(0.6))])?;
    for (index, found) in (0..).zip(&found) {
        let (Some(found), index) = (found, height(index)) else { continue };
        let colour = if found.is_clear() { CLEAR } else { UNCLEAR };
        let Interval { mean, low, high } = found.interval;
        chart
            .draw_series([PathElement::new([(low * factor, index), (high * factor, index)], colour.stroke_width(3))])?;
        chart.draw_series([Circle::new((mean * factor, index), 5, colour.filled())])?;
        let seeds = found.by_seed.iter().map(|mean| Circle::new((mean * factor, index), 2, BLACK.filled()));
        chart.draw_series(seeds)?;
    }
    Ok(())
}

/// The default at every strength: how much of the reference comes through, alone and beside a text that asks for
/// another background, and whether that is followed.
///
/// # Errors
/// If it cannot be drawn.
pub(crate) fn scales(results: &Results) -> Result<String> {
    let curves = [
        ("reference alone: all five as in the reference", Condition::Image, Measure::Share(5)),
        ("with text: the other four as in the reference", Condition::Edit, Measure::Share(4)),
        ("with text: background as the text asks", Condition::Edit, Measure::Attribute(4)),
    ];
    let scales = tables::scales();
    drawn(|svg| {
        let root = SVGBackend::with_string(svg, (900, 420)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(-0.05..scales[scales.len() - 1] + 0.05, 0..1000)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(1)
            .y_label_formatter(&|share: &i32| format!("{} %", share / 10))
            .x_desc("λ")
            .draw()?;
        for (((label, condition, measure), colour), aside) in curves.into_iter().zip(COLOURS).zip([-0.01, 0.0, 0.01]) {
            let at = |scale: &f64| Some((scale + aside, results.mean(DEFAULT, (condition, *scale), measure)?));
            let points: Vec<(f64, Interval)> = scales.iter().filter_map(at).collect();
            let share = |share: f64| (share * 1000.0).round() as i32;
            let line = LineSeries::new(points.iter().map(|(x, found)| (*x, share(found.mean))), colour.stroke_width(2));
            let sample = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2));
            chart.draw_series(line)?.label(label).legend(sample);
            let bar = |(x, found): &(f64, Interval)| {
                PathElement::new([(*x, share(found.low)), (*x, share(found.high))], colour.stroke_width(3))
            };
            chart.draw_series(points.iter().map(bar))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.2))
            .draw()?;
        Ok(root.present()?)
    })
}

fn drawn(draw: impl FnOnce(&mut String) -> Drawn) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg).map_err(|error| anyhow!("it cannot be drawn: {error}"))?;
    Ok(svg)
}
