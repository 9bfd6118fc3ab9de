//! The numbers as Markdown.

use std::fmt::Write as _;

use ipa::metrics::Interval;

use crate::arms::{self, Arm, DEFAULT, Direction, Expectation, How, PAIRS};
use crate::draw::{Condition, SCALE, SWEPT};
use crate::results::{Difference, Measure, Results};

/// What a column of a condition's tables shows.
pub(crate) fn columns(condition: Condition) -> Vec<(&'static str, Measure)> {
    let mut columns = vec![("CLIP-I", Measure::ClipI), ("CLIP-T", Measure::ClipT)];
    let (sum, background) = match condition {
        Condition::Image | Condition::Both => (("all five", Measure::Share(5)), "background"),
        Condition::Edit => (("the four kept", Measure::Share(4)), "background asked for"),
    };
    columns.push(sum);
    columns.extend(
        (0..).zip(["colour", "shape", "fill", "style", background]).map(|(bit, name)| (name, Measure::Attribute(bit))),
    );
    columns
}

/// The arms that were run, in the order of the tables.
pub(crate) fn arms_of(results: &Results) -> Vec<Arm> {
    arms::all().into_iter().filter(|arm| results.of_arm(arm.name).next().is_some()).collect()
}

/// What each arm is, what it trains and how long.
pub(crate) fn arms(results: &Results) -> String {
    let mut table = head(["arm", "what it is", "trained numbers", "minutes of training"].into_iter());
    for arm in arms_of(results) {
        let runs: Vec<_> = results.of_arm(arm.name).collect();
        let seconds = runs.iter().map(|run| run.seconds_a_step).sum::<f64>() / runs.len() as f64;
        let (trained, minutes) = match arm.how {
            How::TextOnly => ("none".to_owned(), "none".to_owned()),
            How::Trained(_) | How::FromRandomKeys => (
                format!("{:.2} M", runs[0].parameters as f64 / 1e6),
                format!("{:.1}", seconds * results.settings().steps as f64 / 60.0),
            ),
        };
        line(&mut table, [format!("`{}`", arm.name), arm.what.to_owned(), trained, minutes]);
    }
    table
}

/// How much of everything, and on what machine.
pub(crate) fn extent(results: &Results) -> String {
    let settings = results.settings();
    let mut seeds: Vec<u64> = results.runs.iter().map(|run| run.seed).collect();
    let mut machines: Vec<String> = results
        .runs
        .iter()
        .map(|run| {
            format!("{} with {} cores, {} runs at once", run.machine.system, run.machine.cores, run.machine.jobs)
        })
        .collect();
    seeds.sort_unstable();
    seeds.dedup();
    machines.sort();
    machines.dedup();
    let seconds: f64 = results.runs.iter().map(|run| run.seconds_a_step * settings.steps as f64).sum();
    format!(
        "{} arms, seeds {}. Training: {} steps of {} rows, of {} scenes of the training split. Drawing: {} references of \
         held-out combinations, {} steps of DDIM, guidance 7.5. Machine: {}. All steps together took {:.1} hours of one run.\n",
        arms_of(results).len(),
        seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        settings.steps,
        settings.batch,
        settings.num_scenes,
        settings.num_references,
        settings.drawing_steps,
        machines.join("; "),
        seconds / 3600.0
    )
}

/// Means of every arm, then differences.
pub(crate) fn condition(results: &Results, condition: Condition) -> String {
    let columns = columns(condition);
    let mut means = head(["arm"].into_iter().chain(columns.iter().map(|(name, _)| *name)));
    for arm in arms_of(results) {
        let cell = |(_, measure): &(_, Measure)| mean(results.mean(arm.name, (condition, SCALE), *measure), *measure);
        line(&mut means, std::iter::once(format!("`{}`", arm.name)).chain(columns.iter().map(cell)));
    }
    let mut differences = head(["arm, less"].into_iter().chain(columns.iter().map(|(name, _)| *name)));
    for (arm, against) in pairs(results) {
        let cell =
            |(_, measure): &(_, Measure)| difference(results.difference((arm, against), condition, *measure), *measure);
        line(&mut differences, std::iter::once(format!("`{arm}`, `{against}`")).chain(columns.iter().map(cell)));
    }
    format!("{means}\n{differences}")
}

/// Every arm with the default, then those that differ in one thing from another.
pub(crate) fn pairs(results: &Results) -> Vec<(&'static str, &'static str)> {
    let is_there = |name: &str| results.of_arm(name).next().is_some();
    let others = arms::all().into_iter().map(|arm| (arm.name, DEFAULT)).filter(|(arm, _)| *arm != DEFAULT);
    others.chain(PAIRS).filter(|(arm, against)| is_there(arm) && is_there(against)).collect()
}

/// The strengths that the default was drawn at.
pub(crate) fn scales() -> Vec<f64> {
    let mut scales: Vec<f64> = SWEPT.into_iter().chain([SCALE]).collect();
    scales.sort_by(f64::total_cmp);
    scales
}

/// The default at every λ: the reference alone, then with the text that asks for another background.
pub(crate) fn sweep(results: &Results) -> String {
    let shown = [
        (Condition::Image, "alone: CLIP-I", Measure::ClipI),
        (Condition::Image, "all five", Measure::Share(5)),
        (Condition::Edit, "with the text: CLIP-I", Measure::ClipI),
        (Condition::Edit, "CLIP-T", Measure::ClipT),
        (Condition::Edit, "the four kept", Measure::Share(4)),
        (Condition::Edit, "background asked for", Measure::Attribute(4)),
    ];
    let mut table = head(["λ"].into_iter().chain(shown.iter().map(|(_, name, _)| *name)));
    for scale in scales() {
        let cell = |(condition, _, measure): &(Condition, _, Measure)| {
            ranged(results.mean(DEFAULT, (*condition, scale), *measure), *measure)
        };
        line(&mut table, std::iter::once(scale.to_string()).chain(shown.iter().map(cell)));
    }
    table
}

/// What the paper leads one to expect, and what came of it here.
pub(crate) fn paper(results: &Results) -> String {
    let mut list = String::new();
    for arm in arms_of(results) {
        let Some(Expectation { says, against, direction }) = arm.paper else { continue };
        let found = results.difference((arm.name, against), Condition::Image, Measure::ClipI);
        let Some(found) = found else { continue };
        let verdict = verdict(direction, &found);
        let Interval { mean, low, high } = found.interval;
        writeln!(
            list,
            "- The paper: {says}. Here, CLIP-I of `{}` less that of `{against}` is {mean:+.3} ({low:+.3} to {high:+.3}; by \
             seed {}): {verdict}.",
            arm.name,
            found.by_seed.iter().map(|mean| format!("{mean:+.3}")).collect::<Vec<_>>().join(", "),
        )
        .expect("text takes more text");
    }
    list
}

fn verdict(direction: Direction, found: &Difference) -> &'static str {
    let is_higher = found.interval.mean > 0.0;
    match (direction, found.is_clear()) {
        (Direction::Higher, true) if is_higher => "so it is",
        (Direction::Lower | Direction::NotHigher, true) if !is_higher => "so it is",
        (_, true) => "it is the other way round",
        (Direction::NotHigher, false) => "nothing that speaks against it",
        (_, false) => "not shown, either way",
    }
}

fn is_share(measure: Measure) -> bool {
    matches!(measure, Measure::Attribute(_) | Measure::Share(_))
}

fn mean(found: Option<Interval>, measure: Measure) -> String {
    match found {
        None => "–".to_owned(),
        Some(Interval { mean, .. }) if is_share(measure) => format!("{:.0} %", 100.0 * mean),
        Some(Interval { mean, .. }) => format!("{mean:.3}"),
    }
}

fn ranged(found: Option<Interval>, measure: Measure) -> String {
    let Some(Interval { low, high, .. }) = found else { return "–".to_owned() };
    match is_share(measure) {
        true => format!("{} ({:.0} to {:.0})", mean(found, measure), 100.0 * low, 100.0 * high),
        false => format!("{} ({low:.3} to {high:.3})", mean(found, measure)),
    }
}

fn difference(found: Option<Difference>, measure: Measure) -> String {
    let Some(found) = found else { return "–".to_owned() };
    let Interval { mean, low, high } = found.interval;
    let text = match is_share(measure) {
        true => format!("{:+.0} ({:+.0} to {:+.0})", 100.0 * mean, 100.0 * low, 100.0 * high),
        false => format!("{mean:+.3} ({low:+.3} to {high:+.3})"),
    };
    if found.is_clear() { format!("**{text}**") } else { text }
}

fn head<'a>(names: impl Iterator<Item = &'a str> + Clone) -> String {
    let rule = "---|".repeat(names.clone().count());
    format!("| {} |\n|{rule}\n", names.collect::<Vec<_>>().join(" | "))
}

fn line(table: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    writeln!(table, "| {} |", cells.join(" | ")).expect("text takes more text");
}
