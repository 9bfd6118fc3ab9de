//! Line charts: what they show, and the words around the drawing.

use maud::{Markup, PreEscaped, html};

use super::plot::{NARROW, NUM_COLOURS, ROOMY, svg};

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
    pub(super) fn smoothed(&self, window: usize) -> Self {
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

/// A line chart of all series over common axes.
///
/// Values that are not finite are left out and counted below the chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub(super) title: String,
    pub(super) labels: [String; 2],
    pub(super) series: Vec<Series>,
    pub(super) window: Option<usize>,
    pub(super) mark: Option<Mark>,
}

/// A place on the x axis, and what is there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mark {
    pub(super) x: f64,
    pub(super) label: String,
}

impl Chart {
    /// Plain curves; the labels are those of the x and the y axis.
    pub fn new(title: impl Into<String>, labels: [&str; 2], series: Vec<Series>) -> Self {
        Self { title: title.into(), labels: labels.map(str::to_owned), series, window: None, mark: None }
    }

    /// For noisy curves such as losses: every series thin, its running mean over `window` points bold.
    ///
    /// # Panics
    /// If `window` is even: only an odd one has a middle, and its mean lies neither before nor behind the curve.
    #[must_use]
    pub fn smoothed(self, window: usize) -> Self {
        assert!(window % 2 == 1, "the window has a middle");
        Self { window: Some(window), ..self }
    }

    /// A dashed line at `x`, and in the legend what is there.
    #[must_use]
    pub fn marked(self, x: f64, label: impl Into<String>) -> Self {
        Self { mark: Some(Mark { x, label: label.into() }), ..self }
    }

    /// Drawn over the whole width, and once more for narrow screens.
    pub(super) fn figure(&self) -> Markup {
        self.around(|chart| {
            html! {
                div.roomy { (PreEscaped(svg(chart, &chart.description(), &ROOMY))) }
                div.narrow { (PreEscaped(svg(chart, &chart.description(), &NARROW))) }
            }
        })
    }

    /// Drawn small, to stand beside others.
    pub(super) fn small_figure(&self) -> Markup {
        self.around(|chart| PreEscaped(svg(chart, &chart.description(), &NARROW)))
    }

    /// The frame, with a drawing of those values that can be drawn.
    fn around(&self, drawing: impl FnOnce(&Self) -> Markup) -> Markup {
        let drawable = Self { series: self.series.iter().map(Series::drawable).collect(), ..self.clone() };
        let left_out = self.num_points() - drawable.num_points();
        html! {
            figure.card.chart {
                h3 { (self.title) }
                @if drawable.num_points() == 0 {
                    p.note { "There are no values to draw." }
                } @else {
                    (drawable.legend())
                    (drawing(&drawable))
                }
                @if let Some(window) = self.window {
                    p.note { "Thin: every value. Bold: mean over " (window) " values." }
                }
                @if left_out > 0 { p.note { "Values left out because they are not finite: " (left_out) "." } }
            }
        }
    }

    fn num_points(&self) -> usize {
        self.series.iter().map(|series| series.points.len()).sum()
    }

    fn legend(&self) -> Markup {
        html! {
            ul.legend {
                @for (index, series) in self.series.iter().enumerate() {
                    li { span class={ "swatch colour-" (index % NUM_COLOURS) } {} (series.name) }
                }
                @if let Some(mark) = &self.mark { li { span.swatch.dashed {} (mark.label) } }
            }
        }
    }

    /// The chart in words.
    fn description(&self) -> String {
        let ends = self.series.iter().filter_map(|series| {
            let ((first_x, first_y), (last_x, last_y)) = (series.points.first()?, series.points.last()?);
            Some(format!("; {}: {first_y:.4} at {first_x}, {last_y:.4} at {last_x}", series.name))
        });
        let mark = self.mark.as_ref().map(|mark| format!("; {} at {}", mark.label, mark.x)).unwrap_or_default();
        let [x_label, y_label] = &self.labels;
        format!("{}: {y_label} against {x_label}{}{mark}", self.title, ends.collect::<String>())
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

    fn chart(points: &[(f64, f64)]) -> Chart {
        Chart::new("Loss", ["step", "loss"], vec![series(points)])
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
        let lines = |chart: Chart| chart.small_figure().into_string().matches("<polyline").count();
        assert_eq!(lines(chart(&points).smoothed(9)) - lines(chart(&points)), 1);
    }

    #[test]
    fn a_full_chart_is_drawn_for_both_kinds_of_screens_and_a_small_one_once() {
        let chart = chart(&[(0.0, 1.0), (1.0, 2.0)]);
        let drawings = |markup: Markup| markup.into_string().matches("<svg").count();
        assert_eq!([drawings(chart.figure()), drawings(chart.small_figure())], [2, 1]);
    }

    #[test]
    fn a_mark_is_drawn_named_and_told() {
        let plain = chart(&[(0.0, 1.0), (9.0, 2.0)]);
        let marked = plain.clone().marked(4.0, "best");
        let html = marked.small_figure().into_string();
        assert!(html.contains("dashed\"></span>best</li>") && html.contains("; best at 4"), "{html}");
        assert!(html.len() > plain.small_figure().into_string().len() + 500, "no line of dashes");
        let outside = plain.clone().marked(1e6, "best").small_figure().into_string();
        assert_eq!(
            outside.matches("<polyline").count(),
            plain.small_figure().into_string().matches("<polyline").count()
        );
    }

    #[test]
    fn values_that_are_not_finite_are_counted_and_left_out() {
        let html = chart(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, 2.0)]).figure().into_string();
        assert!(html.contains("not finite: 2."));
        assert!(!html.contains("NaN") && !html.contains("inf"));
        assert!(chart(&[(0.0, f64::NAN)]).smoothed(5).figure().into_string().contains("no values to draw"));
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
            let html = chart(&points).smoothed(3).marked(1.0, "best").figure().into_string();
            assert!(html.contains("<svg"), "{points:?}");
        }
    }
}
