//! Curves over the steps.

use ipa_metrics::{Chart, Report, Series};

use super::{ReportInput, number, score_name};
use crate::watch::ranges::{NUM_RANGES, Ranges};
use crate::watch::smooth::SmoothedMean;

pub(super) fn training(page: &mut Report, input: &ReportInput) {
    page.section("Training");
    if input.losses.is_empty() {
        page.paragraph("No step was recorded.");
        return;
    }
    let losses = points(input, |line| Some(line.loss));
    let window = (losses.len() / 40).clamp(5, 501) | 1;
    let loss = Chart::new("Loss", ["step", "loss"], vec![series("loss", losses)]).smoothed(window);
    page.chart(&marked(loss, input));
    by_range(page, input);
    let learning_rate = points(input, |line| line.learning_rate.map(f64::from));
    let grad_norm = points(input, |line| line.grad_norm.map(f64::from));
    let mut charts = Vec::new();
    let mut missing = Vec::new();
    match learning_rate.is_empty() {
        true => missing.push("learning rate"),
        false => charts.push(Chart::new("Learning rate", ["step", ""], vec![series("learning rate", learning_rate)])),
    }
    match grad_norm.is_empty() {
        true => missing.push("gradient norm"),
        false => {
            let chart = Chart::new("Gradient norm", ["step", ""], vec![series("before clipping", grad_norm)]);
            charts.push(chart.smoothed(window));
        }
    }
    if !charts.is_empty() {
        page.charts(&charts);
    }
    if !missing.is_empty() {
        page.paragraph(&format!("Not recorded: {}.", missing.join(", ")));
    }
}

/// Smoothed: single rows say nothing, and curves over one another hide each other.
fn by_range(page: &mut Report, input: &ReportInput) {
    let mut means = [SmoothedMean::default(); NUM_RANGES];
    let mut curves: [Vec<(f64, f64)>; NUM_RANGES] = Default::default();
    for line in input.losses {
        for ((mean, curve), loss) in means.iter_mut().zip(&mut curves).zip(line.ranges) {
            loss.into_iter().for_each(|loss| mean.add(f64::from(loss)));
            curve.extend(loss.and(mean.value()).map(|mean| (line.step as f64, mean)));
        }
    }
    let bounds = Ranges::new(input.timesteps.clone()).bounds();
    let named = bounds.iter().zip(curves).filter(|(_, curve)| !curve.is_empty());
    let curves: Vec<Series> = named.map(|((first, last), curve)| series(&format!("{first} – {last}"), curve)).collect();
    if curves.is_empty() {
        page.paragraph("The losses of single rows were not recorded, so there are none by timestep.");
        return;
    }
    page.chart(&marked(Chart::new("Loss by timestep", ["step", "squared error"], curves), input));
    page.paragraph(
        "Exponential means over rows, without weights. Where a model predicts noise, little of it (small timesteps) is the \
         hardest to tell from the picture and has the largest error; the ranges are to be compared with themselves.",
    );
}

pub(super) fn validation(page: &mut Report, input: &ReportInput) {
    page.section("Validation");
    if input.validations.is_empty() {
        page.paragraph(
            "There was none. With `held_out` and `every` in the section `validation` of the configuration, rows are kept \
             out of the training to measure the loss on and to draw from.",
        );
        return;
    }
    let losses = input.validations.iter().filter_map(|result| Some((result.step as f64, result.loss?)));
    let losses: Vec<(f64, f64)> = losses.collect();
    match losses.is_empty() {
        true => page.paragraph("No held-out loss was measured."),
        false => {
            let chart = Chart::new("Held-out loss", ["step", "loss"], vec![series("held-out loss", losses)]);
            page.chart(&marked(chart, input))
        }
    };
    scores(page, input);
}

/// A chart a score, since their scales differ, and all numbers below.
fn scores(page: &mut Report, input: &ReportInput) {
    let mut names: Vec<&str> =
        input.validations.iter().flat_map(|result| result.scores.keys().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        page.paragraph("No pictures were scored.");
        return;
    }
    let chart = |name: &&str| {
        let values =
            input.validations.iter().filter_map(|result| Some((result.step as f64, *result.scores.get(*name)?)));
        let name = score_name(name);
        marked(Chart::new(capitalised(&name), ["step", ""], vec![series(&name, values.collect())]), input)
    };
    page.charts(&names.iter().map(chart).collect::<Vec<_>>());
    let header: Vec<String> =
        ["step", "loss"].map(score_name).into_iter().chain(names.iter().copied().map(score_name)).collect();
    let rows = input.validations.iter().map(|result| {
        let cell = |value: Option<f64>| value.map_or("–".to_owned(), number);
        let scores = names.iter().map(|name| cell(result.scores.get(*name).copied()));
        [result.step.to_string(), cell(result.loss)].into_iter().chain(scores).collect()
    });
    page.table(&header, &rows.collect::<Vec<_>>());
}

fn marked(chart: Chart, input: &ReportInput) -> Chart {
    match &input.best {
        Some(best) => chart.marked(best.step as f64, format!("best, step {}", best.step)),
        None => chart,
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

fn series(name: &str, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.to_owned(), points }
}

fn points(input: &ReportInput, value: impl Fn(&super::StepLoss) -> Option<f64>) -> Vec<(f64, f64)> {
    input.losses.iter().filter_map(|line| Some((line.step as f64, value(line)?))).collect()
}
