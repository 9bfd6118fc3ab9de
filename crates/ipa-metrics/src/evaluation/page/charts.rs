//! Charts with intervals, as SVG.

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Interval;
use crate::report::plot::{Canvas, GRID, INK, NARROW, NUM_COLOURS, PALETTE, ROOMY, described, range, tick};

/// Beyond this, points of a scatter cover each other.
const MAX_POINTS: usize = 800;
/// Characters of a bar's name.
const MAX_NAME: usize = 18;

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// What a chart shows, in words.
pub(super) struct Words<'a> {
    pub(super) title: &'a str,
    /// Of the two axes.
    pub(super) labels: [&'a str; 2],
    pub(super) note: &'a str,
}

/// A method's values; `colour` counts the methods of the report, so that each has one colour on the whole page.
pub(super) struct Group<'a, T> {
    pub(super) name: &'a str,
    pub(super) colour: usize,
    pub(super) values: Vec<T>,
}

/// Means with their intervals over x.
pub(super) fn sweep(words: &Words<'_>, groups: &[Group<'_, (f64, Interval)>]) -> Markup {
    let points = |(x, interval): &(f64, Interval)| format!("{interval:.3} at {x}");
    let draw = |root: &Area<'_>, canvas: &Canvas| -> Drawn {
        let values = || groups.iter().flat_map(|group| &group.values);
        let x_range = range(values().map(|(x, _)| *x), 0.06);
        let y_range = range(values().flat_map(|(_, y)| [y.low, y.high]), 0.08);
        let mut plot = axes(root, canvas, words.labels, x_range, y_range)?;
        for group in groups {
            let colour = colour(group.colour);
            let means = group.values.iter().map(|(x, y)| (*x, y.mean));
            plot.draw_series(LineSeries::new(means.clone(), colour.stroke_width(4)))?;
            plot.draw_series(means.map(|point| Circle::new(point, 7, colour.filled())))?;
            for (x, Interval { low, high, .. }) in &group.values {
                whisker(&mut plot, [(*x, *low), (*x, *high)], colour)?;
            }
        }
        Ok(())
    };
    figure(words, &legend(groups), &description(words, groups, points), draw, &[NARROW])
}

/// Points by two cosines, and the mean of each group as a cross as wide as its intervals.
pub(super) fn scatter(words: &Words<'_>, groups: &[Group<'_, (f64, f64)>], means: &[Option<[Interval; 2]>]) -> Markup {
    let draw = |root: &Area<'_>, canvas: &Canvas| -> Drawn {
        let all = || groups.iter().flat_map(|group| &group.values);
        let mut plot =
            axes(root, canvas, words.labels, range(all().map(|p| p.0), 0.06), range(all().map(|p| p.1), 0.06))?;
        for group in groups {
            let step = group.values.len().div_ceil(MAX_POINTS).max(1);
            let colour = colour(group.colour).mix(0.45).filled();
            plot.draw_series(group.values.iter().step_by(step).map(|point| Circle::new(*point, 6, colour)))?;
        }
        for (group, mean) in groups.iter().zip(means) {
            if let Some([x, y]) = mean {
                let line = colour(group.colour).stroke_width(5);
                let across = [(x.low, y.mean), (x.high, y.mean)];
                plot.draw_series(
                    [across, [(x.mean, y.low), (x.mean, y.high)]].map(|ends| PathElement::new(ends, line)),
                )?;
            }
        }
        Ok(())
    };
    let points = |(x, y): &(f64, f64)| format!("({x:.3}, {y:.3})");
    figure(words, &legend(groups), &description(words, groups, points), draw, &[ROOMY, NARROW])
}

/// Horizontal bars from 0, a group of them for each name; a whisker where there is an interval.
pub(super) fn bars(words: &Words<'_>, names: &[&str], groups: &[Group<'_, Option<Interval>>]) -> Markup {
    let lanes = groups.len() as f64 + 1.0; // and a gap
    let draw = |root: &Area<'_>, canvas: &Canvas| -> Drawn {
        let values = || groups.iter().flat_map(|group| group.values.iter().flatten());
        let low = values().fold(0.0_f64, |low, value| low.min(value.low));
        let high = values().fold(f64::MIN_POSITIVE, |high, value| high.max(value.high));
        let height = names.len() as f64;
        let mut plot = ChartBuilder::on(root)
            .margin_top(8)
            .margin_right(32)
            .x_label_area_size(3 * canvas.text)
            .y_label_area_size(7 * canvas.text)
            .build_cartesian_2d(low..high * 1.04, -height..0.0)?;
        let text = ("sans-serif", canvas.text).into_font().color(&INK);
        plot.configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(2))
            .axis_style(GRID.stroke_width(2))
            .label_style(text.clone())
            .axis_desc_style(text.clone())
            .x_desc(words.labels[0])
            .x_labels(canvas.ticks)
            .y_labels(0)
            .x_label_formatter(&|value| tick(*value, high - low))
            .draw()?;
        let beside = text.pos(Pos::new(HPos::Right, VPos::Center));
        for (row, name) in names.iter().enumerate() {
            let label = Text::new(shortened(name), (-12, 0), beside.clone());
            plot.draw_series([EmptyElement::at((low, -(row as f64) - 0.5)) + label])?;
            for (lane, group) in groups.iter().enumerate() {
                let Some(value) = group.values[row] else { continue };
                let top = -(row as f64) - (lane as f64 + 0.5) / lanes;
                let (corner, other) = ((0.0, top), (value.mean, top - 0.86 / lanes));
                plot.draw_series([Rectangle::new([corner, other], colour(group.colour).mix(0.65).filled())])?;
                if value.low < value.high {
                    let middle = (corner.1 + other.1) / 2.0;
                    whisker(&mut plot, [(value.low, middle), (value.high, middle)], colour(group.colour))?;
                }
            }
        }
        Ok(())
    };
    let points = |value: &Option<Interval>| value.map(|value| format!("{:.3}", value.mean)).unwrap_or("–".to_owned());
    let height = |text: u32| 4 * text + (names.len() * (groups.len() + 1)) as u32 * text;
    let sized = |canvas: Canvas| Canvas { size: (canvas.size.0, height(canvas.text)), ..canvas };
    let described = format!("{} for {}", description(words, groups, points), names.join(", "));
    figure(words, &legend(groups), &described, draw, &[sized(ROOMY), sized(NARROW)])
}

fn axes<'a, 'b>(
    root: &'a Area<'b>,
    canvas: &Canvas,
    labels: [&str; 2],
    x_range: std::ops::Range<f64>,
    y_range: std::ops::Range<f64>,
) -> Result<Plot<'a, 'b>, DrawingAreaErrorKind<std::io::Error>> {
    let (x_span, y_span) = (x_range.end - x_range.start, y_range.end - y_range.start);
    let mut plot = ChartBuilder::on(root)
        .margin_top(16)
        .margin_right(32)
        .x_label_area_size(3 * canvas.text)
        .y_label_area_size(4 * canvas.text)
        .build_cartesian_2d(x_range, y_range)?;
    let text = ("sans-serif", canvas.text).into_font().color(&INK);
    plot.configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.stroke_width(2))
        .axis_style(GRID.stroke_width(2))
        .label_style(text.clone())
        .axis_desc_style(text)
        .x_desc(labels[0])
        .y_desc(labels[1])
        .x_labels(canvas.ticks)
        .y_labels(5)
        .x_label_formatter(&|value| tick(*value, x_span))
        .y_label_formatter(&|value| tick(*value, y_span))
        .draw()?;
    Ok(plot)
}

fn whisker(plot: &mut Plot<'_, '_>, ends: [(f64, f64); 2], colour: RGBColor) -> Drawn {
    plot.draw_series([PathElement::new(ends, colour.stroke_width(4))]).map(drop)
}

/// The frame with a drawing for each kind of screen: the last is for narrow ones, or for all if it is alone.
fn figure(
    words: &Words<'_>,
    legend: &Markup,
    description: &str,
    draw: impl Fn(&Area<'_>, &Canvas) -> Drawn,
    canvases: &[Canvas],
) -> Markup {
    let svg = |canvas: &Canvas| {
        let mut drawing = String::new();
        {
            let root = SVGBackend::with_string(&mut drawing, canvas.size).into_drawing_area();
            let drawn = draw(&root, canvas).and_then(|()| root.present());
            drawn.expect("drawing into a string does not fail");
        }
        PreEscaped(described(&drawing, description, canvas.size))
    };
    html! {
        figure.card.chart {
            h3 { (words.title) }
            (legend)
            @match canvases {
                [roomy, narrow] => { div.roomy { (svg(roomy)) } div.narrow { (svg(narrow)) } },
                _ => @for canvas in canvases { (svg(canvas)) },
            }
            @if !words.note.is_empty() { figcaption.note { (words.note) } }
        }
    }
}

fn legend<T>(groups: &[Group<'_, T>]) -> Markup {
    html! {
        ul.legend {
            @for group in groups { li { span class={ "swatch colour-" (group.colour % NUM_COLOURS) } {} (group.name) } }
        }
    }
}

/// The chart in words; of many values the first and the last.
fn description<T>(words: &Words<'_>, groups: &[Group<'_, T>], told: impl Fn(&T) -> String) -> String {
    let values = |group: &Group<'_, T>| match group.values.as_slice() {
        [first, .., last] if group.values.len() > 6 => {
            format!("{} values from {} to {}", group.values.len(), told(first), told(last))
        }
        values => values.iter().map(&told).collect::<Vec<_>>().join(", "),
    };
    let groups = groups.iter().map(|group| format!("; {}: {}", group.name, values(group))).collect::<String>();
    format!("{}{groups}", words.title)
}

fn colour(index: usize) -> RGBColor {
    PALETTE[index % PALETTE.len()]
}

fn shortened(name: &str) -> String {
    match name.chars().count() > MAX_NAME {
        true => name.chars().take(MAX_NAME - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}
