//! The demo's report.

use ipa_metrics::{Interval, Picture, Report, Series, encode_png};
use ipa_pocket::mascot;

use super::DemoReport;
use super::evaluation::Measure;
use super::pictures::{Grid, SCALES, SIDE};
use crate::check::Checked;

/// The page that one looks at.
pub(crate) fn html(report: &DemoReport, checks: &[Checked], grid: &Grid) -> String {
    let mut page = Report::new("An image-prompt adapter from five pictures", "Pocket model, classic adapter");
    page.paragraph(
        "The base model has never seen a pip. Its adapter was trained on the five pictures below; everything after \
         them shows pictures of pips that it was not trained on.",
    );
    page.pictures("Trained on", &training_pictures());
    strengths(&mut page, grid);
    measures(&mut page, report);
    checked(&mut page, report, checks);
    training(&mut page, report);
    page.to_html()
}

fn training_pictures() -> Vec<Picture> {
    let picture = |scene| Picture { label: mascot::caption(scene), png: encode_png(&mascot::render(scene, SIDE)) };
    mascot::training().iter().map(picture).collect()
}

fn strengths(page: &mut Report, grid: &Grid) {
    let columns: Vec<String> =
        ["before", "after"].iter().flat_map(|time| SCALES.map(|scale| format!("{time}, λ = {scale}"))).collect();
    let columns: Vec<String> = std::iter::once("reference".to_owned()).chain(columns).collect();
    let labels: Vec<String> = (1..=grid.rows.len()).map(|row| format!("held-out {row}")).collect();
    let cells: Vec<Vec<Option<Vec<u8>>>> = grid
        .references
        .iter()
        .zip(&grid.rows)
        .map(|(reference, row)| {
            std::iter::once(reference).chain(row).map(|picture| Some(encode_png(picture))).collect()
        })
        .collect();
    page.section("Before and after");
    page.paragraph(
        "Drawn without any text, from the same noise along each row. λ is the strength of the image prompt: at 0 the \
         adapter adds nothing.",
    );
    page.picture_grid(&labels, &columns, &cells);
}

fn measures(page: &mut Report, report: &DemoReport) {
    let comparison = &report.comparison;
    page.section("Measured");
    page.paragraph(&format!(
        "Over {} held-out pictures, {} seeds each, λ = 1, no text. CLIP-I is the cosine of picture and reference in a \
         CLIP that is not the adapter's own; the colours are judged from pixels. In brackets: 95 % bootstrap intervals \
         over the references, the difference paired.",
        comparison.num_references, comparison.num_seeds
    ));
    let row = |name: &str, Measure { before, after, difference }: &Measure| {
        let cell = |interval: &Interval| format!("{interval:.3}");
        vec![name.to_owned(), cell(before), cell(after), cell(difference)]
    };
    page.table(
        &["", "before", "after", "difference"],
        &[row("CLIP-I", &comparison.clip_i), row("Subject's colours found", &comparison.subject_colors)],
    );
}

fn checked(page: &mut Report, report: &DemoReport, checks: &[Checked]) {
    page.section("Checked");
    let pictures: Vec<Picture> = checks
        .iter()
        .flat_map(|checked| {
            let name = &checked.case.name;
            [(format!("{name}, reference"), &checked.case.reference), (format!("{name}, drawn"), &checked.picture)]
        })
        .map(|(label, picture)| Picture { label, png: encode_png(picture) })
        .collect();
    page.pictures("References with their captions as prompts, λ = 1", &pictures);
    page.scores(&report.checks);
}

fn training(page: &mut Report, report: &DemoReport) {
    let points = (1..).zip(&report.losses).map(|(step, loss)| (f64::from(step), *loss)).collect();
    page.section("Training");
    page.smoothed_chart("Loss", "step", "loss", &[Series { name: "loss".to_owned(), points }], 25);
    let settings = &report.settings;
    let mut facts = vec![
        ("Steps", report.losses.len().to_string()),
        ("Learning rate", settings.learning_rate.to_string()),
        ("Weight decay", settings.weight_decay.to_string()),
        ("Seed", settings.seed.to_string()),
    ];
    let seconds = report.seconds.iter().map(|(name, seconds)| (*name, format!("{seconds:.1} s")));
    facts.extend(seconds);
    facts.extend(report.machine.iter().cloned());
    page.key_values(&facts);
}
